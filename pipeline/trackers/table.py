"""The table of trackers. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.trackers.base import Tracker
from dualprune.pipeline.trackers.mirror import Mirror
from dualprune.pipeline.trackers.tensorboard import TensorBoard
from dualprune.pipeline.trackers.wandb.mode import choose
from dualprune.pipeline.trackers.wandb.tracker import WandB
from dualprune.stages.files.folder import Folder


@dataclass(frozen=True)
class Given:
    """What a tracker is made from."""

    settings: Monitor
    run: str
    store: Folder
    folder: Path
    """Of its files: the same for all drivers of the run."""
    tell: Callable[[str], None]
    """Hears what a person should know."""


def _wandb(given: Given) -> Tracker | None:
    settings = given.settings
    choice = choose(settings.wandb)
    given.tell(f"W&B: {choice.mode} {choice.why}")
    if choice.mode == "disabled":
        return None
    return WandB(choice, settings.project, given.run, given.store, given.folder, given.tell, settings.upload)


def _tensorboard(given: Given) -> Tracker | None:
    if not given.settings.tensorboard:
        return None
    given.tell(f"TensorBoard: tensorboard --logdir {given.folder / 'tensorboard'}")
    return TensorBoard(given.folder / "tensorboard")


TRACKERS: dict[str, Callable[[Given], Tracker | None]] = {"W&B": _wandb, "TensorBoard": _tensorboard}
"""Each makes a tracker, if it is wanted, and tells how it shows a run."""


def mirror(given: Given) -> Mirror:
    """All trackers that are wanted of a run."""
    made = {name: make(given) for name, make in TRACKERS.items()}
    return Mirror(given.run, given.store, {name: one for name, one in made.items() if one is not None}, given.tell)

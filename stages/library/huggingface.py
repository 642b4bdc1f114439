"""The pruner within the Trainer of transformers, as a callback. It needs `dualprune[transformers]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dualprune.stages.library.pruner import Pruner
from dualprune.stages.library.schedule import Schedule
from dualprune.stages.settings.sets import AnySet

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    text = "TransformersCallback needs transformers, which is not installed: pip install 'dualprune[transformers]'"
    raise ModuleNotFoundError(text, name=error.name) from None

FILE = "dualprune.pt"
"""The pruner's state in each of the Trainer's checkpoints."""


class TransformersCallback(TrainerCallback):  # type: ignore[misc]
    """Updates every `every` optimizer steps, `updates` times; projects with the last, and the rest is retraining.

    The pruner's state is saved in each of the Trainer's checkpoints, and read when training goes on from one.
    `settings` are those of Pruner. Raises ValueError for settings that make no sense.
    """

    def __init__(self, constraints: Sequence[AnySet], rho: float, *, every: int, updates: int, **settings: Any) -> None:
        self.schedule = Schedule(every, updates)
        self.arguments = {"constraints": constraints, "rho": rho, **settings}
        self.pruner: Pruner | None = None
        """Once training has begun."""
        self.history: list[dict[str, float]] = []
        """Of each update: step, residuals, rho; of the last one, what the projection did."""
        self._step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **there: Any) -> None:
        """Begin, or go on from the checkpoint that the Trainer goes on from.

        Raises ValueError for a training that would not end pruned, FileNotFoundError for a checkpoint without state.
        """
        self.schedule.check(state.max_steps)
        if args.load_best_model_at_end:
            raise ValueError("load_best_model_at_end: the best weights may be of before the projection; leave it out")
        if self.pruner is not None:
            self.pruner.unwrap()
        self.pruner = Pruner(there["model"], **self.arguments)
        self.pruner.wrap(there["optimizer"])
        if state.global_step:
            self.pruner.load_state_dict(torch.load(_found(args, state), map_location="cpu", weights_only=True))
        self._step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **there: Any) -> None:
        """Update and project where it is time."""
        assert self.pruner is not None
        before, self._step = self._step, state.global_step
        if row := self.schedule.stepped(self.pruner, before, self._step):
            self.history.append({"step": state.global_step, **row})

    def on_save(self, args: Any, state: Any, control: Any, **there: Any) -> None:
        """Put the pruner's state into the checkpoint that was just written."""
        assert self.pruner is not None
        found = self.pruner.state_dict()
        if state.is_world_process_zero:
            torch.save(found, _folder(args, state) / FILE)


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir, f"checkpoint-{state.global_step}")


def _found(args: Any, state: Any) -> Path:
    """The state in the checkpoint that the Trainer began from, which it tells of only where that is among its own."""
    places = [Path(args.resume_from_checkpoint)] if isinstance(args.resume_from_checkpoint, str) else []
    places.append(_folder(args, state))
    for place in places:
        if (place / FILE).is_file():
            return place / FILE
    raise FileNotFoundError(
        f"training goes on from step {state.global_step}, and there is no {FILE} in {' or '.join(map(str, places))}:"
        " the checkpoint must be one that was written with this callback, in output_dir"
    )

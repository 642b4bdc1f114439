"""The pruner within Lightning's Trainer, as a callback. It needs `dualprune[lightning]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dualprune.stages.library.pruner import Pruner
from dualprune.stages.library.schedule import Schedule
from dualprune.stages.settings.sets import AnySet


def _base() -> Any:
    """Lightning's Callback, under either of the two names that it is installed by."""
    for package, module in (("lightning", "lightning.pytorch"), ("pytorch_lightning", "pytorch_lightning")):
        if find_spec(package) is not None:
            return import_module(module).Callback
    text = "LightningCallback needs lightning, which is not installed: pip install 'dualprune[lightning]'"
    raise ModuleNotFoundError(text, name="lightning")


class LightningCallback(_base()):  # type: ignore[misc]
    """Updates every `every` optimizer steps, `updates` times; projects with the last, and the rest is retraining.

    Lightning's checkpoints hold the pruner's state. Names of tensors are those of the LightningModule. `settings` are
    those of Pruner. Raises ValueError for settings that make no sense.
    """

    def __init__(self, constraints: Sequence[AnySet], rho: float, *, every: int, updates: int, **settings: Any) -> None:
        self.schedule = Schedule(every, updates)
        self.arguments = {"constraints": constraints, "rho": rho, **settings}
        self.pruner: Pruner | None = None
        """Once training has begun."""
        self.history: list[dict[str, float]] = []
        """Of each update: step, residuals, rho; of the last one, what the projection did. It is logged too."""
        self._step = 0
        self._loaded: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin, or go on from the checkpoint's state. Raises ValueError for a training that would not end pruned."""
        self.schedule.check(trainer.estimated_stepping_batches)
        if self.pruner is not None:
            self.pruner.unwrap()
        self.pruner = Pruner(pl_module, **self.arguments)
        for optimizer in trainer.optimizers:
            self.pruner.wrap(optimizer)
        if self._loaded is not None:
            self.pruner.load_state_dict(self._loaded)
        self._loaded, self._step = None, trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Update and project where it is time; batches that were only accumulated are no steps."""
        assert self.pruner is not None
        if trainer.global_step == self._step:
            return
        before, self._step = self._step, trainer.global_step
        if row := self.schedule.stepped(self.pruner, before, self._step):
            self.history.append({"step": self._step, **row})
            pl_module.log_dict(row)

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints."""
        return {} if self.pruner is None else self.pruner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From one of them; there is no pruner yet, as there are no optimizers."""
        self._loaded = state_dict or None

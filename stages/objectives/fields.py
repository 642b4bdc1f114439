"""Fields of batches and outputs of networks by their names: what objectives have in common. No torch until called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dualprune.stages.objectives.base import Batch
from dualprune.stages.settings.base import Settings, SpecError

if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100
"""Label of what stands in a bad sample's place, or is not known: `cross_entropy`'s `ignore_index`."""


class Args(Settings):
    """What every objective of arbitrary fields can be told."""

    inputs: list[str] | dict[str, str] = Field(default=["x"], min_length=1)
    """Fields that the network is called with: in order, or each by the name of a parameter of its."""
    output: str | int | None = None
    """Which of a network's several outputs, by name or place; left out: `logits`, or the first."""
    target: str = "target"
    """The field that outputs are compared with."""


def channels_last(pictures: Tensor) -> Tensor:
    """Pictures as convolutions run faster on CPU and GPU alike (LeNet-5 on one core: 1.7 times)."""
    import torch

    if pictures.ndim != 4:
        return pictures
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    if pictures.shape[1] == 1:
        # Both orders are the same memory then, and torch takes it for the slow one unless the strides tell.
        height, width = pictures.shape[2:]
        pictures = pictures.as_strided(pictures.shape, (height * width, 1, width, 1))
    return pictures


def field(batch: Batch, name: str, setting: str) -> Tensor:
    """A batch's field. Raises SpecError for one that the data has not."""
    if name not in batch:
        raise SpecError(
            [(("objective", "args", setting), f"the data has no field {name!r}; it has {', '.join(batch)}")]
        )
    return batch[name]


def called(network: Callable[..., Any], batch: Batch, args: Args, **more: Any) -> Tensor:
    """The network's outputs for a batch, in fp32: [n, ...]."""
    ordered, keyed = ([], args.inputs) if isinstance(args.inputs, dict) else (args.inputs, {})
    given = [channels_last(field(batch, name, "inputs")) for name in ordered]
    more |= {key: channels_last(field(batch, name, "inputs")) for key, name in keyed.items()}
    return taken(network(*given, **more), args.output).float()


def taken(outputs: Any, which: str | int | None) -> Tensor:
    """One of a network's outputs. Raises SpecError where there is none such."""
    from torch import Tensor

    found = outputs
    if which is None and not isinstance(outputs, Tensor):
        which = "logits" if _has(outputs, "logits") else 0
    if isinstance(which, str):
        found = outputs[which] if isinstance(outputs, Mapping) and which in outputs else getattr(outputs, which, None)
    elif which is not None:
        found = outputs[which] if isinstance(outputs, tuple | list) and which < len(outputs) else None
    if not isinstance(found, Tensor):
        text = f"the network gives a {type(outputs).__name__} without the output {which!r}"
        raise SpecError([(("objective", "args", "output"), f"{text}; name the one that is meant")])
    return found


def _has(outputs: Any, name: str) -> bool:
    return name in outputs if isinstance(outputs, Mapping) else hasattr(outputs, name)


def rows(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and target as fp32 [n, d], and where the target is known: is not NaN. Elsewhere it is 0.

    Raises ValueError where they don't fit.
    """
    outputs, target = outputs.reshape(len(outputs), -1), target.reshape(len(target), -1)
    if outputs.shape != target.shape:
        raise ValueError(f"outputs are {list(outputs.shape)}, and targets {list(target.shape)}: one each is needed")
    known = ~target.isnan()
    return outputs, target.float().masked_fill(~known, 0), known


def spread(values: Tensor, known: Tensor) -> Tensor:
    """The sum over samples of each one's mean over what is known of it: of [n, d], a number."""
    return ((values * known).sum(1) / known.sum(1).clamp(min=1)).sum()


def samples(known: Tensor) -> Tensor:
    """How many samples have something that is known: of [n, d], a number."""
    return known.any(1).sum()


def mean(total: float, count: int) -> float:
    """A metric's value of what was summed over the good samples."""
    return total / count

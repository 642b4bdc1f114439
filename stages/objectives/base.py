"""What a network is trained for: how it is called on a batch, its loss, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import ValidationError

from dualprune.stages.objectives.measures import Measure, Measures
from dualprune.stages.settings.base import Settings, SpecError, worded
from dualprune.stages.settings.objective import Named

if TYPE_CHECKING:
    from torch import Tensor

Batch = Mapping[str, "Tensor"]
"""Tensors by name, samples along the first axis of each."""


class StandIn(dict[str, "Tensor"]):
    """A batch in the place of one that has no good sample: networks are run on it, and it counts nowhere."""


class Metric(NamedTuple):
    """Something that is measured over a split, from sums over its samples: so it is the same on any number of ranks."""

    sums: Callable[[Any, Batch], Tensor]
    """Of the network's outputs for a batch: a number, or a tensor of always the same shape, to be added up in fp64."""
    value: Callable[[Any, int], float]
    """Of the sum over all, a float or a tensor in the host's memory, and the number of good samples."""
    higher: bool = True
    """Whether more is better."""
    unit: str = "%"


def as_it_is(batch: Batch) -> Batch:
    """A batch that training does nothing to."""
    return batch


@dataclass(frozen=True)
class Objective:
    """What a network is trained for."""

    call: Callable[[Callable[..., Any], Batch], Any]
    """The network's outputs for a batch, in fp32."""
    loss: Callable[[Any, Batch], Tensor]
    """The sum over the batch's good samples; the loop divides by the batch."""
    good: Callable[[Batch], Tensor]
    """How many samples of a batch are good."""
    metrics: Mapping[str, Metric]
    best: str
    """The metric that is chosen by."""
    distil: Callable[[Any, Any, Batch, float], Tensor] | None = None
    """How far outputs are from a teacher's at a temperature: the sum over the good samples."""
    augment: Callable[[Batch], Batch] = as_it_is
    """What training makes of a batch before the network sees it. Its randomness is torch's own generator's."""
    known: Callable[[Batch], Tensor] | None = None
    """Which samples of a batch are good, bool [n], or which places of its sequences have something, bool [n, t]: what
    is within networks is compared there. None: everywhere."""

    @property
    def measures(self) -> Measures:
        """What stages are measured by, as facts."""
        return Measures(self.best, {name: Measure(one.unit, one.higher) for name, one in self.metrics.items()})


class Summed(NamedTuple):
    """What an objective adds up over the samples of a batch."""

    name: str
    function: Callable[..., Any]
    """That gives it."""
    value: Any
    """A tensor, if the objective is right."""


def sums(objective: Objective, outputs: Any, batch: Batch) -> Iterator[Summed]:
    """All that an objective adds up of a batch, one after the other; distillation, which needs a teacher, is not there.

    Raises what the objective's functions raise.
    """
    yield Summed("loss", objective.loss, objective.loss(outputs, batch))
    yield Summed("number of good samples", objective.good, objective.good(batch))
    for name, metric in objective.metrics.items():
        yield Summed(f"metric {name}", metric.sums, metric.sums(outputs, batch))


A = TypeVar("A", bound=Settings)


def arguments(model: type[A], aim: Named) -> A:
    """An objective's `args`, checked. Raises SpecError with all problems."""
    try:
        return model.model_validate(aim.args)
    except ValidationError as error:
        raise SpecError([(_path(one["loc"]), _told(model, one)) for one in error.errors(include_url=False)]) from None


def _path(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """pydantic names the member of a union of lists and mappings as a part of the path."""
    return ("objective", "args", *(part for part in loc if not str(part).startswith(("list[", "dict["))))


def _told(model: type[Settings], one: Any) -> str:
    known = f"; there are {', '.join(model.model_fields) or 'none'}" if one["type"] == "extra_forbidden" else ""
    return worded(one) + known

"""Settings of `threed`, and which shape of a network is best by what its chains measured. Pure.

A model of the metric is fitted to all samples (`surface`); its best point within the budget is searched among all
depths and resolutions that the chains reach. Wang et al. 2021 solve this by Lagrange's conditions, with d w^2 r^2 for
the cost; here the cost is measured along each axis, and multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from dualprune.pipeline.choices.base import ChoiceError, ChoiceSettings, Latency
from dualprune.pipeline.choices.surface import Array, Fit, fitted
from dualprune.stages.kinds.shrink import ShrinkSpec
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import Training

Cost = Literal["macs", "weights", "bytes", "latency"]
METRICS: Mapping[Cost, str] = {"macs": "macs", "weights": "network_weights", "bytes": "dense_bytes"}
"""What manifests call each cost; latency is timed."""


class Point(NamedTuple):
    """A shape of the network, relative to the parent's."""

    depth: int = 0
    """Blocks that are taken out."""
    width: float = 1.0
    """Share of the filters that stay."""
    resolution: int | None = None
    """Height and width of pictures; None for what they are."""

    def __str__(self) -> str:
        parts = [f"depth-{self.depth}"] if self.depth else []
        parts += [f"width-{self.width:.4g}"] if self.width < 1 else []
        parts += [f"resolution-{self.resolution}"] if self.resolution is not None else []
        return ",".join(parts) or "whole"


class Sample(Settings):
    """A point off the axes that is tried too, from the parent at once."""

    depth: int = Field(default=0, ge=0)
    """Blocks that are taken out."""
    width: float = Field(default=1.0, gt=0, le=1)
    """Share of the filters that stay."""
    resolution: int | None = Field(default=None, ge=1)
    """Height and width of pictures; left out, as they are."""

    @model_validator(mode="after")
    def _off(self) -> Sample:
        if (self.depth > 0) + (self.width < 1) + (self.resolution is not None) < 2:
            raise ValueError("a sample is off the axes: give two of `depth`, `width` and `resolution`")
        return self


class Threed(ChoiceSettings):
    """The best of depth, width and resolution within a budget, by a fitted model of the metric on validation."""

    kind: Literal["threed"]
    """The name of the choice."""
    stage: ShrinkSpec
    """What is made at the end, but for the shape."""
    budget: dict[Cost, float]
    """The share of the parent's `macs`, `weights`, `bytes` or `latency` that may be left. The chains are the same for
    all budgets: an entry with another one costs its last stage alone."""
    latency: Latency | None = None
    """Where networks are timed, side by side, for a budget of `latency`."""
    depth: list[int] = Field(default=[])
    """The chain in depth: how many residual blocks are gone after each of its stages."""
    width: list[float] = Field(default=[])
    """The chain in width: which share of the filters is left after each."""
    resolution: list[int] = Field(default=[])
    """The chain in resolution: height and width of pictures in each."""
    samples: list[Sample] = Field(default=[])
    """Points off the axes that are tried too; with three or more, models of rank 2 are fitted as well."""
    step: Training | None = None
    """The training of each stage of a chain and of `samples`; left out, the stage's `retrain`."""
    tensors: str | list[str] = "*"
    """The weights whose filters may go."""
    multiple: int = Field(default=1, ge=1)
    """Widths are multiples of this."""

    @field_validator("budget")
    @classmethod
    def _shares(cls, budget: dict[Cost, float]) -> dict[Cost, float]:
        if not budget or not all(0 < share < 1 for share in budget.values()):
            raise ValueError(f"give shares between 0 and 1 of one or more of {', '.join(get_args(Cost))}")
        return budget

    @model_validator(mode="after")
    def _timed(self) -> Threed:
        if ("latency" in self.budget) != (self.latency is not None):
            raise ValueError("a `budget` of latency, and `latency`, which says where it is measured, go together")
        return self

    @model_validator(mode="after")
    def _chains(self) -> Threed:
        if self.stage.constraints or self.stage.blocks or self.stage.resolution is not None:
            raise ValueError("`threed` finds the shape: leave out `constraints`, `blocks` and `resolution`")
        if self.stage.retrain is None:
            raise ValueError("`threed` trains what it takes from: give `retrain`")
        if sum(map(len, self.chains())) < 2:
            raise ValueError("give chains of two or more stages in all: `depth`, `width`, `resolution`")
        for name, values in (("width", self.width), ("resolution", self.resolution)):
            if list(values) != sorted(set(values), reverse=True):
                raise ValueError(f"the values of `{name}` must fall from one to the next, not {values}")
        if self.depth != sorted(set(self.depth)):
            raise ValueError(f"the values of `depth` must rise from one to the next, not {self.depth}")
        if any(one < 1 for one in (*self.depth, *self.resolution)) or any(not 0 < one < 1 for one in self.width):
            raise ValueError("`depth` and `resolution` are numbers from 1 on, and `width` shares between 0 and 1")
        return self

    def chains(self) -> list[list[Point]]:
        """One list an axis."""
        return [
            [Point(depth=depth) for depth in self.depth],
            [Point(width=width) for width in self.width],
            [Point(resolution=size) for size in self.resolution],
        ]


@dataclass(frozen=True)
class Measured:
    """A point that was trained."""

    point: Point
    value: float
    """Of the metric, on validation."""
    cost: Mapping[Cost, float]
    """What is left of the parent's."""


@dataclass(frozen=True)
class Decided:
    """The point that is best by a fit."""

    point: Point
    value: float
    """What the fit gives there."""
    fit: Fit
    samples: Sequence[Measured]
    side: float
    """The parent's resolution; 1 where none is tried."""

    @property
    def said(self) -> str:
        """In a line."""
        fit, surface = self.fit, self.fit.surface
        return (
            f"{self.point}, for which a fit of degree {surface.degree} and rank {surface.rank} gives {self.value:.4g}"
            f" (error between samples {fit.error:.2g}, at most {fit.worst:.2g})"
        )

    def facts(self) -> dict[str, Any]:
        """For the artefact: the samples, the model, its error, and the point."""
        surface = self.fit.surface
        return {
            "samples": [{**one.point._asdict(), "value": one.value, "cost": dict(one.cost)} for one in self.samples],
            "fit": {
                "degree": surface.degree,
                "rank": surface.rank,
                "error": self.fit.error,
                "worst": self.fit.worst,
                "factors": surface.factors.tolist(),
                "origin": surface.origin.tolist(),
                "span": surface.span.tolist(),
            },
            "resolution": self.side,
            "point": self.point._asdict(),
            "predicted": self.value,
        }


def decide(spec: Threed, samples: Sequence[Measured], side: float, higher: bool) -> Decided:
    """The best point within the budget by a model of what was measured. Raises ChoiceError if there is none.

    The first sample is the parent's network, and `side` its resolution.
    """
    fit = fitted(_coordinates([one.point for one in samples], side), np.array([one.value for one in samples]))
    within = list(_within(spec, samples, side))
    if not within:
        raise ChoiceError(_least(spec, samples))
    values = fit.surface.at(_coordinates(within, side))
    number = int(np.argmax(values) if higher else np.argmin(values))
    return Decided(within[number], float(values[number]), fit, samples, side)


def _coordinates(points: Sequence[Point], side: float) -> Array:
    """Depth, width and resolution [n, 3]."""
    return np.array([(p.depth, p.width, side if p.resolution is None else p.resolution) for p in points], np.float64)


def _within(spec: Threed, samples: Sequence[Measured], side: float) -> Iterator[Point]:
    """Points within the chains' reach and the budget: of each depth and resolution the widest, where there is one."""
    sizes: list[int | None] = [None, *_between(spec.resolution)] if spec.resolution else [None]
    curves = {name: [_curve(samples, name, axis, side) for axis in range(3)] for name in spec.budget}
    for depth, size in product(_between([0, *spec.depth]), sizes):
        widths = []
        for name, share in spec.budget.items():
            of_depth, (wide, of_width), of_side = curves[name]
            rest = share / np.interp(depth, *of_depth) / np.interp(size or side, *of_side)
            costs = np.maximum.accumulate(of_width)  # a narrower network that took longer, by chance, is no bargain
            widths.append(0.0 if rest < costs[0] else float(np.interp(rest, costs, wide)))
        if min(widths) > 0:
            yield Point(depth, min(widths), size)


def _curve(samples: Sequence[Measured], name: Cost, axis: int, side: float) -> tuple[Array, Array]:
    """What an axis costs: coordinates, rising, and the share of a cost that is left at each; straight between them."""
    points = _coordinates([one.point for one in samples], side)
    alone = (np.delete(points, axis, 1) == np.delete(points[:1], axis, 1)).all(1)
    order = np.argsort(points[alone, axis])
    costs = np.array([one.cost[name] for one in samples])
    return points[alone, axis][order], costs[alone][order]


def _between(values: Sequence[int]) -> list[int]:
    """The values and what lies between them, in steps of their greatest common divisor."""
    return list(range(min(values), max(values) + 1, math.gcd(*values) or 1))


def _least(spec: Threed, samples: Sequence[Measured]) -> str:
    """Why no point is within the budget: what is about the least that the chains reach."""
    said = [
        f"{share:g} of {name} may be left, and the least that the chains reach is about "
        f"{math.prod(min(_curve(samples, name, axis, 1.0)[1]) for axis in range(3)):.3g}"
        for name, share in spec.budget.items()
    ]
    return f"no shape is within the budget: {'; '.join(said)}. Lengthen the chains, or allow more"

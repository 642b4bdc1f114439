"""What is known of a run, as values: what its store holds, without what belongs to a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dualprune.pipeline.choices.table import CHOICES
from dualprune.pipeline.store.history import History
from dualprune.stages.objectives.measures import CLASSIFY, Measures

State = Literal["done", "lost", "failed", "running", "queued", "stopped", "not begun"]
"""Of a stage. `lost`: it was done, and its artefact is not there any more, or is not what was written. `stopped`: it
has begun and is not at work."""


@dataclass(frozen=True)
class Tensor:
    """One of a stage's constrained tensors; of a stage that constrains none, one of all."""

    name: str
    size: int
    nonzeros: int
    residual: float | None = None
    """|W - Z| / |W| before the final projection."""
    bits: int | None = None
    """Of a value."""
    value_bits: int | None = None
    total_bits: int | None = None
    """With the places of what is not zero."""


@dataclass(frozen=True)
class Speed:
    """A network timed beside the dense one it came from, as `dualprune speed` left it."""

    machine: str
    backend: str
    device: str
    batch: int
    threads: int
    seconds: float
    """Of a call: the median."""
    ratio: float | None
    """Times as fast as dense, and where that lies with 99 % certainty."""
    low: float | None
    high: float | None
    verdict: str | None


@dataclass(frozen=True)
class Stage:
    """One stage of a run, or a trial of one of its choices."""

    name: str
    key: str
    kind: str
    parents: tuple[str, ...] = ()
    """Names; the first is what it starts from."""
    started: tuple[str, ...] = ()
    """The same as its artefact names them, which another run may have made."""
    state: State = "not begun"
    why: str | None = None
    """Beside a state other than done: a sentence."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Of its artefact, or as the run's log has them where that is lost."""
    measures: Measures = CLASSIFY
    tensors: tuple[Tensor, ...] = ()
    rows: tuple[Mapping[str, Any], ...] = ()
    """One an epoch."""
    epochs: int | None = None
    """In all, where that is known."""
    chosen: str | None = None
    """Of a choice: what it took."""
    history: History | None = None
    """What the log of events has of it."""
    world: int | None = None
    left_out: tuple[str, ...] = ()
    """Samples that could not be read."""
    speeds: tuple[Speed, ...] = ()
    finished: float | None = None
    """When its manifest was written, by the store's clock."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Its settings, defaults spelt out."""
    samples: Mapping[str, int] = field(default_factory=dict)
    """By split, what it was trained and measured on."""
    decision: Mapping[str, Any] = field(default_factory=dict)
    """Of a choice: by what it fell, as its artefact says."""
    advice: str | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """Of what its artefact was made with."""
    damage: str | None = None
    """What is wrong with its artefact, or a record beside it."""

    def value(self, split: str = "test") -> float | None:
        """What it scores, by its best metric."""
        return self.metric(self.measures.of(split))

    def metric(self, name: str) -> float | None:
        """A number of its artefact; None for what is not finite."""
        found = self.metrics.get(name)
        return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None

    @property
    def seconds(self) -> float | None:
        """It trained for, so far."""
        last = self.rows[-1].get("seconds") if self.rows and not self.metrics else None
        return self.metric("seconds") if last is None else float(last)

    @property
    def chooses(self) -> bool:
        """Whether it only takes what another stage left."""
        return self.kind in CHOICES or self.chosen is not None

    @property
    def trained(self) -> Mapping[str, Any]:
        """The settings of the training that it does or, if it is a search, tries."""
        found: Mapping[str, Any] = self.spec.get("stage", self.spec)
        return found

    @property
    def tolerance(self) -> float | None:
        """Of its ADMM's residuals, if it stops by one."""
        return (self.trained.get("admm") or {}).get("tolerance") or None

    @property
    def updates(self) -> list[Mapping[str, Any]]:
        """Rows at which Z and U were updated."""
        return [row for row in self.rows if row.get("residual") is not None]


@dataclass(frozen=True)
class Overlap:
    """Of the weights that stage `row` keeps, the share that stage `column` keeps, 0 to 1."""

    stages: tuple[str, ...]
    shares: Mapping[tuple[str, str], float]
    """By row and column; without pairs whose tensors have other shapes."""


@dataclass(frozen=True)
class Way:
    """Which network a page is about, and what led to it."""

    chosen: str | None = None
    dense: str | None = None
    stages: tuple[str, ...] = ()
    """From the dense network to the chosen one; choices go by what they took."""
    why: str = ""
    """What makes it the chosen one: a sentence."""


@dataclass(frozen=True)
class Run:
    """A run of a configuration, as its store tells it."""

    name: str
    store: str
    state: Literal["going", "finished", "failed", "interrupted", "broken", "killed", "unfinished"]
    said: str
    """How it stands: a sentence."""
    stages: Mapping[str, Stage]
    """In an order in which parents come before children."""
    way: Way = Way()
    missing: tuple[str, ...] = ()
    """Sentences on what the store does not tell, and why."""
    asked: str | None = None
    """The configuration, or what of it is known, as YAML."""
    overlap: Overlap | None = None
    looked: Mapping[str, Any] = field(default_factory=dict)
    """What `dualprune saliency` left of the chosen network."""
    began: float | None = None
    ended: float | None = None
    environment: tuple[tuple[str, str], ...] = ()
    gpus: float | None = None
    """Of each rank; None where that is not known."""
    drivers: int = 0
    """How many times it was started."""

    def done(self) -> Iterator[Stage]:
        """Stages with numbers, trials among them, choices not: theirs are those of what they took."""
        return (one for one in self.stages.values() if one.metrics and not one.chooses)

    def along(self) -> list[Stage]:
        """The stages on the way to the chosen network."""
        return [self.stages[name] for name in self.way.stages]

    @property
    def dense(self) -> Stage | None:
        """What the chosen network came from."""
        return self.stages.get(self.way.dense or "")

    @property
    def chosen(self) -> Stage | None:
        """What the page is about."""
        return self.stages.get(self.way.chosen or "")

    @property
    def samples(self) -> int | None:
        """Of the test split, as far as is known."""
        return None if self.dense is None else self.dense.samples.get("test")

    def fewer(self, stage: Stage) -> float | None:
        """How many times fewer weights a stage has than the dense network; of all of it, where that is known."""
        return self._ratio(stage, "network_weights", "network_nonzeros") or stage.metric("rate")

    def smaller(self, stage: Stage) -> float | None:
        """How many times fewer bytes it takes than the dense network."""
        return self._ratio(stage, "dense_bytes", "bytes")

    def cheaper(self, stage: Stage) -> float | None:
        """How many times fewer multiply-accumulates it takes than the dense network."""
        return self._ratio(stage, "macs", "macs")

    def _ratio(self, stage: Stage, above: str, below: str) -> float | None:
        whole = (self.dense or stage).metric(above)
        left = stage.metric(below)
        return whole / left if whole and left else None

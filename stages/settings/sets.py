"""The settings of each constraint set: which tensors it is for, and how much stays."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field, model_validator
from typing_extensions import Self

from dualprune.stages.settings.base import Settings, Texts
from dualprune.stages.settings.patterns import excluded, included, listed


class Sized(Protocol):
    """Units of one kind."""

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    @property
    def width(self) -> int:
        """How many channels, or features, each of them is."""
        ...


class Amount(Settings):
    """How much stays. Exactly one of rate, keep and count says it."""

    AMOUNTS: ClassVar[tuple[str, ...]] = ("rate", "keep", "count")
    """Settings of which one is given."""

    rate: float | None = Field(default=None, ge=1)
    """k = floor(size / rate)."""
    keep: float | None = Field(default=None, gt=0, le=1)
    """k = floor(size * keep)."""
    count: int | None = Field(default=None, ge=1)
    """k itself."""

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if sum(getattr(self, name) is not None for name in self.AMOUNTS) != 1:
            *names, last = (f"`{name}`" for name in self.AMOUNTS)
            raise ValueError(f"give exactly one of {', '.join(names)} and {last}")
        return self

    def entries(self, size: int) -> int:
        """k of `size`. A product that is whole but for rounding counts as whole."""
        if self.count is not None:
            return self.count
        share = self.keep if self.keep is not None else 1 / (self.rate or 1)
        return math.floor(size * share * (1 + 1e-12))


class Pattern(Settings):
    """Which tensors a constraint is for."""

    tensors: Texts = None
    """Shell pattern over names of weights of two or more dimensions; `*` is all of them but embeddings, which have to
    be named in full. Or a list of patterns, of which those that begin with `!` leave tensors out. `*` with `layers`."""
    layers: Texts = None
    """Types of layers, by the names of their classes (`Linear`, `Conv2d`, `LSTM`), derived ones included: only their
    weights. `Embedding` is the way to embeddings."""

    @model_validator(mode="after")
    def _some_tensors(self) -> Self:
        if self.tensors is None and self.layers is None:
            raise ValueError("give `tensors`, a pattern over their names, or `layers`, their types, or both")
        if not self.included:
            raise ValueError("`tensors` only leaves out; put what it is to be left out of before that, such as '*'")
        if self.layers is not None and not self.types:
            raise ValueError("`layers` is empty; leave it out, or name types of layers")
        return self

    @property
    def patterns(self) -> list[str]:
        """All of `tensors`, in their order."""
        return ["*"] if self.tensors is None else listed(self.tensors)

    @property
    def included(self) -> list[str]:
        """Patterns of what it is for."""
        return included(self.patterns)

    @property
    def excluded(self) -> list[str]:
        """Patterns of what is left out of that."""
        return excluded(self.patterns)

    @property
    def types(self) -> list[str]:
        """The types of layers that it is for; none for all."""
        return listed(self.layers)


class Cardinality(Pattern, Amount):
    """At most k entries are not zero: of each matching tensor, or of all of them together."""

    set: Literal["cardinality"]
    """Its name."""
    scope: Literal["tensor", "global"] = "tensor"
    """`global`: one budget for all matching tensors; the largest magnitudes of all of them stay."""
    floor: int = Field(default=1, ge=0)
    """With `global`: so many of each tensor stay in any case, so that no layer dies."""
    scale: Literal["none", "rms"] = "none"
    """With `global`: compare magnitudes as they are, or divided by their tensor's root mean square, so that a
    layer of small weights (many inputs) is not emptied in favour of one of large weights."""

    @model_validator(mode="after")
    def _of_a_budget(self) -> Self:
        if self.scope == "tensor" and (self.floor != 1 or self.scale != "none"):
            raise ValueError("`floor` and `scale` belong to `scope: global`, which is not given")
        return self


class Grouped(Pattern, Amount):
    """Groups of entries that go as a whole: alone, or coupled over all tensors of the network."""

    AMOUNTS: ClassVar[tuple[str, ...]] = ("rate", "keep", "count", "macs")
    """Settings of which one is given."""
    set: str
    """Its name: what goes as a whole."""
    coupled: bool = False
    """Whether what makes and reads a filter, channel or head goes with it, in all tensors, so that it can be taken out
    of the network exactly. The amount is then of each kind of them, such as the channels of a residual stream."""
    macs: float | None = Field(default=None, gt=0, lt=1)
    """With `coupled`: about the same share of each kind stays, so that at most this share of the network's
    multiply-accumulates is left. In a shrink stage these are those of its parent's network, before blocks go."""
    multiple: int = Field(default=1, ge=1)
    """With `coupled`: as many stay of each kind as make their width a multiple of this, or all. A head, and channels
    that a group norm takes together, are several wide."""

    @model_validator(mode="after")
    def _of_coupled(self) -> Self:
        if not self.coupled and (self.macs is not None or self.multiple != 1):
            raise ValueError("`macs` and `multiple` belong to `coupled: true`, which is not given")
        return self

    def units(self, share: float, space: Sized) -> int:
        """How many units of a space stay, if this share of them is to: one at least, and a multiple."""
        return self.rounded(math.floor(space.size * share * (1 + 1e-12)), space)

    def rounded(self, wanted: int, space: Sized) -> int:
        """How many units of a space stay where so many are wanted: one at least, and a multiple, or all."""
        step = self.step(space)
        return max(1, min(space.size, max(step, wanted // step * step)))

    def step(self, space: Sized) -> int:
        """The fewest units whose width is a multiple."""
        return self.multiple // math.gcd(self.multiple, space.width)


class Structured(Grouped):
    """At most k filters (outputs), channels (inputs), columns (of the matrix form) or rows (of linear layers)."""

    set: Literal["filter", "channel", "column", "row"]
    """Its name: what goes as a whole."""

    @model_validator(mode="after")
    def _of_units(self) -> Self:
        if self.coupled and self.set == "column":
            raise ValueError("columns are positions of kernels, which go with nothing; leave `coupled` out")
        return self


def every(pattern: Pattern) -> Structured:
    """All units that a pattern is for, over all tensors of the network: a constraint that says which, and holds none.

    For stages that find out by training which of them go.
    """
    return Structured(set="filter", tensors=pattern.tensors, layers=pattern.layers, keep=1.0, coupled=True)


class Head(Grouped):
    """At most k attention heads of a projection."""

    set: Literal["head"]
    """Its name."""
    heads: int | None = Field(default=None, ge=1)
    """Of each projection; with `coupled` they are found."""
    parts: int = Field(default=1, ge=1)
    """Projections stacked in one tensor: 3 for fused query, key and value."""

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if (self.heads is None) != self.coupled or (self.coupled and self.parts != 1):
            raise ValueError("give `heads`, how many each projection has, or `coupled: true`, which finds them")
        return self


class Block(Pattern, Amount):
    """At most k tiles of p x q of the matrix form; p and q must divide its sides."""

    set: Literal["block"]
    """Its name."""
    p: int = Field(ge=1)
    """Outputs of a tile."""
    q: int = Field(ge=1)
    """Columns of a tile: inputs, and places of the kernel."""


class NM(Pattern):
    """At most n of every m consecutive inputs; m must divide the number of inputs."""

    set: Literal["nm"]
    """Its name."""
    n: int = Field(ge=1)
    """How many stay."""
    m: int = Field(ge=2)
    """Of how many."""

    @model_validator(mode="after")
    def _fewer(self) -> NM:
        if self.n >= self.m:
            raise ValueError(f"{self.n} of {self.m} prunes nothing; n must be less than m")
        return self


class LowRank(Pattern):
    """Rank at most `rank`, or the least that leaves out at most the share `energy` of squared singular values."""

    set: Literal["lowrank"]
    """Its name."""
    rank: int | None = Field(default=None, ge=1)
    """The rank at most."""
    energy: float | None = Field(default=None, gt=0, lt=1)
    """The share of squared singular values that may be left out."""
    view: Literal["channel", "spatial"] = "channel"
    """The matrix: outputs x (inputs, kernel), or (inputs, kernel height) x (outputs, kernel width)."""

    @model_validator(mode="after")
    def _one_measure(self) -> LowRank:
        if (self.rank is None) == (self.energy is None):
            raise ValueError("give either `rank` or `energy`")
        return self


class Levels(Pattern):
    """Non-zeros on quantisation levels; zeros (pruned weights) stay."""

    set: Literal["levels"]
    """Its name."""
    levels: Literal["equidistant", "power", "ternary", "binary"] = "equidistant"
    """Which values there are; an interval or two are fitted to each tensor."""
    bits: int | None = Field(default=None, ge=1, le=8)
    """Of `equidistant` and `power`: 2^bits levels."""

    @model_validator(mode="after")
    def _bits(self) -> Levels:
        if (self.levels in ("equidistant", "power")) != (self.bits is not None):
            raise ValueError("`bits` belongs to `levels: equidistant` and `levels: power`, which need it")
        return self


class Clusters(Pattern):
    """Non-zeros share at most `count` values."""

    set: Literal["clusters"]
    """Its name."""
    count: int = Field(ge=1, le=4096)
    """Values, at most."""


Support = Annotated[Cardinality | Structured | Head | Block | NM | LowRank, Field(discriminator="set")]
AnySet = Annotated[
    Cardinality | Structured | Head | Block | NM | LowRank | Levels | Clusters, Field(discriminator="set")
]


SETS: dict[str, type[Pattern]] = {
    "cardinality": Cardinality,
    **dict.fromkeys(("filter", "channel", "column", "row"), Structured),
    "head": Head,
    "block": Block,
    "nm": NM,
    "lowrank": LowRank,
    "levels": Levels,
    "clusters": Clusters,
}
"""The settings of each set by its name; `stages.constraints.SETS` makes the sets."""

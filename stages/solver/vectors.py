"""Pruning vectors: what network a vector of numbers says, what that costs, and how a vector moves. NumPy only.

A vector has a number from 0 to 1 for each space of units, each residual block and, where sizes of pictures are searched
too, for that. What network it says is unique:

- Of a space with the number v the round(v * size) strongest units stay (a half is rounded up), one at least.
- A block is open from 1/2 on.
- Of the sizes of pictures it is that whose share of the largest is nearest to v, of two such the larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np
from numpy.typing import NDArray

from dualprune.stages.solver.closing import Closing, Next

Vector = NDArray[np.float64]
UNITS, BLOCKS = 0.1, 0.25
"""How far numbers of spaces and of blocks are drawn from a vector's own: standard deviations."""
OPEN = 0.5
"""From where on a block is open."""
HALVINGS = 50
"""Of the interval in which a factor is looked for."""


@dataclass(frozen=True)
class Shape:
    """The network that a vector says."""

    counts: dict[int, int]
    """Units that stay, by the number of their space."""
    shut: tuple[str, ...]
    """Blocks that are closed."""
    side: int
    """Of pictures: height and width in pixels; 0 for those that are left alone."""


@dataclass(frozen=True)
class Searched:
    """What a stage's vectors are of."""

    sides: Mapping[int, Closing]
    """What may be closed of the network, and what it costs, by the size of pictures, from the largest: as they are."""
    order: Mapping[int, Sequence[int]]
    """The units of each space that may stay, the strongest first."""
    shut: Sequence[str] = ()
    """Blocks that are closed for good."""

    @property
    def closing(self) -> Closing:
        """With pictures as they are."""
        return next(iter(self.sides.values()))

    @property
    def open(self) -> list[str]:
        """The blocks that vectors have numbers of."""
        return [path for path in self.closing.blocks if path not in self.shut]

    def sigma(self) -> Vector:
        """How far each number is drawn from a vector's own: so numbers of all sorts move by what is alike for them.

        Of the size of pictures, half of what two sizes are apart in the mean.
        """
        spaces, blocks = [UNITS] * len(self.closing.spaces), [BLOCKS] * len(self.open)
        shares = self._shares()
        return np.array([*spaces, *blocks, *([(1 - shares[-1]) / (len(shares) - 1) / 2] if len(shares) > 1 else [])])

    def sorts(self) -> NDArray[np.bool_]:
        """Of which sort each number is [sorts, numbers]: spaces, blocks, size of pictures, where there are any."""
        counts = [len(self.closing.spaces), len(self.open), int(len(self.sides) > 1)]
        sort = np.repeat(np.arange(3), counts)
        return np.array([sort == one for one, count in enumerate(counts) if count])

    def most(self) -> Vector:
        """The largest vector."""
        sizes = [len(self.order[number]) / space.size for number, space in self.closing.spaces.items()]
        return np.array([*sizes, *[1.0] * len(self.open), *([1.0] if len(self.sides) > 1 else [])])

    def begin(self, gate: float) -> Vector:
        """The largest vector, but with this number for each block."""
        found, first = self.most(), len(self.closing.spaces)
        found[first : first + len(self.open)] = gate
        return found

    def few(self) -> Vector:
        """The smallest: one unit of each space."""
        sizes = [min(1, len(self.order[number])) / space.size for number, space in self.closing.spaces.items()]
        return np.array([*sizes, *[0.0] * (len(self.most()) - len(sizes))])

    def _shares(self) -> list[float]:
        largest = next(iter(self.sides))
        return [side / largest if largest else 1.0 for side in self.sides]

    def shape(self, vector: Vector) -> Shape:
        """What a vector says; numbers beyond their ends count as these."""
        spaces, blocks = self.closing.spaces, self.open
        numbers = dict(zip(spaces, vector.tolist(), strict=False))
        gates = vector[len(spaces) : len(spaces) + len(blocks)]
        shut = (*self.shut, *(path for path, gate in zip(blocks, gates, strict=True) if gate < OPEN))
        side = next(iter(self.sides))
        if len(self.sides) > 1:
            far = [abs(share - min(1.0, vector[-1])) for share in self._shares()]
            side = list(self.sides)[int(np.argmin(far))]
        return Shape(self._counts(numbers, 1.0), shut, side)

    def _counts(self, numbers: Mapping[int, float], factor: float) -> dict[int, int]:
        sizes = {number: space.size for number, space in self.closing.spaces.items()}
        return {n: self._within(n, floor(numbers[n] * factor * size + 0.5)) for n, size in sizes.items()}

    def _within(self, number: int, count: int) -> int:
        return max(1, min(len(self.order[number]), count))

    def closed(self, shape: Shape) -> Closing:
        """The network in which just that is left open."""
        found = self.sides[shape.side].copied()
        for number, count in shape.counts.items():
            found.gone[number][:] = True
            found.gone[number][list(self.order[number][:count])] = False
        found.close([Next(0.0, path) for path in shape.shut])
        return found

    def cost(self, shape: Shape) -> float:
        """What that costs, as a share of what all costs with pictures as they are."""
        found = self.closed(shape)
        return found.rest() * found.whole / self.closing.whole

    def least(self) -> float:
        """The least that any costs."""
        return self.cost(self._smallest(Shape({}, (*self.shut, *self.open), list(self.sides)[-1])))

    def _smallest(self, shape: Shape) -> Shape:
        return replace(shape, counts=dict.fromkeys(self.closing.spaces, 1))

    def within(self, vector: Vector, budget: float) -> Shape:
        """A vector's network brought to a budget: no more than that, and by less than a unit of any space.

        Blocks and the size of pictures are what the vector says; where no units are so few that this fits, open blocks
        are closed first, the lowest number before others, and then pictures made smaller. Shares of units are the
        vector's times one factor, the largest that fits. Then a unit more of each space that fits, and so on, first of
        that which rounding took the most from. `budget` is not below `least()`.
        """
        shape = next(one for one in self._candidates(vector) if self.cost(self._smallest(one)) <= budget)
        numbers = dict(zip(self.closing.spaces, np.clip(vector, self.few(), self.most()).tolist(), strict=False))
        low, high = 0.0, 1 + 1 / min(filter(None, numbers.values()), default=1.0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            fits = self.cost(replace(shape, counts=self._counts(numbers, middle))) <= budget
            low, high = (middle, high) if fits else (low, middle)
        counts = self._counts(numbers, low)
        lost = {n: numbers[n] * low * space.size - counts[n] for n, space in self.closing.spaces.items()}
        order, before = sorted(lost, key=lambda n: -lost[n]), dict[int, int]()
        while counts != before:
            before = counts
            for number in order:
                trial = counts | {number: self._within(number, counts[number] + 1)}
                counts = trial if self.cost(replace(shape, counts=trial)) <= budget else counts
        return replace(shape, counts=counts)

    def _candidates(self, vector: Vector) -> Iterator[Shape]:
        shape = self.shape(vector)
        yield shape
        gates = dict(zip(self.open, vector[len(self.closing.spaces) :].tolist(), strict=False))
        for path in sorted((path for path in gates if path not in shape.shut), key=lambda path: gates[path]):
            shape = replace(shape, shut=(*shape.shut, path))
            yield shape
        for side in list(self.sides)[list(self.sides).index(shape.side) + 1 :]:
            shape = replace(shape, side=side)
            yield shape

    def moved(self, vector: Vector, draws: NDArray[np.float64], differences: NDArray[np.float64], by: float) -> Vector:
        """A vector after a step against the slope that pairs tell, each of draws of one sort of number.

        `draws` [sorts, pairs, numbers] are standard normal where a number is of the sort, and 0 elsewhere;
        `differences` [sorts, pairs] those of the loss at vector + sigma * draw and vector - sigma * draw. Those of a
        sort are divided by their root mean square, so that a step is as long whatever losses are: about `by` standard
        deviations of the draws at most in all numbers of a sort together. Pairs of which a loss is not finite count as
        equal.
        """
        known = np.where(np.isfinite(differences), differences, 0.0)
        scale = np.sqrt(np.mean(known**2, 1, keepdims=True))
        slope: Vector = np.einsum("sp,spn->n", known / np.where(scale > 0, scale, 1.0), draws) / draws.shape[1]
        found: Vector = np.clip(vector - by * self.sigma() * slope, self.few(), self.most())
        return found


def drawn(shape: tuple[int, ...], *words: int) -> NDArray[np.float64]:
    """Standard normal numbers of that shape, a function of the words alone: NumPy keeps this stream for good."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words))).standard_normal(shape)

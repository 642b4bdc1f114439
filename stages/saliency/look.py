"""All of it together: networks beside the first of them, on samples of one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.export.errors import untraceable
from dualprune.stages.objectives.base import Batch
from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.saliency.along import Along, along
from dualprune.stages.saliency.compare import Compared, compared
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.inputs import Input, found
from dualprune.stages.saliency.maps import maps
from dualprune.stages.saliency.optimal import Optimal, optimal
from dualprune.stages.saliency.subject import Subject
from dualprune.stages.settings.base import SpecError

Array = NDArray[Any]


@dataclass(frozen=True)
class Asked:
    """How much is looked at."""

    samples: int = 200
    """That networks are compared on, evenly over the split."""
    shown: int = 8
    """Of these, that maps are drawn of: half of them changed ones, where there are so many."""
    classes: int = 4
    """That an input is made for: the most frequent answers."""
    steps: int = 300
    """Of gradient ascent."""


@dataclass(frozen=True)
class Seen:
    """What one network makes of the samples."""

    input: Input
    numbers: tuple[int, ...]
    """Of the samples, in their split."""
    scores: Tensor
    """[n, k]."""
    right: Tensor | None
    """As `Reading.right` has it."""
    classes: Tensor
    """[n], that maps are of."""
    products: Tensor
    """[n, ...], gradient x input."""
    strengths: Tensor
    """[n, ...]."""
    there: Tensor
    """Bool, in the maps' shape: not padded."""


@dataclass(frozen=True)
class Shown:
    """One sample, and what each network looks at in it."""

    place: int
    """Among the samples that are compared."""
    input: Array
    """A picture as the first network has it [c, h, w], letters [t, letters], or numbers of tokens [t]."""
    products: Mapping[str, Array]
    """By network: gradient x input, added up over channels."""
    strengths: Mapping[str, Array]
    along: Mapping[str, Along | str | None]
    """By network: of this sample alone, [1, steps] each way."""


@dataclass(frozen=True)
class Look:
    """What networks look at. The first subject is what the others are compared with."""

    subjects: tuple[Subject, ...]
    seen: Mapping[str, Seen]
    compared: Mapping[str, Compared]
    """Without the first."""
    shown: tuple[Shown, ...]
    optimal: Mapping[int, Mapping[str, Optimal]]
    """By class and network."""
    notes: tuple[str, ...]
    """What could not be shown, and why."""


def look(subjects: Sequence[Subject], asked: Asked, tell: Callable[[str], None] = lambda text: None) -> Look:
    """Look into networks, the first of which the others are compared with. `tell` is told what is being done.

    Raises NotShown, with the network's name, for what can't be looked into.
    """
    first = subjects[0]
    for one in subjects[1:]:
        if one.data != first.data:
            raise NotShown(f"{one.name} was made with other data than {first.name}; name shards for both (--data)")
    numbers = evenly(len(first.split), asked.samples)
    seen: dict[str, Seen] = {}
    for one in subjects:
        tell(f"{one.name}: maps of {len(numbers)} samples")
        seen[one.name] = _named(one, partial(_seen, one, numbers, seen.get(first.name)))
    beside = {one.name: _compared(one, seen[first.name], seen[one.name]) for one in subjects[1:]}
    places = chosen([one.changed for one in beside.values()], len(seen[first.name].numbers), asked.shown)
    shown = _shown(subjects, seen, places)
    classes = Counter(seen[first.name].classes.tolist()).most_common(asked.classes)
    made: dict[int, dict[str, Optimal]] = {}
    notes = dict.fromkeys(text for one in shown for text in one.along.values() if isinstance(text, str))
    for label, _ in sorted(classes) if asked.steps else ():
        for one in subjects:
            tell(f"{one.name}: the input of class {label}")
            try:
                made.setdefault(label, {})[one.name] = _optimal(one, seen[one.name], label, asked.steps)
            except NotShown as error:
                notes[f"{one.name}: {error}"] = None
    return Look(tuple(subjects), seen, beside, shown, made, tuple(notes))


def evenly(size: int, count: int) -> list[int]:
    """So many of the numbers below `size`, spread over all of them: a split may be sorted by class."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(int)).tolist() if size else []


def chosen(changed: Iterable[Sequence[int]], size: int, count: int) -> list[int]:
    """Places of the samples that are drawn: half of them changed ones, as far as there are any, the others evenly."""
    lists = [list(one) for one in changed]
    most = max((len(one) for one in lists), default=0)
    turns = dict.fromkeys(one[n] for n in range(most) for one in lists if n < len(one))
    kept = list(turns)[: (count + 1) // 2]
    others = [place for place in range(size) if place not in turns]
    more = [others[n] for n in evenly(len(others), count - len(kept))] if count > len(kept) else []
    return sorted(kept + more)


def _named(one: Subject, call: Callable[[], Any]) -> Any:
    """What a call gives; errors name the network, and the layer at work. What is wrong with its settings stays so."""
    try:
        return call()
    except NotShown as error:
        raise NotShown(f"{one.name}: {error}") from error
    except SpecError:
        raise
    except Exception as error:
        raise NotShown(f"{one.name}: {untraceable(error, one.network, 'no map can be made of it')}") from error


def _seen(one: Subject, numbers: Sequence[int], first: Seen | None) -> Seen:
    input, kept = None, list[int]()
    rows: dict[str, list[Tensor]] = {}
    for part in one.parts(numbers):
        if input is None:
            input = found(one.network, one.objective, part.batch, one.reading.several)
        wanted = None if first is None else first.classes[len(kept) : len(kept) + len(part.numbers)]
        for name, value in _rows(one, input, part.batch, wanted).items():
            rows.setdefault(name, []).append(value)
        kept += part.numbers.tolist()
    if input is None:
        raise NotShown("no sample of the split is good")
    if first is not None and tuple(kept) != first.numbers:
        raise NotShown("not the same samples are good for it as for the network that it is compared with")
    whole = {name: _together(values) for name, values in rows.items()}
    return Seen(input, tuple(kept), right=whole.pop("right", None), **whole)


def _rows(one: Subject, input: Input, batch: Batch, wanted: Tensor | None) -> dict[str, Tensor]:
    """What is found of one batch, by the names of `Seen`; `wanted`: the classes that maps are of, if they are given."""
    several = one.reading.several
    with torch.no_grad():
        scores, _ = input.called(one.network, one.objective, batch, several=several)
    right = one.reading.right(batch)
    classes = one.reading.classes(scores, right) if wanted is None else wanted
    made = maps(one.network, one.objective, batch, input, classes, several)
    there = batch.get(f"{input.field}_mask", torch.ones_like(made.product, dtype=torch.bool)).bool()
    found = {"scores": made.scores, "classes": classes, "products": made.product, "strengths": made.strength}
    return {**found, "there": there, **({} if right is None else {"right": right})}


def _together(values: Sequence[Tensor]) -> Tensor:
    """Batches one after the other; those of shorter sequences are filled up with zeros."""
    longest = max(one.shape[-1] for one in values) if values[0].ndim > 1 else 0
    filled = [
        torch.nn.functional.pad(one, (0, longest - one.shape[-1])) if longest and one.shape[-1] < longest else one
        for one in values
    ]
    return torch.cat(filled)


def _compared(one: Subject, before: Seen, after: Seen) -> Compared:
    said, says = (one.reading.answers(seen.scores) for seen in (before, after))
    if said.shape[1:] != says.shape[1:]:
        raise NotShown(f"{one.name} has other outputs than the network that it is compared with")
    right = None
    if before.right is not None and bool((before.right != IGNORED).any()):
        known = before.right
        was, now = (one.reading.same(given, known, known).numpy() for given in (said, says))
        right = (was, now)
    there = before.there if before.there.shape == after.there.shape else None
    return compared(
        one.reading.same(said, says, before.right).numpy(),
        right,
        (_flat(before.products, there), _flat(after.products, there)),
        (_flat(before.strengths, there), _flat(after.strengths, there)),
    )


def _flat(values: Tensor, there: Tensor | None) -> list[Array]:
    """Each sample's map as numbers in a row, without what is padded."""
    rows = values.double().numpy()
    return (
        [row.ravel() for row in rows] if there is None else [row[t.numpy()] for row, t in zip(rows, there, strict=True)]
    )


def _shown(subjects: Sequence[Subject], seen: Mapping[str, Seen], places: Sequence[int]) -> tuple[Shown, ...]:
    first = seen[subjects[0].name]
    inputs = {}
    read: dict[int, dict[str, Along | str | None]] = {place: {} for place in places}
    for one in subjects:
        numbers = [first.numbers[place] for place in places]
        for part in one.parts(numbers):
            for row, number in enumerate(part.numbers.tolist()):
                place = first.numbers.index(number)
                alone = {name: value[row : row + 1] for name, value in part.batch.items()}
                mine = seen[one.name].input
                if one is subjects[0]:
                    inputs[place] = _input(one, mine, alone)
                classes = first.classes[place : place + 1]
                read[place][one.name] = (
                    None
                    if mine.kind == "picture"
                    else along(one.network, one.objective, alone, classes, one.reading.several)
                )
    return tuple(
        Shown(
            place,
            inputs[place],
            {name: _cut(of.products[place], of.there[place]) for name, of in seen.items()},
            {name: _cut(of.strengths[place], of.there[place]) for name, of in seen.items()},
            read[place],
        )
        for place in places
    )


def _cut(values: Tensor, there: Tensor) -> Array:
    """A map without what is padded."""
    return (values[there] if values.ndim == 1 else values).numpy()


def _input(one: Subject, of: Input, alone: Mapping[str, Tensor]) -> Array:
    """A sample as it is drawn."""
    value = alone[of.field]
    if of.kind == "picture":
        return value[0].numpy()
    there = alone.get(f"{of.field}_mask")
    if of.kind == "sequence":
        with torch.no_grad():
            _, leaf = of.called(one.network, one.objective, alone, several=one.reading.several)
        value = of.letters(leaf.detach())
    return (value[0] if there is None else value[0][there[0].bool()]).numpy()


def _optimal(one: Subject, seen: Seen, label: int, steps: int) -> Optimal:
    part = next(one.parts(seen.numbers[:1]))
    return optimal(one.network, one.objective, part.batch, seen.input, label, steps, one.reading.several)

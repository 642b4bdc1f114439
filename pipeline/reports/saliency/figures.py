"""Which pictures are drawn: one for each sample that is shown, and one for each class that an input was made for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualprune.pipeline.reports.saliency import svg
from dualprune.pipeline.reports.saliency.wording import Wording, called

if TYPE_CHECKING:
    from dualprune.stages.saliency.along import Along
    from dualprune.stages.saliency.look import Look, Shown

Array = NDArray[Any]

CELL, GAP = 160.0, 16.0
"""Of pictures side by side, in px."""
PIXELS = 96
"""Of a drawn picture's longer side, at most: larger ones are averaged."""
COLUMN, NARROWEST, MARGIN = 920.0, 480.0, 8.0
"""Width of a sequence, at most, of its picture, at least, and what is left free at both sides."""
BAND, LINES, STEP = 36.0, 40.0, 14.0
"""Height of letters above their line, of the lines of scores, and a place's width at most."""
NARROW = 5.0
"""Px a place below which letters are bars: they could not be read."""
WORDS = 64
"""Tokens that are written below their bars, at most."""


class Figure(NamedTuple):
    """One picture."""

    name: str
    """Of its file, without an ending."""
    title: str
    about: str
    svg: str


def figures(look: Look, wording: Wording, names: Sequence[str]) -> Iterator[Figure]:
    """Pictures of the networks `names`, in this order: inputs of classes, and samples, changed ones first."""
    first = look.subjects[0].name
    changed = {place for name in names if name in look.compared for place in look.compared[name].changed}
    for shown in sorted(look.shown, key=lambda one: one.place not in changed):
        yield _sample(look, shown, wording, names, shown.place in changed)
    kind = look.seen[first].input.kind
    for label in look.optimal if kind != "tokens" else ():
        known = [name for name in names if name in look.optimal[label]]
        if known:
            yield (_picture_of if kind == "picture" else _letters_of)(look, label, wording, known)


def pooled(values: Array, most: int) -> Array:
    """[..., h, w] averaged over squares, so that neither side is longer than `most`."""
    factor = -(-max(values.shape[-2:]) // most)
    if factor == 1:
        return values
    height, width = (-(-side // factor) for side in values.shape[-2:])
    pad = [(0, 0)] * (values.ndim - 2)
    pad += [(0, n * factor - side) for n, side in zip((height, width), values.shape[-2:], strict=True)]
    whole = np.pad(values, pad, mode="edge")
    found: Array = whole.reshape(*values.shape[:-2], height, factor, width, factor).mean((-3, -1))
    return found


def said(look: Look, name: str, place: int) -> str:
    """What a network answers to a sample, and the score of the class that its map is of."""
    subject, seen = look.subjects[0], look.seen[name]
    label = int(look.seen[subject.name].classes[place])
    score = float(seen.scores[place, label])
    if subject.reading.several:
        return f"{called(label, subject.classes)} {'yes' if score > 0 else 'no'} ({score:.2f})"
    answer = int(seen.scores[place].argmax())
    of = "" if answer == label else f"{called(label, subject.classes)}: "
    return f"{called(answer, subject.classes)} ({of}{score:.2f})"


def _sample(look: Look, shown: Shown, wording: Wording, names: Sequence[str], changed: bool) -> Figure:
    first = look.subjects[0].name
    number = look.seen[first].numbers[shown.place]
    title = f"Sample {number}{_right(look, shown.place)}{': another answer' if changed else ''}"
    about = "Gradient x input: orange or upwards speaks for the class, blue or downwards against it. "
    about += "; ".join(f"{name}: {said(look, name, shown.place)}" for name in names)
    kind = look.seen[first].input.kind
    draw = _beside if kind == "picture" else _below
    return Figure(f"sample-{number}", title, about, draw(look, shown, wording, names, (title, about)))


def _right(look: Look, place: int) -> str:
    """The right answer, where it is known."""
    subject = look.subjects[0]
    right = look.seen[subject.name].right
    if right is None:
        return ""
    if subject.reading.several:
        label = int(look.seen[subject.name].classes[place])
        known = int(right[place, label])
        return "" if known < 0 else f" ({called(label, subject.classes)}: {'yes' if known else 'no'})"
    return "" if int(right[place]) < 0 else f" ({called(int(right[place]), subject.classes)})"


def _beside(look: Look, shown: Shown, wording: Wording, names: Sequence[str], words: tuple[str, str]) -> str:
    """A picture, and each network's map of it to its right."""
    cells = [("the input", "", _photo(look, shown.input))]
    cells += [
        (name, said(look, name, shown.place), svg.heat(pooled(np.asarray(shown.products[name]), PIXELS)))
        for name in names
    ]
    return _cells(cells, words)


def _photo(look: Look, picture: Array) -> Array:
    """A picture as it was before it was normalised, as far as that is known."""
    settings = look.subjects[0].settings
    small = pooled(picture, PIXELS)
    if len(settings.mean) == len(settings.std) == len(picture):
        mean, std = (np.array(one)[:, None, None] for one in (settings.mean, settings.std))
        return svg.photo(small * std + mean, 0.0, 1.0)
    return svg.photo(small, float(picture.min()), float(picture.max()))


def _cells(cells: Sequence[tuple[str, str, Array]], words: tuple[str, str]) -> str:
    """Pictures in a row, each with two lines below it."""
    body, high = [], CELL
    for place, (above, below, pixels) in enumerate(cells):
        x = MARGIN + place * (CELL + GAP)
        height = CELL * pixels.shape[0] / pixels.shape[1]
        high = max(high, height)
        body += [svg.image(x, 24, CELL, height, pixels), svg.text(x, 40 + height, above)]
        body.append(svg.text(x, 56 + height, below, more="opacity='.8'"))
    width = 2 * MARGIN + len(cells) * (CELL + GAP) - GAP
    return svg.document(width, high + 64, *words, [svg.text(MARGIN, 14, words[0], more="font-weight='bold'"), *body])


def _below(look: Look, shown: Shown, wording: Wording, names: Sequence[str], words: tuple[str, str]) -> str:
    """A sequence as each network sees it, one below the other, and scores along it."""
    named = _named(look, shown, wording)
    step = min(STEP if named else COLUMN, COLUMN / max(len(next(iter(shown.products.values()))), 1))
    body, y = [svg.text(MARGIN, 14, words[0], more="font-weight='bold'")], 20.0
    for name in names:
        body.append(svg.text(MARGIN, y + 14, f"{name}: {said(look, name, shown.place)}"))
        y += 20 + BAND
        body += [*_marks(np.asarray(shown.products[name]), named, step, y), _rule(shown, name, step, y)]
        y += BAND
        read = shown.along[name]
        if read is not None and not isinstance(read, str):
            body += _lines(read, step * len(shown.products[name]), y)
            y += LINES + 18
    tokens = look.seen[look.subjects[0].name].input.kind == "tokens"
    if tokens and len(named) <= WORDS:
        body += [
            f"<g transform='translate({MARGIN + (n + 0.6) * step:.1f} {y + 6:.1f}) rotate(60)' font-size='11'>"
            f"{svg.text(0, 0, word)}</g>"
            for n, word in enumerate(named)
        ]
        y += 70
    width = max(NARROWEST, step * max(map(len, shown.products.values())))
    return svg.document(width + 2 * MARGIN, y + MARGIN, *words, body)


def _rule(shown: Shown, name: str, step: float, y: float) -> str:
    return svg.rule(MARGIN, y, step * len(shown.products[name]))


def _named(look: Look, shown: Shown, wording: Wording) -> list[str]:
    """What stands at each place of a sequence: letters or tokens; nothing where a place has no letter."""
    kind = look.seen[look.subjects[0].name].input.kind
    if kind == "tokens":
        return [wording.token(int(number)) for number in shown.input]
    if not np.isin(shown.input, (0, 1)).all():
        return []
    count = shown.input.shape[1]
    return [wording.letter(int(row.argmax()), count) if row.any() else "-" for row in shown.input]


def _marks(values: Array, named: Sequence[str], step: float, y: float) -> list[str]:
    """Letters as high as a map's values; bars where they would be too narrow, or are words."""
    heights = (BAND * values / max(float(np.abs(values).max()), 1e-12)).tolist()
    if len(named) == len(heights) and step >= NARROW and all(len(one) == 1 for one in named):
        columns = [[(letter, height)] for letter, height in zip(named, heights, strict=True)]
        return [svg.letters(MARGIN, y, step, BAND, columns)]
    return [svg.bars(MARGIN, y, step, heights)]


def _lines(read: Along, width: float, y: float) -> list[str]:
    """Scores as a recurrent network reads a sequence: from the left (solid), and from the right (dashed)."""
    ways = [np.asarray(one[0]) for one in (read.forward, read.backward)]
    low, high = min(float(one.min()) for one in ways), max(float(one.max()) for one in ways)
    scale = LINES / max(high - low, 1e-12)
    xs = [MARGIN + width * (step - 0.5) / read.all for step in read.steps]
    drawn = [
        svg.line([(x, y + LINES - scale * (value - low)) for x, value in zip(xs, way.tolist(), strict=True)], dashed)
        for way, dashed in zip(ways, (False, True), strict=True)
    ]
    words = f"score by what is read so far, {low:.1f} to {high:.1f}: from the left (solid), from the right (dashed)"
    return [*drawn, svg.text(MARGIN, y + LINES + 14, words, more="opacity='.8'")]


def _picture_of(look: Look, label: int, wording: Wording, names: Sequence[str]) -> Figure:
    """A class as a picture."""
    title = f"What {called(label, look.subjects[0].classes)} looks like"
    about = "The picture that raises the class's score most, by gradient ascent. "
    about += "; ".join(_raised(look, label, name) for name in names)
    cells = []
    for name in names:
        picture = pooled(np.asarray(look.optimal[label][name].input), PIXELS)
        pixels = svg.photo(picture, float(picture.min()), float(picture.max()))
        cells.append((name, _raised(look, label, name).removeprefix(f"{name}: "), pixels))
    return Figure(f"class-{label}", title, about, _cells(cells, (title, about)))


def _letters_of(look: Look, label: int, wording: Wording, names: Sequence[str]) -> Figure:
    """A class as a sequence: letters as high as the information in them, in bits."""
    title = f"What {called(label, look.subjects[0].classes)} looks like"
    about = "The sequence that raises the class's score most, by gradient ascent, as a weight matrix in bits. "
    about += "; ".join(_raised(look, label, name) for name in names)
    body, y = [svg.text(MARGIN, 14, title, more="font-weight='bold'")], 20.0
    for name in names:
        body.append(svg.text(MARGIN, y + 14, _raised(look, label, name)))
        y += 20 + 2 * BAND
        weights = np.asarray(look.optimal[label][name].weights())
        step = min(STEP, COLUMN / len(weights))
        body += [_logo(weights, wording, step, y), svg.rule(MARGIN, y, step * len(weights))]
        y += 8
    return Figure(f"class-{label}", title, about, svg.document(COLUMN + 2 * MARGIN, y + MARGIN, title, about, body))


def _logo(weights: Array, wording: Wording, step: float, y: float) -> str:
    """A weight matrix [t, letters], the weakest letter of a place at the bottom (Schneider and Stephens 1990)."""
    count = weights.shape[1]
    bits = np.log2(count) + (weights * np.log2(weights)).sum(1)
    heights = 2 * BAND / np.log2(count) * bits[:, None] * weights
    if step < NARROW:
        return svg.bars(MARGIN, y, step, heights.sum(1).tolist())
    columns = [[(wording.letter(int(n), count), float(row[n])) for n in row.argsort()] for row in heights]
    return svg.letters(MARGIN, y, step, 2 * BAND, columns)


def _raised(look: Look, label: int, name: str) -> str:
    made = look.optimal[label][name]
    return f"{name}: score {made.start:.1f} to {made.score:.1f}"

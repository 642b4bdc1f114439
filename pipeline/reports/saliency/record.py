"""What networks look at as JSON: all of it in a folder, a summary, and a small record in the store for reports.

Numbers are those of `stages.saliency`; maps of pictures are averaged to `SIDE` pixels at most. A record holds pictures
as SVG that can stand in a page: text has the page's colour, there are no scripts, links or ids, and names are escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dualprune.pipeline.reports.saliency.figures import Figure, figures, pooled, said
from dualprune.pipeline.reports.saliency.wording import Wording, called

if TYPE_CHECKING:
    from dualprune.stages.saliency.compare import Compared
    from dualprune.stages.saliency.look import Look, Shown
    from dualprune.stages.saliency.optimal import Optimal

FORMAT = 1
FILE = "saliency.json"
SIDE = 64
"""Pixels of a map's longer side in JSON."""
KEPT = 300_000
"""Bytes of a record in the store, at most: pictures that don't fit are left out."""
LISTED = 200
"""Changed samples that it lists, at most."""


def written(look: Look, wording: Wording, split: str, folder: Path) -> int:
    """Write all pictures and numbers to a folder; the number of pictures. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    found = list(figures(look, wording, [one.name for one in look.subjects]))
    for figure in found:
        (folder / f"{figure.name}.svg").write_text(figure.svg)
    (folder / FILE).write_text(json.dumps(whole(look, wording, split, found)))
    return len(found)


def summary(look: Look, split: str) -> dict[str, Any]:
    """The object that `--json` prints: networks side by side, without maps."""
    first = look.subjects[0]
    seen = look.seen[first.name]
    return {
        "format": FORMAT,
        "split": split,
        "samples": len(seen.numbers),
        "field": seen.input.field,
        "kind": seen.input.kind,
        "dense": {"name": first.name, "key": first.key},
        "networks": [
            {"name": one.name, "key": one.key, **_compared(look, look.compared[one.name])}
            for one in look.subjects
            if one.name in look.compared
        ],
        "classes": {str(label): called(label, first.classes) for label in look.optimal},
        "scores": {
            str(label): {name: {"start": one.start, "end": one.score} for name, one in made.items()}
            for label, made in look.optimal.items()
        },
        "notes": list(look.notes),
    }


def whole(look: Look, wording: Wording, split: str, drawn: Sequence[Figure]) -> dict[str, Any]:
    """All numbers: of each sample that is shown its input and maps, and the inputs of classes."""
    return {
        **summary(look, split),
        "shown": [_shown(look, one) for one in look.shown],
        "optimal": {
            str(label): {name: _optimal(look, wording, one) for name, one in made.items()}
            for label, made in look.optimal.items()
        },
        "figures": [{"file": f"{one.name}.svg", "title": one.title, "about": one.about} for one in drawn],
    }


def kept(look: Look, wording: Wording, split: str, name: str) -> dict[str, Any]:
    """The record of one network beside the dense one, with as many pictures as `KEPT` has room for."""
    first = look.subjects[0].name
    found = summary(look, split)
    found["networks"] = [one for one in found["networks"] if one["name"] == name]
    for one in found["networks"]:
        one["changed"] = one["changed"][:LISTED]
        del one["each"]
    found["figures"], found["left_out"] = [], 0
    size = len(json.dumps(found))
    for figure in figures(look, wording, list(dict.fromkeys((first, name)))):
        entry = {"name": figure.name, "title": figure.title, "about": figure.about, "svg": figure.svg}
        more = len(json.dumps(entry)) + 2
        if size + more > KEPT:
            found["left_out"] += 1
            continue
        found["figures"].append(entry)
        size += more
    return found


def _compared(look: Look, beside: Compared) -> dict[str, Any]:
    """Changed samples by their numbers in the split, with what was said before and after."""
    first = look.subjects[0].name
    name = next(n for n, one in look.compared.items() if one is beside)
    numbers = look.seen[first].numbers
    return {
        "agreement": beside.agreement,
        "changed": [
            {"sample": numbers[place], "before": said(look, first, place), "after": said(look, name, place)}
            for place in beside.changed
        ],
        "better": beside.better,
        "worse": beside.worse,
        "product": None if beside.product is None else beside.product._asdict(),
        "strength": None if beside.strength is None else beside.strength._asdict(),
        "each": None if beside.each is None else _rounded(beside.each),
    }


def _shown(look: Look, shown: Shown) -> dict[str, Any]:
    first = look.subjects[0]
    seen = look.seen[first.name]
    picture = seen.input.kind == "picture"
    return {
        "sample": seen.numbers[shown.place],
        "class": int(seen.classes[shown.place]),
        "input": _rounded(pooled(shown.input, SIDE) if picture else shown.input),
        "networks": {
            name: {
                "says": said(look, name, shown.place),
                "scores": _rounded(look.seen[name].scores[shown.place]),
                "product": _rounded(pooled(np.asarray(product), SIDE) if picture else product),
                "strength": _rounded(
                    pooled(np.asarray(shown.strengths[name]), SIDE) if picture else shown.strengths[name]
                ),
                "along": _along(shown.along[name]),
            }
            for name, product in shown.products.items()
        },
    }


def _along(read: Any) -> Any:
    if read is None or isinstance(read, str):
        return read
    ways = {way: _rounded(getattr(read, way)[0]) for way in ("forward", "backward")}
    return {"steps": list(read.steps), "all": read.all, **ways}


def _optimal(look: Look, wording: Wording, made: Optimal) -> dict[str, Any]:
    """A class's input; of tokens the strongest at each place, and not the weight of each in the vocabulary."""
    found: dict[str, Any] = {"start": made.start, "end": made.score}
    kind = look.seen[look.subjects[0].name].input.kind
    if kind == "picture":
        return {**found, "input": _rounded(pooled(np.asarray(made.input), SIDE))}
    if kind == "sequence":
        return {**found, "weights": _rounded(made.weights())}
    best = np.asarray(made.input).argmax(1)
    values = np.asarray(made.input).max(1)
    return {**found, "tokens": [wording.token(int(one)) for one in best], "values": _rounded(values)}


def _rounded(values: Any) -> Any:
    """Numbers as JSON has them, to four digits; whole ones as they are."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.tolist()
    if array.ndim:
        return [_rounded(one) for one in array]
    return float(f"{float(array):.4g}")

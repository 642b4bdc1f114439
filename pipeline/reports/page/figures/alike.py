"""How alike the masks of stages are."""

from __future__ import annotations

from functools import partial

from dualprune.pipeline.reports.page.facts import Overlap, Run
from dualprune.pipeline.reports.page.figures.base import (
    Figure,
    Spec,
    Table,
    fixed,
    percent,
    quantitative,
    shortened,
    width_of,
)
from dualprune.pipeline.reports.page.figures.marks import mark, text
from dualprune.pipeline.reports.page.theme import SIZE, STEPS, colour

TIGHT = 26
"""Pixels of a cell across up to which its number is smaller."""
CELL, WIDEST = (64, 32), 110
"""Pixels of a cell, at most; across where it has a name above it."""


def alike(run: Run) -> Figure | None:
    """Of what the row keeps, how much the column keeps."""
    found = run.overlap
    if found is None or len(found.stages) < 2:
        return None
    sentence = "Of the weights that the row keeps, per cent that the column keeps too."
    table = Table(
        ("of what it keeps", *found.stages),
        tuple((row, *(_cell(found, row, column) for column in found.stages)) for row in found.stages),
    )
    return Figure("masks", "How alike are the masks?", sentence, partial(_spec, found), table)


def _cell(found: Overlap, row: str, column: str) -> str:
    share = found.shares.get((row, column))
    return "-" if share is None else percent(100 * share)


def _spec(found: Overlap, width: int) -> Spec:
    count = len(found.stages)
    longest = max(map(width_of, found.stages))
    numbered = longest + 10 > min(WIDEST, (width - min(0.34 * width, longest + 14)) / count)
    names = [f"{number + 1}  {name}" if numbered else name for number, name in enumerate(found.stages)]
    left = min(0.34 * width, max(map(width_of, names)) + 14)
    wide = min(CELL[0] if numbered else WIDEST, (width - left - 4) / count)
    inner, height = wide * count, CELL[1] * count
    x, y = quantitative("x", (0, count)), quantitative("y", (count, 0))
    at = {"x": x, "y": y}
    layers = []
    for step in range(STEPS):
        cells = [
            {
                "x": column + 0.02,
                "x2": column + 0.98,
                "y": row + 0.04,
                "y2": row + 0.96,
                "tip": f"of what {a} keeps, {b} keeps {percent(100 * found.shares[a, b])}",
                "cx": column + 0.5,
                "cy": row + 0.5,
                "text": f"{100 * found.shares[a, b]:.0f}",
            }
            for row, a in enumerate(found.stages)
            for column, b in enumerate(found.stages)
            if (a, b) in found.shares and min(STEPS - 1, int(found.shares[a, b] * STEPS)) == step
        ]
        if cells:
            ends = {"x2": {"field": "x2"}, "y2": {"field": "y2"}}
            layers.append(mark("rect", cells, {**at, **ends}, fill=colour(f"h{step}")))
            middles = [{"x": one["cx"], "y": one["cy"], "text": one["text"]} for one in cells]
            layers.append(text(middles, at, fill=colour(f"t{step}"), fontSize=SIZE if wide > TIGHT else SIZE - 2))
    side = [{"y": number + 0.5, "text": shortened(name, left - 12)} for number, name in enumerate(names)]
    layers.append(text(side, {"y": y, "x": {"value": -10}}, align="right"))
    heads = [
        {"x": number + 0.5, "text": str(number + 1) if numbered else name} for number, name in enumerate(found.stages)
    ]
    layers.append(text(heads, {"x": x, "y": {"value": -12}}, align="center", fill=colour("soft")))
    return fixed({"layer": layers}, inner, height, {"left": left, "right": 4, "top": 26, "bottom": 4})

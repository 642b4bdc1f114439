"""Layers of figures: marks with their data; and rows, whose names are on the left and whose numbers on the right."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualprune.pipeline.reports.page.figures.base import Spec, fixed, quantitative, shortened, width_of
from dualprune.pipeline.reports.page.theme import SIZE, colour

Data = Sequence[Mapping[str, Any]]
TIP = "tip"
"""The field of a mark's data that says what it shows."""
STEP = 24
"""Pixels of a row."""
GAP = 10
"""Between a row and the texts beside it."""


def mark(kind: str, data: Data, encoding: Mapping[str, Any], **how: Any) -> Spec:
    """Marks of one kind; those whose data have a tip say it."""
    says = bool(data) and TIP in data[0]
    described = {"description": {"field": TIP}} if says else {}
    return {
        "data": {"values": list(data)},
        "mark": {"type": kind, "aria": says, "clip": False, **how},
        "encoding": {**encoding, **described},
    }


def text(data: Data, encoding: Mapping[str, Any], **how: Any) -> Spec:
    """Texts from the field `text`."""
    return mark("text", data, {**encoding, "text": {"field": "text"}}, **{"baseline": "middle", **how})


def dots(data: Data, encoding: Mapping[str, Any], name: str, area: int = 60, **how: Any) -> Spec:
    """Round marks of one colour, set off from what is behind them."""
    look = {"filled": True, "fill": colour(name), "opacity": 1, "size": area, "stroke": colour("paper")}
    return mark("point", data, encoding, **{**look, "strokeWidth": 1.5, **how})


@dataclass(frozen=True)
class Rows:
    """A figure of rows: where they are, and what stands beside them."""

    names: tuple[str, ...]
    right: tuple[str, ...]
    """What stands at the right of each."""
    left: float
    width: float
    """Of what is between."""
    beside: float

    @property
    def height(self) -> float:
        return STEP * len(self.names)

    @property
    def y(self) -> dict[str, Any]:
        """The position of a row by its number, the field `row`."""
        return quantitative("row", (len(self.names) - 0.5, -0.5))

    def bars(self, data: Data, x: Mapping[str, Any], name: str, thick: float = 0.56) -> Spec:
        """Bars from the fields `x` to `x2` in their rows, of one colour."""
        high = [{**one, "row": one["row"] - thick / 2, "row2": one["row"] + thick / 2} for one in data]
        at = {"x": x, "x2": {"field": "x2"}, "y": self.y, "y2": {"field": "row2"}}
        return mark("rect", high, at, fill=colour(name))

    def texts(self, strong: Collection[int] = ()) -> list[Spec]:
        """The names and numbers; those of some rows are strong."""
        left = [
            {"row": number, "text": shortened(name, self.left - GAP), "full": name}
            for number, name in enumerate(self.names)
        ]
        right = [{"row": number, "text": name} for number, name in enumerate(self.right)]
        found = []
        for rows, align, x in ((left, "right", -GAP), (right, "left", self.width + GAP)):
            for weight, some in (("normal", False), ("bold", True)):
                these = [row for row in rows if (row["row"] in strong) is some]
                if these:
                    encoding = {"y": self.y, "x": {"value": x}}
                    found.append(text(these, encoding, align=align, fontWeight=weight))
        return found

    def spec(self, layers: Sequence[Spec], bottom: float = 44, top: float = 6) -> Spec:
        """The figure, with room for an axis below."""
        padding = {"left": self.left, "right": self.beside, "top": top, "bottom": bottom}
        return fixed({"layer": list(layers)}, self.width, self.height, padding)


def rows(names: Sequence[str], right: Sequence[str], pixels: float, least: float = 0.3) -> Rows:
    """Rows for a figure of a width; names are shortened, so that at least a share of it is left for the marks."""
    beside = GAP + max(map(width_of, right), default=0) + 4 if any(right) else 12
    most = max(60.0, pixels * (1 - least) - beside)
    left = min(most, max((width_of(name) for name in names), default=0) + GAP + 4)
    return Rows(tuple(names), tuple(right), left, pixels - left - beside, beside)


def axis(title: str, values: Sequence[float], label: str | None = None, **how: Any) -> dict[str, Any]:
    """An axis with ticks where they are given. `label` is Vega's expression of a tick's text."""
    found = {"title": title, "values": list(values), "labelFontSize": SIZE, **how}
    return found if label is None else {**found, "labelExpr": label}

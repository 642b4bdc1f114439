"""What a figure is, and what figures have in common: numbers as text, ticks, the room that text takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.theme import SIZE

Spec = dict[str, Any]
"""A Vega-Lite specification."""
Cell = str | int | float | None

WIDE, NARROW = 900, 350
"""Pixels of a figure on a screen and on a telephone: it is drawn for each."""


@dataclass(frozen=True)
class Table:
    """A figure's numbers."""

    titles: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Figure:
    """Something that a page shows: what it is, what it says, a picture of a given width, and its numbers."""

    name: str
    """Of its files, and its place in the page."""
    title: str
    sentence: str
    spec: Callable[[int], Spec]
    table: Table


def tick_count(pixels: float, each: float) -> int:
    """How many ticks have room."""
    return max(2, int(pixels / each))


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers within two others."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """The same for a log axis: 1, 2 and 5 times powers of ten, or fewer of these."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [float(f"{one:.10g}") for one in found if low * 0.999 <= one <= high * 1.001]
        if len(found) <= most:
            break
    while len(found) > most:
        found = found[::2]
    return found or [low]


def padded(values: Iterable[float], share: float = 0.08, least: float = 0.0) -> tuple[float, float]:
    """Bounds around values, some space on both sides; at least `least` apart."""
    known = list(values)
    low, high = min(known), max(known)
    extra = max((high - low) * share, (least - (high - low)) / 2, 1e-9 * max(1.0, abs(high)))
    return low - extra, high + extra


def log_padded(values: Iterable[float], share: float = 0.06) -> tuple[float, float]:
    """The same for a log axis."""
    low, high = padded((math.log10(one) for one in values), share, least=0.3)
    return 10.0**low, 10.0**high


def width_of(text: str, size: float = SIZE) -> float:
    """About how many pixels a text takes in an Arial of this size, rather more than less."""
    return size * sum(_WIDTHS.get(one, 0.66 if one.isupper() else 0.56) for one in text)


_WIDTHS = dict.fromkeys("ijl.,:;|!'", 0.25) | dict.fromkeys("tfr()[]-/ ", 0.34) | dict.fromkeys("mwMW@%", 0.89)


def shortened(text: str, pixels: float, size: float = SIZE) -> str:
    """A text that fits, its middle left out where it does not."""
    if width_of(text, size) <= pixels:
        return text
    for left in range(len(text) - 1, 1, -1):
        found = f"{text[: (left + 1) // 2]}…{text[len(text) - left // 2 :]}"
        if width_of(found, size) <= pixels:
            return found
    return "…"


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places for labels as near as can be to those wanted, in their order, `apart` pixels or more from each other."""
    order = sorted(range(len(places)), key=lambda number: places[number])
    found = [min(max(one, low), high) for one in places]
    for before, after in pairwise(order):
        found[after] = max(found[after], found[before] + apart)
    if order and found[order[-1]] > high:
        found[order[-1]] = high
        for before, after in reversed(list(pairwise(order))):
            found[before] = min(found[before], found[after] - apart)
    return found


def tipped(text: str) -> dict[str, Any]:
    """The encoding by which a mark says `text`, a field of its data, when it is pointed at."""
    return {"field": text}


def fixed(spec: Mapping[str, Any], width: float, height: float, padding: Mapping[str, float]) -> Spec:
    """A figure whose every pixel is known: what lies around its axes is `padding`."""
    return {"width": width, "height": height, "padding": dict(padding), "autosize": {"type": "none"}, **spec}


def quantitative(field: str, domain: Sequence[float], *, log: bool = False, axis: Any = None) -> dict[str, Any]:
    """A position by a number, its scale as given."""
    scale = {"type": "log" if log else "linear", "domain": list(domain), "nice": False, "zero": False}
    return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}


def place(value: float, domain: Sequence[float], pixels: float, *, log: bool = False) -> float:
    """Where such a scale puts a value, from its beginning."""
    low, high, at = (math.log(one) if log else one for one in (*domain, value))
    return pixels * (at - low) / (high - low)


def plural(count: int, one: str, several: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


def times(value: float | None) -> str:
    """A rate: 25.0×."""
    if value is None:
        return "-"
    return f"{value:.3g}×" if value < 1000 else f"{value:,.0f}×"


def percent(value: float | None) -> str:
    """A share of 100, in as many digits as say something."""
    if value is None:
        return "-"
    if value == 0 or value >= 99.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if value >= 10 else f"{value:.2g} %"


def signed(value: float, unit: str) -> str:
    """A difference of a metric, with its sign."""
    return f"{'+' if value > 0 else '−' if value < 0 else '±'}{number(abs(value), unit)}"


def size(count: float | None) -> str:
    """Bytes, for people."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def lasting(seconds: float | None) -> str:
    """A time, for people."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None

"""Colours by what they are for, light and dark, and the look of all figures.

Two hues that colour-blind people can tell apart, and greys. Figures name colours as CSS variables, so that one picture
is right in both; for files the variables are replaced.
"""

from __future__ import annotations

import re
from typing import Any

COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14171c"),
    "ink": ("#16191d", "#eceff3"),
    "soft": ("#565e68", "#a7b0bb"),
    "line": ("#e3e6ea", "#2a3037"),
    "rule": ("#a2a9b2", "#555e69"),
    "grey": ("#858d97", "#838d99"),
    "band": ("#f0f3f6", "#1d2229"),
    "blue": ("#0a5fb0", "#6ab4f7"),
    "pale": ("#9fc8ec", "#2f6392"),
    "orange": ("#ad4508", "#f2a45c"),
    "s0": ("#0a5fb0", "#6ab4f7"),
    "s1": ("#ad4508", "#f2a45c"),
    "s2": ("#00725a", "#4ecbaa"),
    "s3": ("#9b3a76", "#e79ac8"),
    "s4": ("#6b6200", "#d6c84a"),
    "s5": ("#4a5560", "#b3bec9"),
    "h0": ("#eef4fa", "#1a222b"),
    "h1": ("#d0e3f4", "#1c3953"),
    "h2": ("#a5cbeb", "#22537c"),
    "h3": ("#6eaadb", "#5c9fd7"),
    "h4": ("#226fb0", "#95c7f1"),
    "h5": ("#0a457b", "#d5eafb"),
    "t0": ("#16191d", "#eceff3"),
    "t1": ("#16191d", "#eceff3"),
    "t2": ("#16191d", "#eceff3"),
    "t3": ("#16191d", "#14171c"),
    "t4": ("#ffffff", "#14171c"),
    "t5": ("#ffffff", "#14171c"),
}
"""`s0` to `s5` are for series side by side, `h0` to `h5` steps from little to much, `t0` to `t5` text on these."""
STEPS = 6
"""Of `h` and `t`."""
SERIES = 6
"""Of `s`."""
FONT = 'Arial, "Liberation Sans", Helvetica, sans-serif'
"""Of one width everywhere: texts were measured where the figure was drawn."""
SIZE = 12
"""Pixels of a figure's text."""


def colour(name: str) -> str:
    """A colour as figures name it."""
    assert name in COLOURS, name
    return f"var(--{name})"


def resolved(svg: str) -> str:
    """A picture with the light colours themselves, for readers that know no variables."""
    return re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]][0], svg)


def variables(dark: bool) -> str:
    """CSS that gives the variables their values."""
    return "".join(f"--{name}:{values[dark]};" for name, values in COLOURS.items())


CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "domain": False,
        "ticks": False,
        "labelColor": colour("soft"),
        "labelFontSize": SIZE,
        "labelPadding": 6,
        "labelFontWeight": "normal",
        "titleColor": colour("soft"),
        "titleFontSize": SIZE,
        "titleFontWeight": "normal",
        "gridColor": colour("line"),
        "aria": False,
    },
    "title": {
        "anchor": "start",
        "frame": "group",
        "color": colour("ink"),
        "fontSize": 13,
        "fontWeight": "bold",
        "subtitleColor": colour("soft"),
        "subtitleFontSize": SIZE,
        "offset": 8,
    },
    "text": {"color": colour("ink"), "fontSize": SIZE},
    "concat": {"spacing": 20},
}
"""Vega-Lite's, for all figures."""

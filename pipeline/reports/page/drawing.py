"""Figures drawn to SVG by vl-convert, and made fit to stand in a page beside others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from dualprune.pipeline.reports.page.theme import CONFIG, SIZE, resolved

SVG = "{http://www.w3.org/2000/svg}"
NEEDED = "figures are drawn by vl-convert-python, which is not installed: pip install 'dualprune[report]'"
DROPPED = ("class", "role", "aria-roledescription", "aria-hidden", "version", "style", "font-family", "pointer-events")
"""Attributes that a page has no use for: the table below each figure says what it shows, and text looks as all has."""
USUAL = {"opacity": "1", "font-size": f"{SIZE}px", "font-weight": "normal", "stroke-miterlimit": "10"}
"""Attributes that say nothing where they have these values."""
PLACES = ("d", "transform", "x", "y", "x2", "y2", "width", "height")
"""Attributes whose numbers are pixels, of which hundredths are enough."""
_SHAPES = ("svg", "g", "path", "rect", "line", "polyline", "circle", "text", "tspan", "image")
SHAPES = frozenset(f"{SVG}{name}" for name in _SHAPES)
"""Elements that are taken of pictures from a store."""
_PLACED = ("viewBox", "width", "height", "x", "y", "x1", "y1", "x2", "y2", "dx", "dy", "cx", "cy", "r", "d", "points")
_PAINTED = ("fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "opacity")
_WRITTEN = ("font-size", "font-weight", "text-anchor")
LOOKS = frozenset((*_PLACED, *_PAINTED, *_WRITTEN, "transform", "preserveAspectRatio", "href"))
"""Their attributes."""
PIXELS = "data:image/png;base64,"
"""What an image may refer to."""
ROOM = 12
"""Pixels around a figure that stands alone."""
SHARPER = 2.0
"""Pixels of a PNG for each of the figure's."""
_ID, _USED = re.compile(r' id="([\w-]+)"'), re.compile(r'( id="|url\(#)([\w-]+)')
_NUMBER = re.compile(r"-?\d+\.\d{3,}")

ElementTree.register_namespace("", SVG[1:-1])


class NoDrawing(Exception):
    """What draws figures is not installed. The message says how it is."""


def svg(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite figure as SVG; its colours are CSS variables. Reads no data from anywhere. Raises NoDrawing."""
    try:
        import vl_convert
    except ImportError:
        raise NoDrawing(NEEDED) from None
    drawn: str = vl_convert.vegalite_to_svg({"config": CONFIG, **spec}, allowed_base_urls=[])
    return _numbered(drawn)


def _numbered(drawn: str) -> str:
    """A picture whose ids are numbered from 1 on; Vega counts all that a process draws."""
    names = {name: f"i{number}" for number, name in enumerate(dict.fromkeys(_ID.findall(drawn)), 1)}
    return _USED.sub(lambda found: f"{found[1]}{names.get(found[2], found[2])}", drawn)


def png(spec: Mapping[str, Any]) -> bytes:
    """The same in light colours on white, as a picture. Raises NoDrawing."""
    import vl_convert

    drawn: bytes = vl_convert.svg_to_png(alone(spec), scale=SHARPER)
    return drawn


def alone(spec: Mapping[str, Any]) -> str:
    """As an SVG file of its own, in light colours on white. Raises NoDrawing."""
    around = spec.get("padding", 0)
    sides = around if isinstance(around, Mapping) else dict.fromkeys(("left", "right", "top", "bottom"), around)
    padding = {side: room + ROOM for side, room in sides.items()}
    return resolved(svg({"background": "var(--paper)", **spec, "padding": padding}))


def inlined(drawn: str, prefix: str) -> str:
    """An SVG for a page: ids begin with `prefix`, and what a mark says is its `data-tip`."""
    root = ElementTree.fromstring(drawn)
    for above in root.iter():
        for one in [one for one in above if _empty(one)]:
            above.remove(one)
    for one in root.iter():
        tip = one.attrib.pop("aria-label", None)
        if tip and len(one) == 0:
            one.set("data-tip", tip)
        for name in (*DROPPED, *(name for name, value in USUAL.items() if one.get(name) == value)):
            one.attrib.pop(name, None)
        for name, value in list(one.attrib.items()):
            if name == "id":
                value = f"{prefix}{value}"
            elif "url(#" in value:
                value = value.replace("url(#", f"url(#{prefix}")
            one.set(name, _NUMBER.sub(_short, value) if name in PLACES else value)
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    return ElementTree.tostring(root, encoding="unicode")


def taken(drawn: str) -> str:
    """A picture from a store for a page: its shapes, texts and pixels, and nothing else that it may hold. Raises
    ValueError for what is no SVG."""
    try:
        root = ElementTree.fromstring(drawn)
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no SVG: {error}") from None
    if root.tag != f"{SVG}svg":
        raise ValueError("it is no SVG")
    for above in list(root.iter()):
        for one in [one for one in above if one.tag not in SHAPES]:
            above.remove(one)
    for one in root.iter():
        for name, value in list(one.attrib.items()):
            if name not in LOOKS or "url(" in value or (name == "href" and not value.startswith(PIXELS)):
                del one.attrib[name]
    root.set("aria-hidden", "true")
    root.set("focusable", "false")
    return ElementTree.tostring(root, encoding="unicode")


def _empty(one: ElementTree.Element) -> bool:
    """Whether an element draws nothing: Vega has one before and one after each group."""
    d = one.get("d")
    return one.tag == f"{SVG}path" and (not d or d == "M0,0h0v0h0Z" or one.get("display") == "none")


def _short(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")

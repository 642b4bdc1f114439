"""SVG by hand: pictures, heat maps, letters as high as their numbers, bars and lines. Text has the page's colour."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]

FOR, AGAINST = (178, 88, 0), (0, 92, 158)
"""What speaks for a class, and against it: orange and blue, which colour-blind people can tell apart."""
LETTERS = {"A": "#00805e", "C": "#0067a5", "G": "#a36a00", "T": "#c2410c", "U": "#c2410c"}
"""Others have the colour of bars."""
CAPITAL, WIDTH = 7.2, 7.2
"""Height and width of a capital letter of 10 px, bold Arial."""
FONT = "font-family='Arial, Liberation Sans, Helvetica, sans-serif'"


def document(width: float, height: float, title: str, about: str, body: Sequence[str]) -> str:
    """A whole picture: `title` is its name, and `about` says in words what it shows."""
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_n(width)} {_n(height)}' width='{_n(width)}' "
    head += f"role='img' aria-label='{_escaped(f'{title}. {about}')}' {FONT} font-size='12' "
    head += "fill='currentColor'>"
    return "".join([head, f"<title>{_escaped(title)}</title>", *body, "</svg>"])


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    """A line of text."""
    return f"<text x='{_n(x)}' y='{_n(y)}' text-anchor='{anchor}' {more}>{_escaped(words)}</text>"


def image(x: float, y: float, width: float, height: float, pixels: Array) -> str:
    """Pixels [h, w, 3], uint8, each as large as the place allows, with sharp borders."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    place = f"x='{_n(x)}' y='{_n(y)}' width='{_n(width)}' height='{_n(height)}'"
    return (
        f"<image {place} preserveAspectRatio='none' style='image-rendering:pixelated' "
        f"href='data:image/png;base64,{data}'/>"
    )


def heat(values: Array) -> Array:
    """A map [h, w] as pixels: white is nothing, orange speaks for the class, blue against it, by its largest value."""
    share = values / max(float(np.abs(values).max()), 1e-12)
    strength = np.sqrt(np.abs(share))[..., None]  # else a few pixels are all that is seen
    colour = np.where(share[..., None] >= 0, np.array(FOR), np.array(AGAINST))
    found: Array = (255 + strength * (colour - 255)).round().astype(np.uint8)
    return found


def photo(values: Array, low: Array | float, high: Array | float) -> Array:
    """A picture [c, h, w] as pixels, from `low`, which is black, to `high`; of other than three channels, in grey."""
    share = np.clip((values - low) / np.maximum(np.asarray(high) - low, 1e-12), 0, 1)
    share = share if len(share) == 3 else share.mean(0, keepdims=True).repeat(3, 0)
    found: Array = (255 * share.transpose(1, 2, 0)).round().astype(np.uint8)
    return found


def letters(x: float, y: float, step: float, up: float, columns: Sequence[Sequence[tuple[str, float]]]) -> str:
    """Letters as high as their numbers, in px: those of a column on one another from the line `y` upwards; negative
    ones hang below it, upside down. No letter is higher than `up`."""
    found = []
    for place, column in enumerate(columns):
        above, below = y, y
        for letter, height in column:
            height = float(np.clip(height, -up, up))
            if abs(height) < 0.25:
                continue
            middle = x + (place + 0.5) * step
            bottom = above if height > 0 else below
            scale = f"scale({_n(step / WIDTH)} {_n(height / CAPITAL)})"
            move = f"translate({_n(middle)} {_n(bottom)})"
            colour = LETTERS.get(letter, "currentColor")
            found.append(f"<text transform='{move} {scale}' fill='{colour}'>{_escaped(letter)}</text>")
            above, below = (above - height, below) if height > 0 else (above, below - height)
    return f"<g font-size='10' font-weight='bold' text-anchor='middle'>{''.join(found)}</g>"


def bars(x: float, y: float, step: float, heights: Sequence[float]) -> str:
    """Bars from the line `y`, in px: upwards for the class, downwards against it."""
    width = max(step - 1, 0.5 * step)
    paths = {"up": "", "down": ""}
    for place, height in enumerate(heights):
        if abs(height) >= 0.05:
            paths["up" if height > 0 else "down"] += (
                f"M{_n(x + place * step)} {_n(y)}h{_n(width)}v{_n(-height)}h{_n(-width)}z"
            )
    colours = {"up": f"rgb{FOR}", "down": f"rgb{AGAINST}"}
    return "".join(f"<path d='{path}' fill='{colours[way]}'/>" for way, path in paths.items() if path)


def line(points: Sequence[tuple[float, float]], dashed: bool = False) -> str:
    """A line through points, in px."""
    path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    more = " stroke-dasharray='4 3'" if dashed else ""
    return f"<polyline points='{path}' fill='none' stroke='currentColor' stroke-width='1.5'{more}/>"


def rule(x: float, y: float, width: float) -> str:
    """A thin line from left to right."""
    return f"<path d='M{_n(x)} {_n(y)}h{_n(width)}' stroke='currentColor' stroke-opacity='.4'/>"


def _escaped(words: str) -> str:
    """Text as XML has it, which knows no control characters."""
    return escape("".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in words), quote=True)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") or "0"

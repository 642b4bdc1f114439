"""Pictures of what networks look at: what they are made of, and names that hold markup."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from dualprune.pipeline.reports.saliency import svg
from dualprune.pipeline.reports.saliency.figures import pooled
from dualprune.pipeline.reports.saliency.wording import Wording, called

SPACE = "{http://www.w3.org/2000/svg}"


def test_markup_is_text() -> None:
    """Of names that are not ours: classes, stages, tokens."""
    name = "<script>alert('x')</script> & \"y\""
    whole = svg.document(10, 10, name, name, [svg.text(0, 0, name), svg.letters(0, 5, 5, 5, [[("<", 3.0)]])])
    tree = ElementTree.fromstring(whole)
    assert [one.tag for one in tree.iter()] == [f"{SPACE}{tag}" for tag in ("svg", "title", "text", "g", "text")]
    assert tree.attrib["aria-label"] == f"{name}. {name}"
    assert [one.text for one in tree.iter(f"{SPACE}text")] == [name, "<"]


def test_control_characters_are_shown_as_such() -> None:
    """XML has none: a picture with one could not be opened."""
    tree = ElementTree.fromstring(svg.document(10, 10, "a\x00b", "c\x1b[31m", []))
    assert tree.attrib["aria-label"] == "a\ufffdb. c\ufffd[31m"


def test_heat() -> None:
    """White is nothing; the largest has the full colour, whichever its sign is."""
    pixels = svg.heat(np.array([[0.0, 1.0], [-4.0, 4.0]]))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert tuple(pixels[1, 0].tolist()) == svg.AGAINST
    assert tuple(pixels[1, 1].tolist()) == svg.FOR
    assert pixels[0, 1].tolist() == [round(255 + 0.5 * (colour - 255)) for colour in svg.FOR]
    assert (svg.heat(np.zeros((2, 2))) == 255).all()


def test_photo() -> None:
    picture = np.stack([np.zeros((2, 3)), np.ones((2, 3)), np.full((2, 3), 0.5)])
    assert svg.photo(picture, 0, 1)[0, 0].tolist() == [0, 255, 128]
    assert svg.photo(picture[:2], 0, 1)[1, 2].tolist() == [128, 128, 128]


def test_letters_hang_below_the_line_where_they_speak_against() -> None:
    drawn = ElementTree.fromstring(
        svg.letters(0, 50, 10, 30, [[("A", 10.0), ("C", 5.0)], [("G", -99.0)], [("T", 0.1)]])
    )
    moves = [one.attrib["transform"] for one in drawn]
    assert [one.text for one in drawn] == ["A", "C", "G"]
    assert moves[0].startswith("translate(5 50) scale(1.39 1.39)")
    assert moves[1].startswith("translate(5 40)")
    assert moves[2].startswith("translate(15 50) scale(1.39 -4.17)"), "as high as there is room, upside down"


@pytest.mark.parametrize(("side", "most", "after"), [(8, 8, 8), (9, 8, 5), (100, 32, 25)])
def test_pooling(side: int, most: int, after: int) -> None:
    values = np.ones((3, side, side))
    found = pooled(values, most)
    assert found.shape == (3, after, after)
    assert np.allclose(found, 1)


def test_names() -> None:
    assert [Wording().letter(n, 4) for n in range(4)] == list("ACGT")
    assert Wording().letter(2, 5) == "2"
    assert Wording("xyz").letter(1, 3) == "y"
    assert Wording(vocabulary=("a", "b")).token(1) == "b"
    assert Wording(vocabulary=("a", "b")).token(7) == "7"
    assert called(1, ("cat", "dog")) == "dog"
    assert called(2, ("cat", "dog")) == "class 2"

"""What the network looks at: pictures from the store, of which nothing is taken that could do more than be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.reports.page.collect import collect
from dualprune.pipeline.reports.page.drawing import taken
from dualprune.pipeline.reports.page.looks import looks
from dualprune.pipeline.reports.page.page import report
from tests.pipeline.reports.page.made import LADDER, make

SVG = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9' width='9' fill='currentColor'>{}</svg>"
PIXELS = "data:image/png;base64,AAAA"


def record(*pictures: str) -> dict[str, Any]:
    """What `dualprune saliency` leaves."""
    changed = [{"sample": 37, "before": "eight (4.69)", "after": "nine <b>(1.95)</b>"}]
    network = {"name": "prune-25x", "agreement": 0.9889, "changed": changed, "better": 3, "worse": 1}
    figures = [
        {"name": f"{n}", "title": f"Sample {n}", "about": "orange", "svg": one} for n, one in enumerate(pictures)
    ]
    return {
        "split": "test",
        "samples": 360,
        "dense": {"name": "dense"},
        "networks": [network],
        "figures": figures,
        "left_out": 2,
    }


def test_what_was_left_is_shown(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    store = make(str(tmp_path), LADDER)
    store.folder.write_json(f"saliency/{LADDER[3].key}.json", record(*[SVG.format("<text x='1'>seen</text>")] * 5))
    run = collect(store, "made")
    found = looks(run)
    assert found is not None
    assert found.sentence.startswith("What of an input speaks for an answer")
    assert "prune-25x answers as dense does to 98.9 % of them; 3 became right, 1 wrong." in found.sentence
    assert (len(found.pictures), len(found.folded)) == (3, 2)
    page = report(run)
    assert page.count(">seen</text>") == 5
    assert "nine &lt;b&gt;(1.95)" in page
    assert 'href="#looks"' in page


def test_without_a_record_there_is_nothing(tmp_path: Path) -> None:
    store = make(str(tmp_path), LADDER)
    assert looks(collect(store, "made")) is None
    for odd in ([], {"figures": 3}, {"figures": [{"svg": "<p/>"}]}, record("<html/>"), record("no"), {}):
        store.folder.write_json(f"saliency/{LADDER[3].key}.json", odd)
        assert looks(collect(store, "made")) is None


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        "<a href='http://127.0.0.1/'><text>go</text></a>",
        "<image href='http://127.0.0.1/a.png'/>",
        "<text onclick='alert(1)' style='background: url(http://127.0.0.1)'>a</text>",
        "<path d='M0 0' fill='url(http://127.0.0.1/#a)'/>",
        "<foreignObject><p xmlns='http://www.w3.org/1999/xhtml'>a</p></foreignObject>",
        "<use href='http://127.0.0.1/a.svg#a'/>",
        "<g><g><script>alert(1)</script></g></g>",
    ],
)
def test_only_what_can_be_seen_is_taken(inside: str) -> None:
    found = taken(SVG.format(inside))
    assert "127.0.0.1" not in found
    assert "alert" not in found
    assert "foreign" not in found
    kept = taken(SVG.format(f"<image href='{PIXELS}' x='1'/><text fill='#000'>a &lt;b&gt;</text>"))
    assert f'href="{PIXELS}"' in kept
    assert ">a &lt;b&gt;</text>" in kept


@pytest.mark.parametrize("text", ["", "no", "<p/>", "<svg>", "<svg/>"])
def test_what_is_no_picture(text: str) -> None:
    with pytest.raises(ValueError, match="no SVG"):
        taken(text)

"""The page as text: what is in it, and that what others wrote is only ever text."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.reports.page import drawing
from dualprune.pipeline.reports.page.collect import collect
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures.table import figures
from dualprune.pipeline.reports.page.page import report
from dualprune.pipeline.reports.page.verdict import numbers, verdict
from tests.pipeline.reports.page.made import CHOICE, LADDER, Made, make

EVIL = '<script>alert(1)</script></script><img src=x onerror="alert(2)">&amp; {{ 7 * 7 }} {% raw %}'
"""Markup, of HTML and of templates."""


class Elements(HTMLParser):
    """All elements of a page, and the text of those that were asked for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a choice."""
    return collect(make(str(tmp_path_factory.mktemp("choice")), CHOICE), "made")


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    """Its page."""
    pytest.importorskip("vl_convert")
    return report(run)


def test_verdict_and_numbers(run: Run) -> None:
    rate = run.fewer(run.stages["quantize"])
    assert rate is not None
    text = (
        f"quantize keeps one weight in {rate:.2g}, on 3 bits each, and is level with dense: −0.50 points, within ±1.52."
    )
    assert verdict(run) == text
    rates, metric, stored, time = numbers(run)
    stage = run.stages["quantize"]
    assert rates.beside == f"{stage.metrics['network_nonzeros']:,} of {144 + 4608 + 8192:,}"
    assert (metric.value, metric.beside) == ("98.75 %", "−0.50 points against dense, 99.25 %")
    assert stored.value == f"{stage.metrics['bytes'] / 1000:.3g} kB"
    assert (time.value, time.beside) == ("6.0 min", "6 stages, none failed, 1 retry")


def test_verdicts_of_what_is_not_done(tmp_path: Path) -> None:
    dense = Made("dense", kind="train", failed="no")
    assert (
        verdict(collect(make(str(tmp_path / "a"), (dense,), ended="failed"), "made"))
        == "Nothing is done: dense failed."
    )
    alone = collect(make(str(tmp_path / "b"), LADDER[:1]), "made")
    assert verdict(alone) == "dense reaches 99.25 % on test; nothing is pruned."
    harsh = collect(make(str(tmp_path / "c"), (LADDER[0], Made("harsh", ("dense",), 30, 71))), "made")
    assert verdict(harsh) == "harsh keeps one weight in 28 and loses 28.25 points."


def test_all_sections_are_there(run: Run, page: str) -> None:
    found = re.findall(r'<section id="([\w-]+)"', page)
    assert found == [*(figure.name for figure in figures(run)), "troubles", "artefacts"]
    elements = Elements(page)
    assert elements.tags.count("svg") == 2 * len(figures(run)), "each for a screen and for a telephone"
    for made in CHOICE:
        assert made.key in elements.text
    assert "a worker was killed" in elements.text


def test_the_page_carries_its_numbers(run: Run, page: str) -> None:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(text)
    assert (data["run"], data["chosen"], data["verdict"]) == ("made", "quantize", verdict(run))
    for found in data["stages"]:
        stage = run.stages[found["name"]]
        assert found["metrics"] == stage.metrics
        assert found["epochs"]["loss"] == pytest.approx([row["loss"] for row in stage.rows], rel=1e-5)


def test_nothing_is_asked_of_anybody_and_only_its_own_code_runs(page: str) -> None:
    elements = Elements(page)
    links = [value for name, value in elements.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert all(value is not None and value.startswith(("#", "data:")) for value in links)
    assert not any(name == "style" or name.startswith("on") for name, _ in elements.attributes)
    assert "url(http" not in page
    assert "@import" not in page
    (policy,) = (value for name, value in elements.attributes if value and value.startswith("default-src"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_markup_in_names_and_messages_is_text(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    stages = (
        LADDER[0],
        Made(EVIL, ("dense",), 4, 99, retried=EVIL, shapes={EVIL: (16, 9), "2.weight": (32, 144)}),
        Made("next", (EVIL,), 8, failed=EVIL),
    )
    page = report(collect(make(str(tmp_path), stages, EVIL.replace("/", "-"), ended="failed"), EVIL.replace("/", "-")))
    elements = Elements(page)
    assert elements.tags.count("script") == 2, "its data, and its own"
    assert "img" not in elements.tags
    assert EVIL in elements.text
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    assert any(
        value is not None and value.startswith(EVIL) for name, value in elements.attributes if name == "data-tip"
    )
    (data,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)["stages"][1]["name"] == EVIL


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    store = make(str(tmp_path), LADDER, ended=None)
    store.folder.remove(LADDER[2].key)
    text = Elements(report(collect(store, "made"))).text
    assert "The run was killed: its process is gone without a last word." in text
    assert (
        "prune-10x: it was done, and its artefact is not in the store any more; its numbers are from the run's log."
        in text
    )


def test_a_failure_is_told_though_the_stage_is_done_by_now(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    store = make(str(tmp_path), LADDER)
    log = tmp_path / "events/made/20231114-221320-aaaa-000000.jsonl"
    first = {"event": "failed", "stage": "dense", "key": LADDER[0].key, "reason": "no worker came", "at": 1.6e9}
    log.write_text(json.dumps(first) + "\n" + log.read_text())
    page = report(collect(store, "made"))
    assert "no worker came" in Elements(page).text
    assert "Nothing failed" not in page


def test_the_same_run_gives_the_same_figures(run: Run) -> None:
    pytest.importorskip("vl_convert")
    for figure in figures(run):
        assert drawing.svg(figure.spec(900)) == drawing.svg(figure.spec(900))


def test_a_figure_for_a_file_names_its_colours(run: Run) -> None:
    pytest.importorskip("vl_convert")
    for figure in figures(run):
        drawn = drawing.alone(figure.spec(900))
        assert "var(--" not in drawn
        assert "#ffffff" in drawn
        assert drawing.png(figure.spec(900)).startswith(b"\x89PNG")


def test_ids_are_the_figure_s_own() -> None:
    inside = '<defs><clipPath id="a"/></defs><g clip-path="url(#a)"><path d="M1.23456,2"/></g>'
    drawn = f'<svg xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
    found = drawing.inlined(drawn, "one-")
    assert 'id="one-a"' in found
    assert "url(#one-a)" in found
    assert "M1.23,2" in found


def test_figures_ask_for_no_data_from_elsewhere() -> None:
    pytest.importorskip("vl_convert")
    spec = {
        "data": {"url": "http://127.0.0.1:9/data.json"},
        "mark": "point",
        "encoding": {"x": {"field": "a", "type": "quantitative"}},
    }
    with pytest.raises(ValueError, match="allowed"):
        drawing.svg(spec)


def test_without_what_draws_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any) -> Any:
        if name == "vl_convert":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(drawing.NoDrawing, match=r"pip install 'dualprune\[report\]'"):
        report(run)

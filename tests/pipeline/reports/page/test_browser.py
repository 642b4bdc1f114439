"""The page in a browser: that it opens, what it shows, whether all can read it. Skipped where there is no Chromium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.reports.page.collect import collect
from dualprune.pipeline.reports.page.figures.table import figures
from dualprune.pipeline.reports.page.page import comparison, report
from dualprune.pipeline.reports.page.versus import compare
from tests.pipeline.reports.page.made import CHOICE, LADDER, ladder, make
from tests.pipeline.reports.page.test_looks import record

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
SMALL, SLOW = 3_000_000, 2.0
"""Bytes of a page, and seconds until it is there, at most."""
READABLE, LARGE = 4.5, 3.0
"""Contrasts of text, and of large or bold one, at least: WCAG 2, AA."""
VARIANTS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]
SEEN = """() => [...document.querySelectorAll('section figure:not(.look)')].map((figure) => {
  const chart = [...figure.querySelectorAll('.chart')].filter((one) => one.offsetParent !== null);
  const box = chart[0].querySelector('svg').getBoundingClientRect();
  return {id: figure.closest('section').id, charts: chart.length, marks: chart[0].querySelectorAll('[data-tip]').length,
          texts: chart[0].querySelectorAll('text').length, left: box.left, right: box.right, height: box.height};
})"""
CONTRASTS = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = getComputedStyle(document.body).backgroundColor;
  const within = (box, x, y) => box.left <= x && x <= box.right && box.top <= y && y <= box.bottom;
  const found = [];
  for (const svg of document.querySelectorAll('.chart svg')) {
    if (svg.closest('.chart').offsetParent === null) continue;
    const shapes = [...svg.querySelectorAll('path')].filter((one) => {
      const fill = getComputedStyle(one).fill;
      return fill !== 'none' && one.getBoundingClientRect().width > 14;
    });
    for (const text of svg.querySelectorAll('text')) {
      const box = text.getBoundingClientRect(), style = getComputedStyle(text);
      if (text.getAttribute('stroke')) continue;  // what sets a name off from the lines behind it
      const x = box.left + box.width / 2, y = box.top + box.height / 2;
      const below = shapes.filter((one) => within(one.getBoundingClientRect(), x, y)
        && text.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_PRECEDING).pop();
      const [a, b] = [light(style.fill), light(below ? getComputedStyle(below).fill : ground)];
      found.push({text: text.textContent, contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)});
    }
  }
  return found;
}"""


LOOK = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 900 60' width='900'><text y='30'>a look</text></svg>"


class Visited:
    """A page that is open, and what it complained of or asked for."""

    def __init__(self, page: Any, seconds: float, told: list[str]) -> None:
        self.page, self.seconds, self.told = page, seconds, told


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if BROWSER is None:
        pytest.skip("there is no Chromium: apt-get install chromium-headless-shell fonts-liberation")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages by name: of a run with a choice; of one that was killed, whose store lost an artefact; of 200 stages; and
    of two runs side by side."""
    found = {}
    for name, stages in (("choice", CHOICE), ("killed", LADDER), ("many", ladder(200))):
        folder = tmp_path_factory.mktemp(name)
        store = make(str(folder / "store"), stages, ended=None if name == "killed" else "done")
        if name == "killed":
            store.folder.remove(LADDER[2].key)
        if name == "choice":
            store.folder.write_json(f"saliency/{CHOICE[4].key}.json", record(LOOK, LOOK))
        found[name] = folder / "page.html"
        found[name].write_text(report(collect(store, "made")))
    folder = tmp_path_factory.mktemp("versus")
    runs = [collect(make(str(folder / name), stages, name), name) for name, stages in (("a", LADDER), ("b", CHOICE))]
    found["versus"] = folder / "page.html"
    found["versus"].write_text(comparison(compare(runs)))
    return found


def visit(browser: Any, page: Path, scheme: str = "light", width: int = 1280, scripts: bool = True) -> Visited:
    """Open a page without a network."""
    context = browser.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        offline=True,
        java_script_enabled=scripts,
    )
    opened, told = context.new_page(), list[str]()
    opened.on("console", lambda message: told.append(message.text))
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.on("request", lambda request: told.append(request.url))
    began = time.perf_counter()
    opened.goto(page.as_uri(), wait_until="load")
    told.remove(page.as_uri())
    return Visited(opened, time.perf_counter() - began, [one for one in told if not one.startswith("data:,")])


@pytest.mark.parametrize("name", ["choice", "killed", "many", "versus"])
@pytest.mark.parametrize(("scheme", "width"), VARIANTS)
def test_it_opens_and_shows_every_figure(
    browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int, tmp_path: Path
) -> None:
    visited = visit(browser, pages[name], scheme, width)
    assert visited.told == [], "neither complaints nor requests"
    assert visited.seconds < SLOW
    seen = visited.page.evaluate(SEEN)
    assert len(seen) >= (5 if name == "versus" else 10)
    for figure in seen:
        assert figure["charts"] == 1, figure
        assert figure["marks"] >= 2, figure
        assert figure["texts"] >= 2, figure
        assert figure["height"] > 30, figure
        assert figure["left"] >= 0, figure
        assert figure["right"] <= width, figure
    assert visited.page.evaluate("document.documentElement.scrollWidth") <= width, "nothing goes beyond the page"
    shot = visited.page.screenshot(full_page=True, path=tmp_path / "page.png")
    assert len(shot) > 50_000
    visited.page.context.close()


@pytest.mark.parametrize("name", ["choice", "versus"])
@pytest.mark.parametrize(("scheme", "width"), VARIANTS)
def test_text_of_figures_can_be_read(browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    """axe does not judge text in SVG."""
    visited = visit(browser, pages[name], scheme, width)
    found = visited.page.evaluate(CONTRASTS)
    assert len(found) > 40
    assert [one for one in found if one["contrast"] < READABLE] == []
    visited.page.context.close()


@pytest.mark.parametrize("name", ["choice", "killed", "versus"])
@pytest.mark.parametrize(("scheme", "width"), VARIANTS)
def test_axe_finds_nothing(browser: Any, pages: dict[str, Path], name: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
    page = context.new_page()
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = axe.Axe().run(page)
    wrong = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found.response["violations"]]
    assert wrong == []
    context.close()


def test_200_stages_are_small_enough(pages: dict[str, Path]) -> None:
    assert pages["many"].stat().st_size < SMALL


def test_marks_say_what_they_show(browser: Any, pages: dict[str, Path]) -> None:
    """When they are pointed at, and by arrow keys; Escape takes it back."""
    page = visit(browser, pages["choice"]).page
    mark = page.locator("#tradeoff .wide [data-tip^='quantize']")
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert page.locator("#tip").text_content() == mark.get_attribute("data-tip")
    page.locator("#masks .wide").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tip").text_content()
    assert first.startswith("of what prune-")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").text_content() != first
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()
    page.context.close()


def test_without_scripts_all_is_there(browser: Any, pages: dict[str, Path]) -> None:
    page = visit(browser, pages["choice"], scripts=False).page
    assert page.locator("figure .wide svg").count() == page.locator("figure:not(.look)").count()
    page.locator("#tradeoff summary").click()
    assert page.locator("#tradeoff td").first.is_visible()
    page.context.close()


def test_it_prints(browser: Any, pages: dict[str, Path]) -> None:
    """In light colours, with all figures; what is folded is not hidden."""
    page = visit(browser, pages["choice"], "dark").page
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(one["charts"] == 1 for one in page.evaluate(SEEN))
    assert page.pdf().startswith(b"%PDF")
    page.context.close()


def test_figures_in_the_page_are_those_of_the_facts(browser: Any, pages: dict[str, Path]) -> None:
    """What marks say, in the figures' order."""
    run = collect(make(str(pages["choice"].parent / "store"), CHOICE), "made")
    page = visit(browser, pages["choice"]).page
    for figure in figures(run):
        said = page.evaluate(
            "(id) => [...document.querySelectorAll(`#${id} .wide [data-tip]`)].map((one) => one.dataset.tip)",
            figure.name,
        )
        assert sorted(said) == sorted(tips(figure.spec(900)))
    page.context.close()


def tips(spec: Any) -> list[str]:
    """What a figure's marks say."""
    if isinstance(spec, list):
        return [tip for one in spec for tip in tips(one)]
    if not isinstance(spec, dict):
        return []
    values = (spec.get("data") or {}).get("values", [])
    return [one["tip"] for one in values if "tip" in one] + [tip for one in spec.values() for tip in tips(one)]

"""The page: one HTML file that asks nobody for anything, of facts and figures."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

import dualprune
from dualprune.pipeline.reports.page import drawing, versus_words
from dualprune.pipeline.reports.page.facts import Run
from dualprune.pipeline.reports.page.figures import versus
from dualprune.pipeline.reports.page.figures.base import NARROW, WIDE, Figure, Table
from dualprune.pipeline.reports.page.figures.table import figures
from dualprune.pipeline.reports.page.looks import looks
from dualprune.pipeline.reports.page.summary import as_json
from dualprune.pipeline.reports.page.theme import variables
from dualprune.pipeline.reports.page.verdict import numbers, verdict
from dualprune.pipeline.reports.page.versus import Comparison
from dualprune.pipeline.reports.page.words import STATES


@dataclass(frozen=True)
class Drawn:
    """A figure in a page: drawn for a screen, and for a telephone."""

    figure: Figure
    wide: Markup
    narrow: Markup


def report(run: Run) -> str:
    """A run's page. Raises pipeline.reports.page.drawing.NoDrawing."""
    return rendered(
        "report.html",
        title=f"{run.name}: dualprune",
        run=run,
        verdict=verdict(run),
        numbers=numbers(run),
        drawn=drawn(figures(run)),
        troubles=troubles(run),
        artefacts=artefacts(run),
        looks=looks(run),
        data=as_json(run),
    )


def comparison(found: Comparison) -> str:
    """The page of runs side by side. Raises pipeline.reports.page.drawing.NoDrawing."""
    runs = [run for group in found.groups for run in group.runs]
    return rendered(
        "compare.html",
        title=f"{', '.join(run.name for run in runs)}: dualprune",
        runs=runs,
        verdict=versus_words.verdict(found),
        missing=[f"{run.name}: {text}" for run in runs for text in run.missing],
        came_to=versus_words.came_to(found),
        seeds=versus_words.seeds(found),
        differences=versus_words.differences(found),
        drawn=drawn(versus.figures(found)),
        data=versus_words.as_json(found),
    )


def drawn(found: Sequence[Figure]) -> list[Drawn]:
    """Figures as they stand in a page. Raises pipeline.reports.page.drawing.NoDrawing."""
    return [Drawn(one, *(_svg(one, width) for width in (WIDE, NARROW))) for one in found]


def _svg(figure: Figure, width: int) -> Markup:
    return Markup(drawing.inlined(drawing.svg(figure.spec(width)), f"{figure.name}-{width}-"))


def rendered(template: str, *, data: Mapping[str, Any], **values: Any) -> str:
    """A template filled in. All values are text to it, but for figures' SVG; `data` are in the page as JSON."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dualprune.pipeline.reports.page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"moment": moment, "bound": bound}
    style, script = _style(), _part("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        **values,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
        made=time.time(),
        version=dualprune.__version__,
    )


def _part(name: str) -> str:
    return (resources.files("dualprune.pipeline.reports.page") / "templates" / name).read_text()


def _style() -> str:
    light, dark = variables(dark=False), variables(dark=True)
    return _part("page.css").replace("/*light*/", light).replace("/*dark*/", dark)


def _hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def bound(text: str) -> str:
    """A text in which no line breaks between a number and what it counts in hundredths."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def moment(seconds: float | None) -> str:
    """A time of the clock, for people; UTC."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def troubles(run: Run) -> Table | None:
    """What failed and was retried, what was left out, and what to change; None where all went well."""
    happened: list[tuple[float, tuple[str, ...]]] = []
    told: list[tuple[str, ...]] = []
    for stage in run.stages.values():
        history = stage.history
        for what, times in () if history is None else (("tried again", history.retries), ("failed", history.failures)):
            happened += [(at, (stage.name, moment(at), what, why)) for at, why in times]
        if stage.state == "failed" and (history is None or not history.failures):
            told.append((stage.name, "-", "failed", stage.why or ""))
        if stage.left_out:
            told.append((stage.name, "-", "left out", _some(stage.left_out)))
        if stage.advice:
            told.append((stage.name, "-", "to change", stage.advice))
    rows = (*(row for _, row in sorted(happened)), *told)
    return Table(("stage", "when", "what", "why"), rows) if rows else None


def _some(reasons: Sequence[str], most: int = 5) -> str:
    more = len(reasons) - most
    return "; ".join([*reasons[:most], *([f"and {more:,} more"] if more > 0 else [])])


def artefacts(run: Run) -> Table:
    """Every stage with its key."""
    rows = tuple(
        (stage.name, stage.kind, STATES[stage.state], moment(stage.finished), stage.key)
        for stage in run.stages.values()
    )
    return Table(("stage", "kind", "state", "finished", "key"), rows)

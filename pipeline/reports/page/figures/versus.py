"""The table of figures of runs side by side; their residuals, sizes and times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Figure, Spec, Table, lasting, quantitative, size
from dualprune.pipeline.reports.page.figures.groups import runs_of, sign
from dualprune.pipeline.reports.page.figures.marks import rows
from dualprune.pipeline.reports.page.figures.multiples import DRAWN, Line, Panel, Scale, multiples
from dualprune.pipeline.reports.page.figures.versus_layers import kept
from dualprune.pipeline.reports.page.figures.versus_tradeoff import tradeoff
from dualprune.pipeline.reports.page.versus import Comparison, Group


def convergence(found: Comparison) -> Figure | None:
    """Residuals of the last stage that ADMM solved on the way to what each run came to."""
    panels = []
    table: list[tuple[Any, ...]] = []
    for which, group in enumerate(found.groups):
        for run in group.runs:
            solved = [stage for stage in run.along() if stage.updates]
            if solved:
                stage = solved[-1]
                panels.append(_residuals(group, run, stage, which))
                last = stage.updates[-1]
                table.append((run.name, stage.name, len(stage.updates), f"{last['residual']:.3g}", _change(last)))
    if not panels:
        return None
    sentence = (
        "Residuals of the last stage of ADMM, on one log scale: primal, and dashed dual, relative to the weights."
    )
    titles = ("run", "stage", "updates", "primal at the end", "dual at the end")
    spec = partial(multiples, panels[:DRAWN], Scale("epoch", log=True))
    return Figure("convergence", "Did ADMM converge?", sentence, spec, Table(titles, tuple(table)))


def _change(row: Any) -> str:
    return "-" if row.get("change") is None else f"{row['change']:.3g}"


def _residuals(group: Group, run: Run, stage: Stage, which: int) -> Panel:
    lines = []
    for name, field, dashed in (("primal", "residual", False), ("dual", "change", True)):
        points = tuple(
            (float(row["epoch"]), float(row[field]), f"{run.name}, epoch {row['epoch']}: {name} {row[field]:.3g}")
            for row in stage.updates
            if row.get(field) is not None
        )
        if points:
            lines.append(Line(name, f"s{which}", points, dashed))
    return Panel(f"{sign(which)} {run.name}", f"{stage.name} ends at {stage.updates[-1]['residual']:.2g}", tuple(lines))


def sizes(found: Comparison) -> Figure | None:
    """Bytes of what each run came to."""
    return _bars(
        found,
        "size",
        "Size",
        "Bytes of the networks that the runs came to, the places of weights included.",
        _bytes,
        size,
    )


def lasted(found: Comparison) -> Figure | None:
    """How long all stages of each run were trained."""
    text_ = "Seconds for which all stages of a run were trained, shared ones in each."
    return _bars(found, "time", "Time", text_, _seconds, lasting)


def _bytes(run: Run) -> float | None:
    return None if run.chosen is None else run.chosen.metric("bytes")


def _seconds(run: Run) -> float | None:
    return sum(stage.seconds or 0.0 for stage in run.done()) or None


def _bars(
    found: Comparison,
    name: str,
    title: str,
    sentence: str,
    of: Callable[[Run], float | None],
    shown: Callable[[float], str],
) -> Figure | None:
    values = [(number, run.name, value) for number, run in runs_of(found) if (value := of(run)) is not None]
    if len(values) < 2:
        return None
    table = Table(("run", title.lower()), tuple((run, shown(value)) for _, run, value in values))
    return Figure(name, title, sentence, partial(_bars_spec, values, shown), table)


def _bars_spec(values: Sequence[tuple[int, str, float]], shown: Callable[[float], str], width: int) -> Spec:
    frame = rows([name for _, name, _ in values], [shown(value) for _, _, value in values], width)
    x = quantitative("x", (0, 1.02 * max(value for _, _, value in values)))
    layers = [
        frame.bars([{"row": row, "x": 0, "x2": value, "tip": f"{name}: {shown(value)}"}], x, f"s{which}")
        for row, (which, name, value) in enumerate(values)
    ]
    return frame.spec([*layers, *frame.texts()], bottom=4)


VERSUS: tuple[Callable[[Comparison], Figure | None], ...] = (tradeoff, kept, convergence, sizes, lasted)
"""In the order of the page."""


def figures(found: Comparison) -> list[Figure]:
    """Those that the runs have something to show in."""
    return [figure for draws in VERSUS if (figure := draws(found)) is not None]

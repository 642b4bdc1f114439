"""What happened over epochs: residuals of ADMM, what of masks still changed, and what was validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dualprune.pipeline.measured import number
from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.figures.base import Figure, Table, finite, percent, plural
from dualprune.pipeline.reports.page.figures.multiples import DRAWN, Line, Panel, Scale, multiples
from dualprune.pipeline.run.results import LARGE

Row = Mapping[str, Any]


def convergence(run: Run) -> Figure | None:
    """Residuals at each update of Z and U."""
    stages = [stage for stage in run.stages.values() if stage.updates and not stage.chooses]
    if not stages:
        return None
    drawn = _drawn(run, stages, lambda stage: -(finite(stage.updates[-1]["residual"]) or 0.0))
    sentence = (
        "Residuals at each update, relative to the weights, on one log scale: primal is how far the weights are from "
        "their constraints, dual how far the constraints' copy moved."
    )
    sentence += _unsaid(stages, drawn)
    panels = []
    for stage in drawn:
        last = stage.updates[-1]["residual"]
        level = ((stage.tolerance, f"tolerance {stage.tolerance:g}"),) if stage.tolerance else ((LARGE, f"{LARGE:g}"),)
        lines = (
            Line("primal", "blue", _points(stage, stage.updates, "residual", "primal")),
            Line("dual", "orange", _points(stage, stage.updates, "change", "dual"), dashed=True),
        )
        panels.append(Panel(stage.name, f"ends at {last:.2g}", tuple(line for line in lines if line.points), level))
    if not any(stage.tolerance for stage in drawn):
        sentence += f" Below the dashed line, {LARGE:g}, the projection at the end takes little."
    table = Table(
        ("stage", "epoch", "rho", "primal", "dual", "weights left", "of the mask changed"),
        tuple(
            (
                stage.name,
                row["epoch"],
                _digits(row.get("rho")),
                _digits(row.get("residual")),
                _digits(row.get("change")),
                None if row.get("left") is None else f"{row['left']:,}",
                _share(row.get("churn")),
            )
            for stage in stages
            for row in _told(stage.updates, stage in drawn)
        ),
    )
    scale = Scale("epoch", log=True)
    return Figure("convergence", "Did ADMM converge?", sentence, partial(multiples, panels, scale), table)


def settling(run: Run) -> Figure | None:
    """What share of the masks changed from update to update."""
    stages = [stage for stage in run.stages.values() if not stage.chooses and _churned(stage)]
    if not stages:
        return None
    drawn = _drawn(run, stages, lambda stage: -(finite(_churned(stage)[-1]["churn"]) or 0.0))
    panels = [
        Panel(
            stage.name,
            f"ends at {percent(100 * _churned(stage)[-1]['churn'])}",
            (Line("", "blue", tuple(_churn_points(stage))),),
        )
        for stage in drawn
    ]
    most = max(100 * row["churn"] for stage in drawn for row in _churned(stage))
    scale = Scale("epoch", unit=" %", bounds=(0.0, max(0.1, 1.08 * most)))
    sentence = (
        "Share of the mask's entries that an update changed: near zero, ADMM has made up its mind which weights stay."
    )
    table = Table(
        ("stage", "epoch", "of the mask changed"),
        tuple(
            (stage.name, row["epoch"], _share(row["churn"]))
            for stage in stages
            for row in _told(_churned(stage), stage in drawn)
        ),
    )
    return Figure(
        "settling", "Did the masks settle?", sentence + _unsaid(stages, drawn), partial(multiples, panels, scale), table
    )


def learning(run: Run) -> Figure | None:
    """What was validated after each epoch."""
    stages = [stage for stage in run.stages.values() if not stage.chooses and _validated(stage)]
    if not stages:
        return None
    of = stages[0].measures
    stages = [stage for stage in stages if stage.measures.best == of.best]
    drawn = _drawn(run, stages, lambda stage: stage.state == "done")
    dense = run.dense.value("val") if run.dense is not None and run.dense.measures.best == of.best else None
    panels = []
    for stage in drawn:
        rows = _validated(stage)
        last = f"{number(rows[-1][of.of('val')], of.unit)} {of.unit}".strip()
        total = f" of {stage.epochs}" if stage.state != "done" and stage.epochs else ""
        subtitle = f"{last} after epoch {rows[-1]['epoch']}{total}"
        level = ((dense, ""),) if dense is not None else ()
        panels.append(
            Panel(stage.name, subtitle, (Line("", "blue", _points(stage, rows, of.of("val"), "val", of.unit)),), level)
        )
    sentence = f"{of.best.replace('_', ' ').capitalize()} on validation after each epoch."
    sentence += f" Dashed: where {run.dense.name} ended." if dense is not None and run.dense is not None else ""
    scale = Scale("epoch", unit=f" {of.unit}" if of.unit else "", bounds=_bounds(run, drawn, dense))
    table = Table(
        ("stage", "epoch", "phase", "loss", f"val {of.best}{f', {of.unit}' if of.unit else ''}", "learning rate"),
        tuple(
            (
                stage.name,
                row["epoch"],
                row.get("phase"),
                _digits(row.get("loss")),
                number(row[of.of("val")], of.unit),
                _digits(row.get("lr")),
            )
            for stage in stages
            for row in _told(_validated(stage), stage in drawn)
        ),
    )
    title = f"{of.best.replace('_', ' ').capitalize()} over epochs"
    return Figure("learning", title, sentence + _unsaid(stages, drawn), partial(multiples, panels, scale), table)


def _bounds(run: Run, stages: Sequence[Stage], dense: float | None) -> tuple[float, float]:
    """Without the first epochs of training from nothing, which would make all else flat."""
    values = [] if dense is None else [dense]
    for stage in stages:
        found = [row[stage.measures.of("val")] for row in _validated(stage)]
        ordered = sorted(found, reverse=not stage.measures.higher)
        values += ordered[len(ordered) // 4 :]
    low, high = min(values), max(values)
    extra = max((high - low) * 0.1, 1e-6 * max(1.0, abs(high)))
    return low - extra, high + extra


def _validated(stage: Stage) -> list[Row]:
    return [row for row in stage.rows if finite(row.get(stage.measures.of("val"))) is not None]


def _churned(stage: Stage) -> list[Row]:
    return [row for row in stage.rows if finite(row.get("churn")) is not None]


def _churn_points(stage: Stage) -> list[tuple[float, float, str]]:
    return [
        (
            float(row["epoch"]),
            100 * row["churn"],
            f"{stage.name}, epoch {row['epoch']}: {percent(100 * row['churn'])} of the mask changed",
        )
        for row in _churned(stage)
    ]


def _points(
    stage: Stage, rows: Sequence[Row], field: str, name: str, unit: str | None = None
) -> tuple[tuple[float, float, str], ...]:
    found = []
    for row in rows:
        value = finite(row.get(field))
        if value is not None:
            shown = f"{value:.3g}" if unit is None else f"{number(value, unit)} {unit}".strip()
            found.append((float(row["epoch"]), value, f"{stage.name}, epoch {row['epoch']}: {name} {shown}"))
    return tuple(found)


def _drawn(run: Run, stages: Sequence[Stage], order: Callable[[Stage], float]) -> list[Stage]:
    """Those on the way first, the last ones of them if they are many; then others, as `order` has them."""
    along = [stage for stage in stages if stage.name in run.way.stages][-DRAWN:]
    rest = sorted((stage for stage in stages if stage.name not in run.way.stages), key=order)
    some = {stage.name for stage in [*along, *rest][:DRAWN]}
    return [stage for stage in stages if stage.name in some]


def _told(rows: Sequence[Row], all_of_them: bool) -> Sequence[Row]:
    """What a table has of a stage: of one that is not drawn the last row."""
    return rows if all_of_them else rows[-1:]


def _unsaid(stages: Sequence[Stage], drawn: Sequence[Stage]) -> str:
    left = len(stages) - len(drawn)
    return (
        f" {plural(left, 'more stage')} {'is' if left == 1 else 'are'} in the table alone, by how they ended."
        if left
        else ""
    )


def _digits(value: Any) -> str | None:
    found = finite(value)
    return None if found is None else f"{found:.4g}"


def _share(value: Any) -> str | None:
    found = finite(value)
    return None if found is None else percent(100 * found)

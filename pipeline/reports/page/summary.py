"""A run's facts for programs: what `--json` prints, and a page carries. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dualprune.pipeline.reports.page.facts import Run, Stage
from dualprune.pipeline.reports.page.verdict import verdict


def as_json(run: Run) -> dict[str, Any]:
    """One object. Times are seconds since 1970 where they are of the clock; what is no number is None."""
    found: dict[str, Any] = _plain(
        {
            "run": run.name,
            "store": run.store,
            "state": run.state,
            "verdict": verdict(run),
            "missing": list(run.missing),
            "dense": run.way.dense,
            "chosen": run.way.chosen,
            "way": list(run.way.stages),
            "why": run.way.why,
            "began": run.began,
            "ended": run.ended,
            "samples": run.samples,
            "environment": dict(run.environment),
            "masks": []
            if run.overlap is None
            else [{"of": row, "keeps": column, "share": share} for (row, column), share in run.overlap.shares.items()],
            "stages": [_stage(run, stage) for stage in run.stages.values()],
        }
    )
    return found


def _stage(run: Run, stage: Stage) -> dict[str, Any]:
    history = stage.history
    return {
        "name": stage.name,
        "kind": stage.kind,
        "key": stage.key,
        "parents": list(stage.parents),
        "state": stage.state,
        "why": stage.why,
        "chosen": stage.chosen,
        "decision": dict(stage.decision),
        "fewer": run.fewer(stage) if stage.metrics else None,
        "metrics": dict(stage.metrics),
        "best": stage.measures.best,
        "unit": stage.measures.unit,
        "tensors": [asdict(one) for one in stage.tensors],
        "epochs": _columns(stage.rows),
        "speeds": [asdict(one) for one in stage.speeds],
        "attempts": [] if history is None else [asdict(one) for one in history.attempts],
        "retries": [] if history is None else [{"at": at, "why": why} for at, why in history.retries],
        "left_out": list(stage.left_out),
        "advice": stage.advice,
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of epochs, one list a field: it takes a third of the room."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_rounded(row.get(name)) for row in rows] for name in names}


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """The same with None for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value

"""What came of each stage, as rows for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from dualprune.pipeline.dag import Node
from dualprune.pipeline.plan.make import Planned
from dualprune.pipeline.store.store import Store

State = Literal["cached", "done", "failed", "skipped", "left out", "resume", "run"]


@dataclass(frozen=True)
class Result:
    """One stage. Accuracies are top-1 in percent; rate and residual are over the constrained tensors."""

    name: str
    kind: str
    key: str
    state: State
    rate: float | None = None
    nonzeros: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    residual: float | None = None
    """|W - Z| / |W| before the final projection."""
    seconds: float | None = None
    artefact: str | None = None
    chosen: str | None = None
    """Of a choice: the stage whose result it took."""
    why: str | None = None
    """Of a stage that failed, was skipped or is not done."""


def result(
    node: Node, state: State, store: Store, manifest: Mapping[str, Any] | None, why: str | None = None
) -> Result:
    """A stage's row, from its artefact's manifest where it has one."""
    row = Result(node.name, node.spec.kind, node.key, state, why=why)
    if manifest is None:
        return row
    metrics = manifest["metrics"]
    shown = ("rate", "nonzeros", "val_accuracy", "test_accuracy", "residual", "seconds")
    return Result(
        node.name,
        node.spec.kind,
        node.key,
        state,
        **{k: metrics[k] for k in shown},
        artefact=f"{store.url}/{node.key}",
        chosen=manifest.get("chosen", {}).get("name"),
    )


def status(plan: Iterable[Planned], store: Store) -> list[Result]:
    """Every stage as the store has it: `done`, `failed`, or what a run would do (`resume`, `run`)."""
    rows = []
    for planned in plan:
        if planned.state == "cached":
            rows.append(result(planned.node, "done", store, planned.manifest))
            continue
        reason = store.failure(planned.node.key)
        rows.append(result(planned.node, "failed" if reason else planned.state, store, None, reason or planned.why))
    return rows


def as_json(run: str, results: Iterable[Result]) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {"run": run, "stages": [asdict(row) for row in results]}


def as_table(results: Iterable[Result]) -> Table:
    """The table at the end of a run."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("stage", "rate", "weights left", "val %", "test %", "residual", "seconds"):
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    table.add_column("artefact", overflow="fold")
    for row in results:
        if row.artefact is None:
            table.add_row(row.name, "", "", "", "", "", "", escape(f"{row.key} ({row.state}: {row.why})"))
            continue
        table.add_row(
            row.name if row.chosen is None else f"{row.name} = {row.chosen}",
            _number(row.rate, ".2f", "x"),
            _number(row.nonzeros, ","),
            _number(row.val_accuracy, ".2f"),
            _number(row.test_accuracy, ".2f"),
            _number(row.residual, ".3f"),
            _number(row.seconds, ".1f"),
            row.key,
        )
    return table


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"

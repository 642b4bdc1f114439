"""What came of each stage, as rows for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from dualprune.pipeline import measured
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run.standing import Scene
from dualprune.pipeline.store.store import Store
from dualprune.stages.objectives.measures import CLASSIFY, Measures, measures

AMOUNTS = (
    "rate",
    "weights",
    "nonzeros",
    "network_rate",
    "network_weights",
    "network_nonzeros",
    "bytes",
    "dense_bytes",
)
"""What artefacts say of their weights, of the constrained tensors and of the whole network."""
MACS = ("macs", "dense_macs")
"""The same of multiply-accumulates."""
LARGE = 0.1
"""A residual above this is told: stages/README.md says what came of it."""

State = Literal["cached", "done", "failed", "skipped", "left out", "resume", "run", "gone", "running", "queued"]

BEFORE = ("rate", "weights\nleft", "network\nrate", "network\nleft", "bytes")
AFTER = ("residual", "seconds")
"""Columns of the table, before and after what was measured: numbers, between a stage's name and its artefact."""


@dataclass(frozen=True)
class Result:
    """One stage. Rate, weights and residual are over the constrained tensors.

    What older artefacts do not say of the whole network is None.
    """

    name: str
    kind: str
    key: str
    state: State
    rate: float | None = None
    weights: int | None = None
    nonzeros: int | None = None
    network_rate: float | None = None
    network_weights: int | None = None
    """Of all tensors that could be constrained."""
    network_nonzeros: int | None = None
    bytes: int | None = None
    """Of the whole network, zeros not stored: see `stages.solver.snapping.whole`."""
    dense_bytes: int | None = None
    """The same with zeros, as `model.safetensors` has it."""
    macs: float | None = None
    """Multiply-accumulates for one sample."""
    dense_macs: float | None = None
    """The same before anything was taken out of the network; None where nothing was."""
    val: float | None = None
    """By what `measures` names as the best; for programs it goes by that name, such as `val_accuracy`."""
    test: float | None = None
    residual: float | None = None
    """|W - Z| / |W| before the final projection."""
    advice: str | None = None
    """Where the residual is large: what to change."""
    seconds: float | None = None
    artefact: str | None = None
    chosen: str | None = None
    """Of a choice: the stage whose result it took."""
    why: str | None = None
    """Of a stage that failed, was skipped or is not done; of one that runs, how far it is."""
    measures: Measures = CLASSIFY


def result(
    node: Node, state: State, store: Store, manifest: Mapping[str, Any] | None, why: str | None = None
) -> Result:
    """A stage's row, from its artefact's manifest where it has one."""
    if manifest is None:
        return Result(node.name, node.spec.kind, node.key, state, why=why, measures=node.measures)
    metrics, of = manifest["metrics"], measures(manifest)
    return Result(
        node.name,
        node.spec.kind,
        node.key,
        state,
        **{k: metrics.get(k) for k in (*AMOUNTS, *MACS, *AFTER)},
        **{split: metrics.get(of.of(split)) for split in measured.SPLITS},
        advice=advice(manifest),
        artefact=f"{store.url}/{node.key}",
        chosen=manifest.get("chosen", {}).get("name"),
        measures=of,
    )


def status(plan: Iterable[Planned], store: Store, now: Scene | None = None) -> list[Result]:
    """Every stage as the store has it: `done`, `failed`, `gone`, or what a run would do (`resume`, `run`).

    With a scene, what is at work is `running` or `queued`.
    """
    now, rows = now or Scene(), []
    for planned in plan:
        if planned.state == "cached":
            rows.append(result(planned.node, "done", store, planned.manifest))
            continue
        reason = store.failure(planned.node.key)
        state: State = "failed" if reason else "gone" if planned.gone else planned.state
        state, why = now.of(planned, reason) or (state, reason or planned.why)
        rows.append(result(planned.node, state, store, None, why))
    return rows


def advice(manifest: Mapping[str, Any]) -> str | None:
    """What to change where a stage's ADMM ended far from its constraints, so that the projection took much away."""
    residual, admm = manifest["metrics"].get("residual"), manifest.get("spec", {}).get("admm")
    if not admm or residual is None or residual <= LARGE:
        return None
    tensors: Mapping[str, float] = manifest.get("residuals") or {}
    worst = max(tensors, key=lambda name: tensors[name], default=None)
    most = "" if worst is None or len(tensors) == 1 else f", {tensors[worst]:.2f} of {worst}"
    grown = f", {manifest['rho']:g} at the end" if manifest.get("rho", admm["rho"]) != admm["rho"] else ""
    return (
        f"ADMM ended with a residual of {residual:.2f}{most} ({LARGE:g} or less is good): putting weights into their "
        f"sets then changed them by that share. Raise admm.rho ({admm['rho']:g} here{grown}) to several times as much, "
        f"or rho_growth, or give more admm.updates ({admm['updates']} here)"
    )


def as_json(run: str, results: Iterable[Result]) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {"run": run, "stages": [measured.as_json(row, row.measures) for row in results]}


def as_table(results: Iterable[Result]) -> Table:
    """The table at the end of a run; below it, how stages stand that are not done, and what to change in those whose
    residual is marked."""
    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left", caption_style="")
    results = list(results)
    titles = measured.titles(row.measures for row in results)
    smaller = any(row.dense_macs is not None for row in results)
    columns = (*BEFORE, *(("MACs\nleft",) if smaller else ()), *titles, *AFTER)
    for title in ("stage", *columns):
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    table.add_column("artefact", no_wrap=True)
    said = []
    for row in results:
        if row.artefact is None:
            table.add_row(row.name, *["-"] * len(columns), row.key)
            said.append(f"{row.name} ({row.state}: {row.why})")
            continue
        table.add_row(
            row.name if row.chosen is None else f"{row.name} = {row.chosen}",
            _number(row.rate, ".2f", "x"),
            _number(row.nonzeros, ","),
            _number(row.network_rate, ".2f", "x"),
            _number(row.network_nonzeros, ","),
            _number(row.bytes, ","),
            *(
                [_number(row.macs and row.dense_macs and 100 * row.macs / row.dense_macs, ".1f", " %")]
                if smaller
                else []
            ),
            *map(measured.cell, (row.val, row.test), (row.measures, row.measures), titles),
            _number(row.residual, ".3f", "!" if row.advice else ""),
            _number(row.seconds, ".1f"),
            row.key,
        )
        if row.advice:
            said.append(f"! {row.name}: {row.advice}")
    table.caption = escape("\n".join(said)) or None
    return table


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"

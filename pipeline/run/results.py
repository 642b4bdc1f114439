"""What came of each stage, as rows for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from dualprune.pipeline import measured
from dualprune.pipeline.node import Node
from dualprune.pipeline.output import WIDTH
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.run.cut import shortened
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

NEWLINE = "\n"
BEFORE = ("rate", "weights\nleft", "network\nrate", "network\nleft", "bytes")
MACS_LEFT = "MACs\nleft"
AFTER = ("residual", "seconds")
"""Columns of the table, before and after what was measured: numbers, between a stage's name and its artefact."""
LESS = ("network\nleft", "weights\nleft", "seconds", "network\nrate", "artefact", MACS_LEFT, "residual", "bytes")
"""Those that a narrow table is without, the first ones first."""
NAMED = 10
"""Columns that names have at least."""
GAP = 2
"""Columns between two."""


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
        f"{'' if admm.get('rho_schedule') else 'or rho_growth, '}or give more admm.updates ({admm['updates']} here)"
    )


def as_json(run: str, results: Iterable[Result]) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {"run": run, "stages": [measured.as_json(row, row.measures) for row in results]}


def as_table(results: Iterable[Result], width: int = WIDTH) -> Table:
    """The table at the end of a run, at most `width` columns wide; below it, how stages stand that are not done, and
    what to change in those whose residual is marked.

    Where it is narrow, columns of LESS go, the first ones first, and then the middles of long names.
    """
    results = list(results)
    titles = measured.titles(row.measures for row in results)
    columns = ["stage", *BEFORE, MACS_LEFT, *titles, *AFTER, "artefact"]
    if all(row.dense_macs is None for row in results):
        columns.remove(MACS_LEFT)
    cells = [_cells(row, titles) for row in results]
    wide = {title: max([_wide(title), *(len(row[title]) for row in cells)]) for title in columns}
    gone = _fit(columns, wide, width)
    named = max(NAMED, width - sum(wide[title] + GAP for title in columns if title != "stage"))
    table = Table(box=None, header_style="bold", pad_edge=False, caption_justify="left", caption_style="")
    for title in columns:
        table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
    for row in cells:
        table.add_row(shortened(row["stage"], named, ".."), *(row[title] for title in columns[1:]))
    table.caption = escape("\n".join(_below(results, gone))) or None
    return table


def _cells(row: Result, titles: tuple[str, ...]) -> dict[str, str]:
    """What stands in each column."""
    name = row.name if row.chosen is None else f"{row.name} = {row.chosen}"
    macs = row.macs and row.dense_macs and 100 * row.macs / row.dense_macs
    scores = map(measured.cell, (row.val, row.test), (row.measures, row.measures), titles)
    numbers = (
        _number(row.rate, ".2f", "x"),
        _number(row.nonzeros, ","),
        _number(row.network_rate, ".2f", "x"),
        _number(row.network_nonzeros, ","),
        _number(row.bytes, ","),
        _number(macs, ".1f", " %"),
        *scores,
        _number(row.residual, ".3f", "!" if row.advice else ""),
        _number(row.seconds, ".1f"),
    )
    found = zip((*BEFORE, MACS_LEFT, *titles, *AFTER), numbers, strict=True)
    return {"stage": name, **dict(found), "artefact": row.key}


def _below(results: Iterable[Result], gone: list[str]) -> Iterator[str]:
    """What is said below the table."""
    for row in results:
        if row.artefact is None:
            yield f"{row.name} ({row.state}: {row.why})"
        elif row.advice:
            yield f"! {row.name}: {row.advice}"
    if gone:
        yield f"not shown for want of room: {', '.join(title.replace(NEWLINE, ' ') for title in gone)}"


def _fit(columns: list[str], wide: Mapping[str, int], width: int) -> list[str]:
    """Take columns away until the others fit beside names of a fair length; what was taken."""
    gone = []
    for title in LESS:
        rest = sum(wide[one] + GAP for one in columns if one != "stage")
        if min(wide["stage"], max(NAMED, width // 4)) + rest <= width:
            break
        if title in columns:
            columns.remove(title)
            gone.append(title)
    return gone


def _wide(title: str) -> int:
    return max(map(len, title.split(NEWLINE)))


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"

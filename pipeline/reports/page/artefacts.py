"""What a store has of stages: manifests, rows of epochs, masks, speeds; and which of it is not what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dualprune.pipeline.reports.page.facts import Overlap, Run, Speed, Stage, Tensor
from dualprune.pipeline.run.results import advice
from dualprune.pipeline.store import speeds
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts import manifest as manifests
from dualprune.stages.artefacts import masks
from dualprune.stages.artefacts.manifest import Damaged
from dualprune.stages.files.folder import Folder
from dualprune.stages.objectives.measures import measures

ROWS = "metrics.jsonl"
COMPARED = 12
"""Stages whose masks are compared, at most."""
LIGHT = (int, float, str)
"""What rows hold that figures show; tensors and histograms are for other readers."""
EVENT = ("at", "event", "stage", "key")
"""What rows of the log of events have beside those of artefacts."""


def look(store: Store, stage: Stage) -> Stage:
    """A stage with what its artefact says: done, or lost where it is damaged; as it was where there is none."""
    folder = store.folder / stage.key
    try:
        found = manifests.read(folder)
    except Damaged as error:
        return replace(stage, state="lost", why=f"its artefact is damaged: {error}")
    if found is None:
        if folder.exists(manifests.ASIDE):
            return replace(stage, state="lost", why="its artefact was found damaged, and set aside")
        return stage
    stage = _filled(store, stage, found)
    try:
        manifests.check(folder)
    except Damaged as error:
        stage = replace(stage, state="lost", why=f"its artefact is damaged: {error}")
    return _with_rows(folder, found, stage)


def _filled(store: Store, stage: Stage, found: Mapping[str, Any]) -> Stage:
    """A stage with its manifest's facts."""
    spec = found.get("spec") or {}
    left_out = {sample for samples in (found.get("left_out") or {}).values() for sample in samples}
    return replace(
        stage,
        state="done",
        metrics=found.get("metrics") or {},
        measures=measures(found),
        tensors=tuple(_tensors(found)),
        started=tuple(parent["name"] for parent in found.get("parents") or ()),
        chosen=(found.get("chosen") or {}).get("name"),
        decision=found.get("decision") or {},
        world=found.get("world"),
        left_out=tuple(sorted(left_out)),
        speeds=_speeds(store, stage.key),
        finished=(store.folder / stage.key).info(manifests.MANIFEST).modified,
        spec=stage.spec or spec,
        samples=found.get("samples") or {},
        advice=advice({"metrics": {}, **found}),
        versions=tuple((found.get("versions") or {}).items()),
        epochs=stage.epochs,
    )


def _tensors(found: Mapping[str, Any]) -> Iterator[Tensor]:
    residuals: Mapping[str, float] = found.get("residuals") or {}
    stored: Mapping[str, Any] = (found.get("storage") or {}).get("tensors") or {}
    for name, tensor in (found.get("tensors") or {}).items():
        bits = stored.get(name) or {}
        yield Tensor(
            name,
            tensor["size"],
            tensor["nonzeros"],
            residuals.get(name),
            bits.get("bits"),
            bits.get("data_bits"),
            bits.get("total_bits"),
        )


def _with_rows(folder: Folder, found: dict[str, Any], stage: Stage) -> Stage:
    """A stage with its artefact's rows; with those of the log of events where these can't be read."""
    try:
        lines = manifests.content(folder, found, ROWS).decode().splitlines()
        rows = tuple(light(json.loads(line)) for line in lines)
    except (Damaged, KeyError, ValueError) as error:
        return replace(stage, damage=f"the rows of its epochs can't be read: {error}")
    return replace(stage, rows=rows, epochs=len(rows) or stage.epochs)


def light(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of an epoch without what figures don't show."""
    return {name: value for name, value in row.items() if isinstance(value, LIGHT) and name not in EVENT}


def behind(store: Store, choice: Stage, keys: Mapping[str, str]) -> list[Stage]:
    """The trials that a choice's artefact came from, parents first, as far as artefacts tell. `keys` has the names of
    stages that are known."""
    found: list[Stage] = []
    try:
        above = (manifests.read(store.folder / choice.key) or {}).get("chosen")
        while above is not None and above["key"] not in keys:
            one = manifests.read(store.folder / above["key"]) or {}
            parents = one.get("parents") or []
            names = tuple(keys.get(parent["key"], parent["name"]) for parent in parents)
            stage = Stage(above["name"], above["key"], one.get("kind", ""), names)
            found.insert(0, look(store, stage))
            above = parents[0] if parents else None
    except Damaged:
        pass  # what is before it can't be known; the stage itself says that it is damaged
    return found


def overlap(store: Store, run: Run) -> tuple[Overlap | None, list[str]]:
    """How alike the masks are of the stages on the way, and of some beside it; and whose can't be read, and why."""
    found: dict[str, Mapping[str, masks.Packed]] = {}
    lost: list[str] = []
    for stage in _comparable(run):
        folder = store.folder / stage.key
        try:
            one = manifests.read(folder)
            masked = masks.packed(manifests.content(folder, one, masks.FILE)) if one is not None else {}
        except (Damaged, KeyError, ValueError) as error:
            if stage.state == "done":  # of others it is said already what is wrong
                lost.append(f"{stage.name}: its masks can't be read: {error}")
            continue
        if masked:
            found[stage.name] = masked
    shares = {}
    for row, its in found.items():
        for column, other in found.items():
            kept, shared = masks.both(its, other)
            if row != column and kept:
                shares[row, column] = shared / kept
    return (Overlap(tuple(found), shares), lost) if shares else (None, lost)


def looked(store: Store, stage: Stage | None) -> Mapping[str, Any]:
    """What `dualprune saliency` left of a stage; nothing where there is none."""
    try:
        found = {} if stage is None else store.folder.read_json(f"saliency/{stage.key}.json")
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _comparable(run: Run) -> Sequence[Stage]:
    """The stages whose masks are compared: those on the way first, then the others, in the run's order."""
    able = [one for one in run.done() if any(tensor.nonzeros < tensor.size for tensor in one.tensors)]
    along = set(run.way.stages)
    first = [one for one in able if one.name in along][-COMPARED:]
    rest = [one for one in able if one.name not in along]
    chosen = {one.name for one in [*first, *rest][:COMPARED]}
    return [one for one in able if one.name in chosen]


def _speeds(store: Store, key: str) -> tuple[Speed, ...]:
    return tuple(_speed(row, row.get("ratio") or {}) for row in speeds.left(store, key))


def _speed(row: speeds.Row, ratio: Mapping[str, float]) -> Speed:
    return Speed(
        row["machine"],
        row["backend"],
        row["device"],
        row["batch"],
        row["threads"],
        row["latency"]["middle"],
        ratio.get("middle"),
        ratio.get("low"),
        ratio.get("high"),
        row.get("verdict"),
    )

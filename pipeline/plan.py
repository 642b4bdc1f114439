"""What a run would do, and why: configuration, data and store brought together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline import dag
from pipeline.config import Config, Top
from pipeline.problems import Problems
from pipeline.store import Store
from pipeline.yamlfile import Path
from stages.data.manifest import DataError, digest, read_manifest
from stages.spec import Data, Spec


@dataclass(frozen=True)
class Planned:
    """One stage of a plan."""

    node: dag.Node
    state: Literal["cached", "resume", "run"]
    why: str
    manifest: Mapping[str, Any] | None
    """Of its artefact, if it is `cached`."""


def make(config: Config, problems: Problems) -> tuple[Store, list[Planned]]:
    """The plan of a configuration. Writes shards of built-in data sets that are not there yet.

    Raises ConfigError for a store that can't be written and for data that is missing or damaged.
    """
    store = _store(config.top, problems)
    found: dict[tuple[str | None, ...], tuple[str, dict[str, Any]]] = {}
    for stage in config.stages:
        origin = _origin(stage.spec.data)
        try:
            if origin not in found:
                if stage.spec.data.shards is None and store is None:
                    continue
                found[origin] = _resolve(stage.spec.data, store)
        except DataError as error:
            problems.add(_place(config, stage.name, "data"), str(error))
            continue
        samples = found[origin][1]["splits"]["train"]["samples"]
        if stage.spec.batch > samples:
            text = f"a batch of {stage.spec.batch} is larger than the {samples} training samples"
            problems.add(_place(config, stage.name, "batch"), text)
    problems.stop()
    assert store is not None

    def data_of(spec: Spec) -> tuple[str, str]:
        shards, manifest = found[_origin(spec.data)]
        return shards, digest(manifest)

    nodes = dag.build(config.stages, data_of)
    before = store.last_plan(config.top.name)
    plan: dict[str, Planned] = {}
    for node in nodes:
        plan[node.name] = _planned(node, store, before.get(node.name), plan)
    return store, list(plan.values())


def outside(top: Top | None, data: Mapping[Path, Data], problems: Problems) -> None:
    """Note what is wrong with the store and with shards, of a file that has errors of its own already."""
    if top is not None:
        _store(top, problems)
    for path, one in data.items():
        if one.shards is not None:
            try:
                read_manifest(one.shards)
            except DataError as error:
                problems.add(path, str(error))


def record(config: Config, store: Store, plan: list[Planned]) -> None:
    """Leave what was planned, for the next plan to say what has changed."""
    store.note_plan(
        config.top.name, {p.node.name: {"key": p.node.key, **p.node.material, "spec": _settings(p.node)} for p in plan}
    )


def _store(top: Top, problems: Problems) -> Store | None:
    """The store, once it was written to; None, and a problem noted, where it can't be."""
    try:
        store = Store(top.store)
        store.probe()
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all mean the same here
        problems.add(("store",), f"{top.store} can't be written: {error}")
        return None
    return store


def _planned(node: dag.Node, store: Store, before: Mapping[str, Any] | None, plan: Mapping[str, Planned]) -> Planned:
    manifest = store.artefact(node.key)
    if manifest is not None:
        return Planned(node, "cached", "done", manifest)
    steps = store.checkpoint_steps(node.key)
    if steps is not None:
        return Planned(node, "resume", f"goes on after step {steps}, its last checkpoint", None)
    return Planned(node, "run", _why(node, before, plan), None)


def _why(node: dag.Node, before: Mapping[str, Any] | None, plan: Mapping[str, Planned]) -> str:
    again = [parent for parent in node.parents if plan[parent].state != "cached"]
    if before is None:
        return "not run yet"
    reasons = dag.differences(before.get("spec", {}), _settings(node))
    reasons = [f"changed {reason}" for reason in reasons]
    if before.get("data") != node.data_digest:
        reasons.append("its data changed")
    if before.get("method") != node.material["method"]:
        reasons.append("its method has a new version")
    if len(before.get("parents", [])) != len(node.parents):
        reasons.append("it has another parent")
    elif again and before.get("key") != node.key:
        reasons.append(f"its parent {', '.join(again)} runs again")
    elif before.get("parents") != node.material["parents"]:
        reasons.append(f"its parent {', '.join(node.parents)} is another one than before")
    return "; ".join(reasons) or "not finished yet, or its artefact is gone"


def _settings(node: dag.Node) -> dict[str, Any]:
    """All that a stage's key is made from, defaults spelt out: where its data lies is left aside."""
    return node.spec.model_dump(mode="json", exclude={"data": {"source", "folder", "shards"}})


def _origin(data: Data) -> tuple[str | None, str | None, str | None]:
    return data.source, data.folder, data.shards


def _resolve(data: Data, store: Store | None) -> tuple[str, dict[str, Any]]:
    """URL and manifest of the shards; a built-in data set is written first if it is not there. Raises DataError."""
    if data.shards is not None:
        return data.shards, read_manifest(data.shards)
    assert data.source is not None
    assert store is not None
    url = f"{store.url}/data/{data.source}"
    if not store.folder.exists(f"data/{data.source}/manifest.json"):
        from stages.data.shards import write
        from stages.data.sources import SOURCES

        write(url, data.source, SOURCES[data.source](data.folder))
    return url, read_manifest(url)


def _place(config: Config, name: str, setting: str) -> tuple[str | int, ...]:
    """Where a stage's setting was given: by the stage itself or for all."""
    at = ("stages", [stage.name for stage in config.stages].index(name), setting)
    return at if at in config.lines else (setting,)

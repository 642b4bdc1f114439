"""What a run would do, and why: configuration, data and store brought together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import Refuse, Trials, Try
from dualprune.pipeline.choices.table import CHOICES, trials, with_training
from dualprune.pipeline.config.entries import Stage
from dualprune.pipeline.config.load import Config, Top
from dualprune.pipeline.config.problems import ConfigError, Problems, like
from dualprune.pipeline.config.yamlfile import Path
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.counts import Counts, Parts, after, counts, either
from dualprune.pipeline.store import progress
from dualprune.pipeline.store.store import Store
from dualprune.stages.data.format import (
    MANIFEST,
    DataError,
    check_settings,
    digest,
    labels,
    pictures,
    read_manifest,
    too_small,
)
from dualprune.stages.files.outage import StoreError
from dualprune.stages.kinds.table import phases
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.spec import AROUND, Data, Model, StageSpec

if TYPE_CHECKING:
    from dualprune.stages.networks.pretrained import Note

LOOKS = 8
"""Stages that are looked for in the store at once: an object store answers after a while, but many at a time."""
There = tuple[Mapping[str, Any] | None, int | None, bool]
"""What a store has of a stage: its manifest if it is done, steps of its checkpoint, whether its artefact is damaged."""
GONE = "was done, but its artefact is gone"
DAMAGED = "was done, but its artefact is damaged; `dualprune store verify` says how"
UNFINISHED = "not finished yet"
"""Of a stage that was planned before as it is now."""


@dataclass(frozen=True)
class Planned:
    """One stage of a plan."""

    node: Node
    state: Literal["cached", "resume", "run"]
    why: str
    manifest: Mapping[str, Any] | None
    """Of its artefact, if it is `cached`."""
    size: Size | None = None
    search: str | None = None
    """Of a trial that is done: the search that it is of."""
    trials: tuple[Node, ...] = ()
    """Of a search: those that it would run now, if its parents are done."""
    gone: bool = False
    """Of `run`: whether it was done before, and its artefact is damaged or away."""
    begun: int = 0
    """Of `resume`: the optimizer steps that its checkpoint has behind it."""
    notes: tuple[str, ...] = ()
    """What a user may not expect of it."""

    @property
    def left(self) -> int:
        """Optimizer steps that are to be done, as far as that can be told."""
        return 0 if self.size is None or self.state == "cached" else max(self.size.steps - self.begun, 0)


@dataclass(frozen=True)
class Size:
    """How much work a stage is, as far as its settings tell."""

    epochs: int
    steps: int
    rate: float | None
    """Weights over weights left, of a prune's constrained tensors."""
    counts: Counts | None
    """Of a prune: weights of these and of the whole network."""


def _size(node: Node, samples: Mapping[str, int], left: dict[str, Parts]) -> Size | None:
    """Of a search: one trial's. What the stage leaves of the network's weights is noted in `left`, by stages' names."""
    spec = dag.trained(node.spec)
    parents = [left[parent] for parent in node.parents]
    if spec is None:
        left[node.name] = either(parents)
        return None
    from dualprune.stages.solver.targets import check

    epochs = sum(phase.epochs for phase in phases(spec))
    steps = epochs * (spec.data.used(samples[node.data_digest]) // spec.batch)
    room = check(spec)
    left[node.name] = after(room, parents, bool(getattr(spec, "regrow", False)))
    if spec.kind != "prune":
        return Size(epochs, steps, None, None)
    return Size(epochs, steps, room.rate, counts(room, left[node.name]))


def make(config: Config, problems: Problems) -> tuple[Store, list[Planned]]:
    """The plan of a configuration. Writes shards of built-in data sets, and weights, that the store does not hold yet.

    Raises ConfigError for a store that can't be written, data that is missing or damaged, and weights that don't fit.
    """
    from dualprune.stages.networks.build import check_pictures

    store = _store(config.top, problems)
    found: dict[tuple[str | None, ...], tuple[str, dict[str, Any]]] = {}
    missing: set[tuple[str | None, ...]] = set()
    for stage in config.stages:
        spec = dag.trained(stage.spec)
        if spec is None or spec.data.origin in missing:
            continue
        origin = spec.data.origin
        try:
            if origin not in found:
                if spec.data.shards is None and store is None:
                    continue
                found[origin] = _resolve(spec.data, store)
            url, manifest = found[origin]
            check_settings(url, manifest, spec.data)
            shape = pictures(manifest, spec.data).get("image")
            if shape is not None:
                check_pictures(spec.model, shape, labels(manifest))
        except SpecError as error:
            for path, text in error.problems:
                problems.add(stage.place(*path), text)
            continue
        except DataError as error:
            problems.add(stage.place("data"), str(error))
            if origin not in found:
                missing.add(origin)  # told once, and not fetched again for each stage
            continue
        used = spec.data.used(manifest["splits"]["train"]["samples"])
        if spec.batch > used:
            text = f"a batch of {spec.batch} is larger than the {used} training samples"
            problems.add(stage.place("batch"), text)
        parts = config.top.cluster.workers.max * config.top.engine.accumulate
        if spec.batch < parts:
            text = f"a batch of {spec.batch} is too small for {parts} parts: cluster.workers times engine.accumulate"
            problems.add(stage.place("batch"), text)
    stages, notes = ([], {}) if store is None else _brought(config, store, problems)
    problems.stop()
    assert store is not None

    data = {origin: (shards, digest(manifest)) for origin, (shards, manifest) in found.items()}
    samples = {data[origin][1]: manifest["splits"]["train"]["samples"] for origin, (_, manifest) in found.items()}
    before = store.last_plan(config.top.name)
    ended = progress.left(store.folder, config.top.name).done
    finished = {entry["key"] for entry in before.values() if entry.get("done")}.union(ended or ())
    nodes = dag.build(stages, lambda spec: data[spec.data.origin])
    there = _looked(store, {node.key for node in nodes})
    finished |= {parent["key"] for manifest, *_ in there.values() if manifest for parent in manifest.get("parents", [])}
    plan: dict[str, Planned] = {}
    left: dict[str, Parts] = {}
    for node in nodes:
        planned = _planned(node, there[node.key], before.get(node.name), plan)
        damaged = there[node.key][2]
        if planned.state == "run" and (node.key in finished or damaged):
            planned = replace(planned, gone=True, why=DAMAGED if damaged else GONE)
        by = trials(node.spec)
        if by is not None and all(plan[parent].state == "cached" for parent in node.parents):
            tried, planned = _tried(planned, by, store, plan)
            plan |= {trial.node.name: trial for trial in tried}
        plan[node.name] = replace(planned, size=_size(node, samples, left), notes=tuple(notes.get(node.name, ())))
    manifests = {data[origin][1]: manifest for origin, (_, manifest) in found.items()}
    return store, [_noted(planned, manifests) for planned in plan.values()]


def _noted(planned: Planned, manifests: Mapping[str, Mapping[str, Any]]) -> Planned:
    """With a word on small pictures, unless it is done or has a parent, of which that is told."""
    spec = dag.trained(planned.node.spec)
    if spec is None or planned.state == "cached" or planned.node.parents:
        return planned
    word = too_small(manifests[planned.node.data_digest], spec.data)
    return replace(planned, notes=(*planned.notes, word)) if word else planned


def _brought(config: Config, store: Store, problems: Problems) -> tuple[list[Stage], dict[str, list[str]]]:
    """The stages, with the hashes of the weights that they start from, and what is to be told of these by stage.

    The weights are in the store after this.
    """
    found: dict[Model, Model] = {}
    told: dict[Model, list[Note]] = {}
    notes: dict[str, list[str]] = {}
    stages = []
    for stage in config.stages:
        spec = dag.trained(stage.spec)
        if spec is not None and spec.model.weights is not None:
            from dualprune.stages.networks.pretrained import WeightsError, bring

            try:
                if spec.model not in found:
                    told[spec.model] = []
                    found[spec.model] = bring(spec.model, store.folder, told[spec.model].append)
            except WeightsError as error:
                problems.add(stage.place("model", "weights"), str(error))
                continue
            notes[stage.name] = [note.text for note in told[spec.model] if note.kind in (None, spec.kind)]
            own = spec.model_copy(update={"model": found[spec.model]})
            stage = replace(stage, spec=with_training(stage.spec, own))
        stages.append(stage)
    return stages, notes


def _tried(
    search: Planned, by: Trials[Any], store: Store, plan: Mapping[str, Planned]
) -> tuple[list[Planned], Planned]:
    """The trials of a search that are done already, and the search with a word on how far it is."""
    node, parents = search.node, [plan[parent] for parent in search.node.parents]
    manifests = {parent.node.name: parent.manifest for parent in parents if parent.manifest is not None}
    found = CHOICES[node.spec.kind].decide(node, [parent.node for parent in parents], manifests, store.artefact)
    if isinstance(found, Refuse):
        return [], replace(search, why=found.reason)
    done = [Planned(one.node, "cached", "done", one.manifest, search=node.name) for one in found.tried]
    search = replace(search, trials=found.trials if isinstance(found, Try) else ())
    if search.state == "run" and done:
        search = replace(search, why=f"{search.why}; {len(done)} of at most {by.most(node.spec)} trials are done")
    return done, search


def forced(plan: list[Planned], names: Collection[str], option: str = "--force") -> tuple[list[Planned], set[str]]:
    """The plan with the named stages to run though they are done, and the keys whose artefacts have to go for that.

    `option` is what asks for it. Stages of the same key run again with them, and a search with all its trials.
    Raises ConfigError.
    """
    _known(plan, names, option)
    keys = {planned.node.key for planned in plan if planned.node.name in names or planned.search in names}
    searches = {planned.search for planned in plan if planned.search and planned.node.key in keys}
    return [
        replace(p, state="run", why=f"asked for by {option}", manifest=None) if p.node.key in keys else p
        for p in plan
        if p.search not in searches
    ], keys


def wanted(plan: list[Planned], start: str | None, only: Sequence[str], force: Sequence[str] = ()) -> set[str]:
    """Names of the stages to run: all, or `start` and those after it, or just `only`. Raises ConfigError."""
    option = "--from" if start else "--only"
    _known(plan, [start] if start else only, option)
    stages = [planned for planned in plan if planned.search is None]
    names = set(only) if only else {start} if start else {planned.node.name for planned in stages}
    if start:
        for planned in stages:
            if not names.isdisjoint(planned.node.parents):
                names.add(planned.node.name)
    undone = {planned.node.name for planned in stages if planned.state != "cached"} - names
    lacking = [(p.node.name, parent) for p in stages if p.node.name in names for parent in p.node.parents]
    found = [
        f"{name} needs {parent}, which is not done; run that first" for name, parent in lacking if parent in undone
    ]
    found += [f"{name} is not among the stages to run, so --force can't run it" for name in force if name not in names]
    if found:
        raise ConfigError(option, found)
    return names


def _known(plan: list[Planned], names: Collection[str], option: str) -> None:
    there = [planned.node.name for planned in plan if planned.search is None]
    unknown = [f"there is no stage {name!r}{like(name, there)}" for name in names if name not in there]
    if unknown:
        raise ConfigError(option, unknown)


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
    noted = {}
    for p in plan:
        done = {"done": True} if p.state == "cached" else {}
        noted[p.node.name] = {"key": p.node.key, **p.node.material, "spec": _settings(p.node), **done}
    store.note_plan(config.top.name, noted)


def hold(store: Store, plan: Sequence[Planned], wanted: Collection[str]) -> None:
    """Look once more, under the run's lock, whether all that `wanted` stages read is still in the store: from here on
    no cleaning takes it away. Raises StoreError."""
    waiting = [p.node for p in plan if p.state != "cached" and p.node.name in wanted]
    before = {parent for node in waiting for parent in node.parents}
    files = {f"{p.node.key}/{MANIFEST}" for p in plan if p.state == "cached" and p.node.name in before}
    for node in waiting:
        if node.shards.startswith(f"{store.url}/"):
            files.add(f"{node.shards.removeprefix(f'{store.url}/')}/{MANIFEST}")
        spec = dag.trained(node.spec)
        if spec is not None and spec.model.sha256 is not None:
            files.add(f"weights/{spec.model.sha256}")
    with ThreadPoolExecutor(LOOKS) as pool:
        there = dict(zip(files, pool.map(store.folder.exists, files), strict=True))
    gone = sorted(file for file, found in there.items() if not found)
    if gone:
        text = f"{', '.join(gone)} was in {store.url} when this run was planned, and is not now"
        raise StoreError(f"{text}; the same command plans anew")


def _store(top: Top, problems: Problems) -> Store | None:
    """The store, once it was written to; None, and a problem noted, where it can't be."""
    try:
        store = Store(top.store)
        store.probe()
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all mean the same here
        problems.add(("store",), f"{top.store} can't be written: {error}")
        return None
    return store


def _looked(store: Store, keys: Collection[str]) -> dict[str, There]:
    """What the store has of stages, by key."""

    def look(key: str) -> There:
        manifest = store.artefact(key)
        return (None, *store.unfinished(key)) if manifest is None else (manifest, None, False)

    with ThreadPoolExecutor(LOOKS) as pool:
        return dict(zip(keys, pool.map(look, keys), strict=True))


def _planned(
    node: Node,
    there: There,
    before: Mapping[str, Any] | None,
    plan: Mapping[str, Planned],
) -> Planned:
    manifest, steps, _ = there
    if manifest is not None:
        return Planned(node, "cached", "done", manifest)
    if steps is not None:
        return Planned(node, "resume", f"goes on after step {steps}, its last checkpoint", None, begun=steps)
    return Planned(node, "run", _why(node, before, plan), None)


def _why(node: Node, before: Mapping[str, Any] | None, plan: Mapping[str, Planned]) -> str:
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
    return "; ".join(reasons) or UNFINISHED


def _settings(node: Node) -> dict[str, Any]:
    """All that a stage's key is made from, defaults spelt out: not where data and weights lie or how data is read."""
    where = {"data": AROUND, "model": {"weights"}}
    exclude: Any = where if isinstance(node.spec, StageSpec) else {"stage": where}
    return node.spec.model_dump(mode="json", exclude=exclude)


def _resolve(data: Data, store: Store | None) -> tuple[str, dict[str, Any]]:
    """URL and manifest of the shards; a built-in data set is written first if it is not there. Raises DataError."""
    if data.shards is not None:
        return data.shards, read_manifest(data.shards)
    assert store is not None
    from dualprune.stages.data.make.sources import resolved

    name, write = resolved(data)
    url = f"{store.url}/data/{name}"
    if not store.folder.exists(f"data/{name}/manifest.json"):
        write(url)
    return url, read_manifest(url)

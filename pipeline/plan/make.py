"""What a run would do, and why: configuration, data and store brought together."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import Refuse, Stored, Time, Trials, Try
from dualprune.pipeline.choices.select import Select
from dualprune.pipeline.choices.shapes import Threed
from dualprune.pipeline.choices.table import CHOICES, trials
from dualprune.pipeline.config import checks
from dualprune.pipeline.config.load import Config
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.stage import Stage
from dualprune.pipeline.node import Node
from dualprune.pipeline.plan import inputs
from dualprune.pipeline.plan.counts import Parts, after, counts, either
from dualprune.pipeline.plan.inputs import Origin, Shards
from dualprune.pipeline.plan.state import Planned, Size
from dualprune.pipeline.plan.why import why
from dualprune.pipeline.store import progress, speeds
from dualprune.pipeline.store.store import Store
from dualprune.stages.data.format import too_small
from dualprune.stages.files.answers import answer
from dualprune.stages.files.folder import AT_ONCE
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.shrink import ShrinkSpec
from dualprune.stages.kinds.table import KINDS, phases
from dualprune.stages.settings.base import Problem, SpecError

if TYPE_CHECKING:
    from dualprune.stages.settings.training import StageSpec
    from dualprune.stages.solver.bounds import Room

There = tuple[Mapping[str, Any] | None, int | None, bool]
"""What a store has of a stage: its manifest if it is done, steps of its checkpoint, whether its artefact is damaged."""
GONE = "was done, but its artefact is gone"
ROUNDED = 1.02
"""Times a budget: what is left after a chain, step by step, may be less by rounding than all of it at once."""
SIZES = TypeAdapter(dict[str, Size])
"""As JSON, and back."""
DAMAGED = "was done, but its artefact is damaged; `dualprune store verify` says how"


def make(config: Config, problems: Problems) -> tuple[Store, list[Planned]]:
    """The plan of a configuration. Writes shards of built-in data sets, and weights, that the store does not hold yet.

    Networks are looked at only for stages that are not done, and for those before them, and only once: torch is
    imported for it. Raises ConfigError for a store that can't be written, data that is missing or damaged, weights that
    don't fit, and networks that can't do what stages say.
    """
    found = _found(config, problems)
    waiting = _waiting(found.nodes, found.there)
    left = [stage for stage in found.stages if stage.name in waiting]
    sizes = _sized(found, left, waiting, problems)
    made = {node.name for node in found.nodes if found.there[node.key][0] is not None}
    _timed_here([stage for stage in left if stage.name not in made], problems)
    problems.stop()
    plan = _states(config.top.name, found.nodes, found.there, found.store)
    shards = {one.digest: one for one in found.data.values()}
    manifests = {digest: one.manifest for digest, one in shards.items()}
    behind = _behind(found.nodes)
    return found.store, [
        replace(
            one,
            size=sizes.get(name),
            notes=(*found.notes.get(name, ()), *_small(one, manifests), *_unknown(one, behind), *_outlined(one)),
        )
        for name, one in plan.items()
    ]


def standing(config: Config, problems: Problems) -> tuple[Store, list[Planned]]:
    """How the stages of a configuration stand in its store: the same, without a look at their networks and their size.

    Raises ConfigError likewise, but for what is wrong with networks.
    """
    found = _found(config, problems)
    return found.store, list(_states(config.top.name, found.nodes, found.there, found.store).values())


class _Found(NamedTuple):
    """A configuration brought together with its data and its store."""

    store: Store
    data: Mapping[Origin, Shards]
    stages: list[Stage]
    notes: Mapping[str, list[str]]
    """On weights from elsewhere, by stage."""
    nodes: list[Node]
    there: Mapping[str, There]


@contextmanager
def _all_stays() -> Iterator[None]:
    """Within it no garbage is looked for: among all that is read of thousands of stages, and stays, that takes longer
    than to read it."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


@_all_stays()
def _found(config: Config, problems: Problems) -> _Found:
    store = inputs.store(config.top, problems)
    data = inputs.data(config, store, problems)
    stages, notes = ([], {}) if store is None else inputs.by_content(config, store, problems)
    if problems.found:
        checks.patterns(config.stages, problems)
        _probed(config.stages, data, problems)
    problems.stop()
    assert store is not None
    where = {origin: (shards.url, shards.digest) for origin, shards in data.items()}
    nodes = dag.build(stages, lambda spec: where[spec.data.origin])
    return _Found(store, data, stages, notes, nodes, _looked(store, {node.key for node in nodes}))


def _probed(stages: Collection[Stage], data: Mapping[Origin, Shards], problems: Problems) -> None:
    """Note where a network can't take the data, or an objective its outputs: at each stage that says so itself. And,
    where nothing of that is wrong, what can't be cut out of a network.

    Stages that ask the same are tried once.
    """
    from dualprune.stages.training.cuts import cuts, fits
    from dualprune.stages.training.probe import attends, probe

    tried: dict[tuple[Any, ...], list[Problem]] = {}
    for stage in stages:
        spec = dag.trained(stage.spec)
        if spec is None or spec.data.origin not in data:
            continue
        asks = (spec.model, spec.objective.model_dump_json(), spec.data.origin, spec.data.crop, spec.smoothing)
        asked = (*asks, attends(spec))
        if asked not in tried:
            tried[asked] = []
            try:
                probe(spec, data[spec.data.origin].manifest)
            except SpecError as error:
                tried[asked] = error.problems
        for path, text in tried[asked]:
            problems.add(stage.place(*path), text)
        if not tried[asked]:
            try:
                if (found := cuts(spec, data[spec.data.origin].manifest)) is not None:
                    check(spec, found)
                fits(spec, data[spec.data.origin].manifest)
                _reachable(stage, data[spec.data.origin].manifest, problems)
            except SpecError as error:
                for path, text in error.problems:
                    problems.add(stage.place(*path), text)


def _timed_here(stages: Collection[Stage], problems: Problems) -> None:
    """Whether choices by latency, which are not made yet, are meant for this machine."""
    from dualprune.stages.export.machine import machine

    for stage in stages:
        if not isinstance(stage.spec, Select | Threed) or (at := stage.spec.latency) is None:
            continue
        place = ("latency",) if isinstance(stage.spec, Select) else ("threed", "latency")
        try:
            here = machine(at.device)
        except ValueError as error:
            problems.add(stage.place(*place, "device"), str(error))
            continue
        if here != at.machine:
            text = f"this machine's is {here!r}; give that, and networks are timed anew, or run it there"
            problems.add(stage.place(*place, "machine"), text)


def _reachable(stage: Stage, manifest: Mapping[str, Any], problems: Problems) -> None:
    """Whether the budget of a `threed` is within the reach of its chains; of latency that has to be measured."""
    from dualprune.stages.training.cuts import least

    if not isinstance(stage.spec, Threed) or (by := trials(stage.spec)) is None:
        return
    ends, _ = by.harshest(stage.spec)
    assert isinstance(ends, ShrinkSpec)
    for cost, share in stage.spec.budget.items():
        if cost == "latency":
            continue
        left = least(ends, manifest, "macs" if cost == "macs" else "weights")
        if left > share * ROUNDED:
            text = f"{share:g} of the {cost} can't be reached: at the ends of the chains {left:.3g} of them is left"
            problems.add(stage.place("threed", "budget", cost), f"{text}; lengthen these, or allow more")


def _looked(store: Store, keys: Collection[str]) -> dict[str, There]:
    """What the store has of stages, by key. Of those that it has nothing of, one listing of all says so."""
    some = set(store.folder.names())
    done = store.artefacts([key for key in keys if key in some])

    def look(key: str) -> There:
        if key in done:
            return done[key], None, False
        return (None, *store.unfinished(key)) if key in some else (None, None, False)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(keys, pool.map(look, keys), strict=True))


def _waiting(nodes: list[Node], there: Mapping[str, There]) -> set[str]:
    """The stages that are not done, and all that are before them."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.name in found or there[node.key][0] is None:
            found |= {node.name, *node.parents}
    return found


def _states(run: str, nodes: list[Node], there: Mapping[str, There], store: Store) -> dict[str, Planned]:
    """All stages by name, parents first, and before each search those of its trials that are done."""
    before = store.last_plan(run)
    ended = progress.left(store.folder, run).done
    finished = {entry["key"] for entry in before.values() if entry.get("done")}.union(ended or ())
    finished |= {parent["key"] for manifest, *_ in there.values() if manifest for parent in manifest.get("parents", [])}
    plan: dict[str, Planned] = {}
    for node in nodes:
        planned = _planned(node, there[node.key], before.get(node.name), plan)
        damaged = there[node.key][2]
        if planned.state == "run" and (node.key in finished or damaged):
            planned = replace(planned, gone=True, why=DAMAGED if damaged else GONE)
        by = trials(node.spec)
        if by is not None and all(plan[parent].state == "cached" for parent in node.parents):
            tried, planned = _tried(planned, by, store, plan)
            plan |= {trial.node.name: trial for trial in tried}
        plan[node.name] = planned
    return plan


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
    return Planned(node, "run", why(node, before, plan), None)


def _tried(
    search: Planned, by: Trials[Any], store: Store, plan: Mapping[str, Planned]
) -> tuple[list[Planned], Planned]:
    """The trials of a search that are done already, and the search with a word on how far it is."""
    node, parents = search.node, [plan[parent] for parent in search.node.parents]
    manifests = {parent.node.name: parent.manifest for parent in parents if parent.manifest is not None}
    stored = Stored(store.artefact, partial(speeds.left, store))
    found = CHOICES[node.spec.kind].decide(node, [parent.node for parent in parents], manifests, stored)
    if isinstance(found, Refuse):
        return [], replace(search, why=found.reason)
    done = [Planned(one.node, "cached", "done", one.manifest, search=node.name) for one in found.tried]
    search = replace(search, trials=found.trials if isinstance(found, Try) else ())
    if search.state == "run" and done:
        search = replace(search, why=f"{search.why}; {len(done)} of at most {by.most(node.spec)} trials are done")
    if isinstance(found, Time):
        search = replace(search, why=f"{search.why}; {len(found.stages)} networks are timed next")
    return done, search


def _sized(found: _Found, left: Sequence[Stage], waiting: Collection[str], problems: Problems) -> dict[str, Size]:
    """How much work stages are, by name, where the networks of those that are `left` can do what they say.

    What was found so before is known. Raises ConfigError.
    """
    shards = {one.digest: one for one in found.data.values()}
    if not left:
        return _sizes(found.nodes, shards, waiting)

    def look() -> Any:
        checks.networks(left, problems)
        _probed(left, found.data, problems)
        problems.stop()
        return SIZES.dump_python(_sizes(found.nodes, shards, waiting), mode="json")

    numbers = {one.url: number for number, one in enumerate(found.data.values())}
    stages = [[one.name, one.key, one.teacher, one.name in waiting, numbers[one.shards]] for one in found.nodes]
    return SIZES.validate_python(answer("sizes", [stages, [one.manifest for one in found.data.values()]], look))


def _sizes(nodes: list[Node], data: Mapping[str, Shards], waiting: Collection[str]) -> dict[str, Size]:
    """How much work stages are, by name. `data` is by digest; of a search, one trial's work.

    How many weights they leave is told of those that are `waiting`, unless the network is made smaller before them.
    """
    left: dict[str, Parts] = {}
    behind = _behind(nodes)
    found = {}
    for node in nodes:
        spec = dag.trained(node.spec)
        if spec is None:
            if node.name in waiting:
                left[node.name] = either([left[parent] for parent in node.parents])
            continue
        epochs = sum(phase.epochs for phase in phases(spec))
        shards = data[node.data_digest]
        steps = epochs * (spec.data.used(shards.samples) // spec.batch)
        found[node.name] = Size(epochs, steps, None, None)
        if node.name in waiting:
            room = _room(spec, shards.manifest)
            parents = [left[parent] for parent in node.parents]
            left[node.name] = after(room, parents, KINDS[spec.kind].regrows(spec))
            if KINDS[spec.kind].prunes and node.name not in behind:
                found[node.name] = Size(epochs, steps, room.rate, counts(room, left[node.name]))
    return found


def _behind(nodes: list[Node]) -> set[str]:
    """Stages whose network has been made smaller before them. Parents come before children in `nodes`."""
    small: set[str] = set()
    found: set[str] = set()
    for node in nodes:
        spec = dag.trained(node.spec)
        starts = node.parents if spec is None else node.parents[:1]  # what else it has is its teacher
        if not small.isdisjoint(starts):
            found.add(node.name)
        if node.name in found or (spec is not None and KINDS[spec.kind].shrinks is not None):
            small.add(node.name)
    return found


def _unknown(planned: Planned, behind: Collection[str]) -> list[str]:
    """A word on shapes, of a stage that is not done and constrains tensors of a network that is smaller then."""
    node, spec = planned.node, dag.trained(planned.node.spec)
    if spec is None or planned.state == "cached" or node.name not in behind:
        return []
    kind = KINDS[spec.kind]
    if not [*kind.constraints(spec), *kind.removes(spec)]:
        return []
    return [
        "checked against the network as it is built: shapes after what is taken out are known when the stage starts"
    ]


def _outlined(planned: Planned) -> list[str]:
    """What a choice that is not made is going to try."""
    by = trials(planned.node.spec)
    return [] if by is None or by.outline is None or planned.state == "cached" else [by.outline(planned.node.spec)]


def _room(spec: StageSpec, manifest: Mapping[str, Any]) -> Room:
    """What a stage lets stay."""
    from dualprune.stages.training.cuts import cuts

    return check(spec, cuts(spec, manifest))


def _small(planned: Planned, manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A word on small pictures, unless it is done or has a parent, of which that is told."""
    spec = dag.trained(planned.node.spec)
    if spec is None or planned.state == "cached" or planned.node.parents:
        return []
    word = too_small(manifests[planned.node.data_digest], spec.data)
    return [word] if word else []

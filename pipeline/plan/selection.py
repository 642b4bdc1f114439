"""Which stages of a plan to run, as options say, and what of the store they read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from dualprune.pipeline import dag
from dualprune.pipeline.config.problems import ConfigError, like
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.store.store import Store
from dualprune.stages.data.format import MANIFEST
from dualprune.stages.files.folder import AT_ONCE
from dualprune.stages.files.outage import StoreError


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
    with ThreadPoolExecutor(AT_ONCE) as pool:
        there = dict(zip(files, pool.map(store.folder.exists, files), strict=True))
    gone = sorted(file for file, found in there.items() if not found)
    if gone:
        text = f"{', '.join(gone)} was in {store.url} when this run was planned, and is not now"
        raise StoreError(f"{text}; the same command plans anew")

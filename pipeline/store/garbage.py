"""What a store need not keep: found first, removed when somebody has agreed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dualprune.pipeline.store import inventory
from dualprune.pipeline.store.locks import Holder, Locks, living, run_lock, stage_lock
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import MANIFEST
from dualprune.stages.files.folder import File
from dualprune.stages.files.outage import StoreError

STALE = 3600.0
"""Seconds after which a file that was being written counts as left behind."""


@dataclass(frozen=True)
class Needed:
    """What a configuration needs of a store."""

    keys: frozenset[str]
    data: frozenset[str]
    """Folders of shards, by name."""
    weights: frozenset[str] = frozenset()
    """Files of weights from elsewhere, by their hashes."""


@dataclass(frozen=True)
class Waste:
    """Something that can go."""

    path: str
    """A file or folder in the store."""
    bytes: int
    why: str
    key: str | None = None
    """Of the stage, if all of it goes."""


class Busy(Exception):
    """A run is just beginning, and nobody can say yet what it needs."""


def find(store: Store, needed: Needed, alive: Mapping[str, Holder]) -> list[Waste]:
    """All that neither `needed` nor one of the locks that are held has a use for. Raises Busy."""
    now = store.probe()
    files = store.folder.files()
    live = {name.removeprefix(stage_lock("")) for name in alive if name.startswith(stage_lock(""))}
    runs = [name.removeprefix(run_lock("")) for name in alive if name.startswith(run_lock(""))]
    for run in runs:
        live |= _keys_of(store, run, alive[run_lock(run)], files)
    keep = needed.keys | live
    # No plan says which shards and weights a run reads.
    data = set(store.folder.names("data")) if runs else needed.data
    weights = set(store.folder.names("weights")) if runs else needed.weights
    return [
        *_stages(files, keep),
        *_shards(files, data, now),
        *_weights(files, weights),
        *_records(files, keep),
        *_leftovers(files, keep, live, now),
    ]


def remove(store: Store, waste: Collection[Waste]) -> list[str]:
    """Remove what was found; returns what could not go, because a run has begun to work on it meanwhile."""
    left = []
    with Locks(store.folder, "store gc") as locks:
        for one in sorted(waste, key=lambda one: one.key is not None):  # what needs no lock makes room for locks
            if one.key is None:
                if one.path.startswith(("data/", "weights/")) and any(map(_is_run, living(store.folder))):
                    left.append(one.path)  # no plan says which of these a run reads
                else:
                    store.folder.remove(one.path)
                continue
            try:
                if locks.try_take(stage_lock(one.key)) is not None:
                    left.append(one.path)
                    continue
            except StoreError:  # no room even for a lock: a moment ago nobody held it
                store.folder.remove(one.path)
                continue
            store.folder.remove(one.path)
            locks.forget(stage_lock(one.key))
    return left


def _is_run(lock: str) -> bool:
    return lock.startswith(run_lock(""))


def _stages(files: Mapping[str, File], keep: Collection[str]) -> Iterator[Waste]:
    sizes: dict[str, int] = {}
    for path, file in files.items():
        key = inventory.key_of(path)
        if key is not None and key not in keep:
            sizes[key] = sizes.get(key, 0) + file.bytes
    for key, size in sorted(sizes.items()):
        what = "a finished stage" if f"{key}/{MANIFEST}" in files else "an unfinished stage"
        yield Waste(key, size, f"{what} that no given configuration has", key)


def _shards(files: Mapping[str, File], keep: Collection[str], now: float) -> Iterator[Waste]:
    sizes: dict[str, int] = {}
    newest: dict[str, float] = {}
    for path, file in files.items():
        parts = path.split("/")
        if parts[0] == "data" and len(parts) > 2 and parts[1] not in keep:
            sizes[parts[1]] = sizes.get(parts[1], 0) + file.bytes
            newest[parts[1]] = max(newest.get(parts[1], 0.0), file.modified)
    for name, size in sorted(sizes.items()):
        if f"data/{name}/{MANIFEST}" not in files and now - newest[name] <= STALE:
            continue  # somebody is writing them
        yield Waste(f"data/{name}", size, "shards that no given configuration reads")


def _weights(files: Mapping[str, File], keep: Collection[str]) -> Iterator[Waste]:
    for path, file in sorted(files.items()):
        folder, _, name = path.partition("/")
        if folder == "weights" and name not in keep and not name.endswith(".part"):
            yield Waste(path, file.bytes, "weights that no given configuration starts from")


def _records(files: Mapping[str, File], keep: Collection[str]) -> Iterator[Waste]:
    for path, file in sorted(files.items()):
        folder, _, name = path.partition("/")
        if folder == "saliency" and name.removesuffix(".json") not in keep and not name.endswith(".part"):
            yield Waste(path, file.bytes, "what a network looks at, of a stage that no given configuration has")


def _leftovers(files: Mapping[str, File], keep: Collection[str], live: Collection[str], now: float) -> Iterator[Waste]:
    """Of stages that stay, what they need no more; and what writers left that were killed."""
    checkpoints: dict[str, int] = {}
    for path, file in files.items():
        key = inventory.key_of(path)
        old = now - file.modified > STALE
        if key is not None and (key not in keep or key in live):
            continue
        if key is not None and path.startswith(f"{key}/checkpoints/") and f"{key}/{MANIFEST}" in files:
            checkpoints[key] = checkpoints.get(key, 0) + file.bytes
        elif path.endswith(".part") and old:
            yield Waste(path, file.bytes, "was being written when its writer was killed")
        elif path.startswith(".probe-") and old:
            yield Waste(path, file.bytes, "a trial whether the store can be written")
        elif path.startswith("locks/holders/") and old:
            yield Waste(path, file.bytes, "the heartbeat of a process that is gone")
    for key, size in sorted(checkpoints.items()):
        yield Waste(f"{key}/checkpoints", size, "checkpoints of a finished stage")


def _keys_of(store: Store, run: str, holder: Holder, files: Mapping[str, File]) -> set[str]:
    """Keys in a live run's plan, and what it wrote beyond that. Raises Busy if it has not written its plan yet."""
    plan = store.last_plan(run)
    taken = max(file.modified for path, file in files.items() if path.startswith(f"locks/names/{run_lock(run)}/"))
    written_down = files.get(f"plans/{run}.json")
    if not plan or written_down is None or written_down.modified < taken:
        raise Busy(f"the run {run} of {holder} is just beginning; try again when it trains")
    written = {inventory.key_of(path) for path, file in files.items() if file.modified >= taken}
    return {stage["key"] for stage in plan.values()} | {key for key in written if key is not None}

"""What a store holds, whatever configuration it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

from dualprune.pipeline.node import KEY_LENGTH
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts import manifest, parts
from dualprune.stages.objectives.measures import CLASSIFY, Measures, measures

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")

State = Literal["finished", "unfinished", "failed", "damaged"]


@dataclass(frozen=True)
class Entry:
    """One stage's folder. What is not known is None."""

    key: str
    state: State
    """`damaged` where the manifest can't be read, or a reader or `verify` has found so; every byte is not read anew."""
    name: str | None = None
    kind: str | None = None
    rate: float | None = None
    network_rate: float | None = None
    """Of the whole network; None in older artefacts."""
    val: float | None = None
    """By what `measures` names as the best."""
    test: float | None = None
    bytes: int = 0
    finished: float | None = None
    """When the manifest was written, by the store's clock, in seconds since 1970."""
    checkpoint: int | None = None
    """Step of the newest checkpoint, of a stage that is not finished."""
    why: str | None = None
    """It failed."""
    measures: Measures | None = CLASSIFY
    """None of an unfinished stage that is not to classify: only its objective knows, and it may be somebody's own."""


@dataclass(frozen=True)
class Ancestor:
    """A stage on the way from one to its root."""

    depth: int
    name: str
    key: str
    manifest: Mapping[str, Any] | None
    """None where its artefact is not in the store any more, or can't be read."""


class Unknown(LookupError):
    """A key, or the beginning of one, that does not name one stage of a store."""


def key_of(path: str) -> str | None:
    """The stage that a file or folder of a store belongs to, or None."""
    first = path.split("/", 1)[0]
    return first if _KEY.fullmatch(first) else None


def keys(store: Store) -> list[str]:
    """Keys of all stages that left something."""
    return [name for name in store.folder.names() if key_of(name)]


def entries(store: Store) -> list[Entry]:
    """All stages, the newest first; the unfinished ones before them. One listing, and the small files."""
    sizes: dict[str, int] = {}
    finished: dict[str, float] = {}
    aside: set[str] = set()
    for path, file in store.folder.files().items():
        key = key_of(path)
        if key is not None:
            sizes[key] = sizes.get(key, 0) + file.bytes
            if path == f"{key}/{manifest.MANIFEST}":
                finished[key] = file.modified
            if path == f"{key}/{manifest.ASIDE}":
                aside.add(key)
    planned = _planned(store)
    found = [_entry(store, key, sizes[key], finished.get(key), key in aside, planned.get(key)) for key in sizes]
    return sorted(found, key=lambda entry: (entry.finished is not None, -(entry.finished or 0), entry.key))


def find(store: Store, given: str) -> str:
    """The one key that begins so or, where none does, that of the one stage of this name. Raises Unknown."""
    found = [key for key in keys(store) if key.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Unknown(f"{given} is the beginning of {len(found)} keys in {store.url}: {', '.join(found)}")
    known = entries(store)
    named = [entry.key for entry in known if entry.name == given]
    if len(named) == 1:
        return named[0]
    if named:
        text = f"{len(named)} stages in {store.url} are named {given}"
        raise Unknown(
            f"{text}: {', '.join(named)}; `dualprune store show CONFIG {given}` shows that of a configuration"
        )
    near = get_close_matches(given, {entry.name for entry in known if entry.name}, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `dualprune store ls` lists them"
    raise Unknown(f"{store.url} holds no stage whose key begins with {given}, or whose name it is{hint}")


def lineage(store: Store, of: Mapping[str, Any]) -> list[Ancestor]:
    """From a manifest to its root, parents after children, each further one a step deeper."""

    def above(of: Mapping[str, Any], depth: int) -> Iterator[Ancestor]:
        for parent in of.get("parents", []):
            found = _readable(store, parent["key"])
            yield Ancestor(depth, parent["name"], parent["key"], found)
            if found is not None:
                yield from above(found, depth + 1)

    return list(above(of, 1))


@dataclass(frozen=True)
class Verified:
    """What was found when every byte was read."""

    artefacts: int
    parts: int
    """Of checkpoints."""
    damages: tuple[str, ...]


def verify(store: Store) -> Verified:
    """Hash every file of every artefact, and every part of every checkpoint. Damaged artefacts are set aside."""
    artefacts, found_parts = 0, 0
    found: list[str] = []
    for key in keys(store):
        folder = store.folder / key
        artefacts += folder.exists(manifest.MANIFEST)
        damaged = manifest.damages(folder)
        if damaged:
            manifest.set_aside(folder)
        found += damaged
        count, damages = parts.damages(folder / "checkpoints")
        found_parts += count
        found += damages
    return Verified(artefacts, found_parts, tuple(found))


def _entry(store: Store, key: str, size: int, finished: float | None, aside: bool, planned: Entry | None) -> Entry:
    known = replace(planned or Entry(key, "damaged"), bytes=size, finished=finished)
    if finished is None and aside:
        return known
    if finished is None:
        why, step = store.failure(key), store.checkpoint_steps(key)
        return replace(known, state="failed" if why else "unfinished", checkpoint=step, why=why)
    found = _readable(store, key)
    if found is None:
        return known
    metrics, of = found["metrics"], measures(found)
    shown = {what: metrics.get(what) for what in ("rate", "network_rate")}
    shown |= {split: metrics.get(of.of(split)) for split in ("val", "test")}
    name, kind = found.get("name"), found.get("kind")
    return Entry(key, "finished", name, kind, **shown, bytes=size, finished=finished, measures=of)


def _readable(store: Store, key: str) -> dict[str, Any] | None:
    """An artefact's manifest without a look at its other files, or None if it makes no sense."""
    try:
        found = manifest.read(store.folder / key)
    except manifest.Damaged:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("metrics"), dict) else None


def _planned(store: Store) -> dict[str, Entry]:
    """What the last plan of each run says of its stages, by key."""
    found = {}
    for file in store.folder.names("plans"):
        plan = store.last_plan(file.removesuffix(".json"))
        by_key = {stage["key"]: stage for stage in plan.values()}
        for name, stage in plan.items():
            of = CLASSIFY if _objective(stage, by_key) == "classify" else None
            found[stage["key"]] = Entry(stage["key"], "damaged", name, stage["spec"]["kind"], measures=of)
    return found


def _objective(stage: Mapping[str, Any], by_key: Mapping[str, Any]) -> Any:
    """The objective of a stage in a plan: its own, that of what it tries or, of a choice, its first parent's."""
    spec, parents = stage["spec"], stage.get("parents") or []
    if "model" in spec.get("stage", spec) or not parents or parents[0] not in by_key:
        return spec.get("stage", spec).get("objective", "classify")
    return _objective(by_key[parents[0]], by_key)

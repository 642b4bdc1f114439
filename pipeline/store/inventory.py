"""What a store holds, whatever configuration it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dualprune.pipeline.node import KEY_LENGTH
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts import manifest, parts

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")

State = Literal["finished", "unfinished", "failed", "damaged"]


@dataclass(frozen=True)
class Entry:
    """One stage's folder. What is not known is None; accuracies are top-1 in percent."""

    key: str
    state: State
    """`damaged` where the manifest can't be read, or a reader or `verify` has found so; every byte is not read anew."""
    name: str | None = None
    kind: str | None = None
    rate: float | None = None
    network_rate: float | None = None
    """Of the whole network; None in older artefacts."""
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    bytes: int = 0
    finished: float | None = None
    """When the manifest was written, by the store's clock, in seconds since 1970."""
    checkpoint: int | None = None
    """Step of the newest checkpoint, of a stage that is not finished."""
    why: str | None = None
    """It failed."""


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


def validated(metrics: Mapping[str, Any]) -> str:
    """What a stage does on validation, of its metrics or an epoch's row: accuracy, or its objective's own metric."""
    name = next((name for name in ("val_accuracy", *metrics) if name in metrics and name.startswith("val_")), None)
    if name is None:
        return "not validated"
    return f"val {metrics[name]:.2f} %" if name == "val_accuracy" else f"{name.replace('_', ' ')} {metrics[name]:.4g}"


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


def find(store: Store, prefix: str) -> str:
    """The one key that begins so. Raises Unknown."""
    found = [key for key in keys(store) if key.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Unknown(f"{prefix} is the beginning of {len(found)} keys in {store.url}: {', '.join(found)}")
    raise Unknown(f"{store.url} holds no stage whose key begins with {prefix}; `dualprune store ls` lists them")


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


def _entry(
    store: Store, key: str, size: int, finished: float | None, aside: bool, planned: tuple[str, str] | None
) -> Entry:
    name, kind = planned or (None, None)
    if finished is None and aside:
        return Entry(key, "damaged", name, kind, bytes=size)
    if finished is None:
        why, step = store.failure(key), store.checkpoint_steps(key)
        return Entry(key, "failed" if why else "unfinished", name, kind, bytes=size, checkpoint=step, why=why)
    found = _readable(store, key)
    if found is None:
        return Entry(key, "damaged", name, kind, bytes=size, finished=finished)
    metrics = found["metrics"]
    shown = {what: metrics.get(what) for what in ("rate", "network_rate", "val_accuracy", "test_accuracy")}
    return Entry(key, "finished", found.get("name"), found.get("kind"), **shown, bytes=size, finished=finished)


def _readable(store: Store, key: str) -> dict[str, Any] | None:
    """An artefact's manifest without a look at its other files, or None if it makes no sense."""
    try:
        found = manifest.read(store.folder / key)
    except manifest.Damaged:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("metrics"), dict) else None


def _planned(store: Store) -> dict[str, tuple[str, str]]:
    """Name and kind by key, of all stages in the last plan of each run."""
    found = {}
    for file in store.folder.names("plans"):
        for name, stage in store.last_plan(file.removesuffix(".json")).items():
            found[stage["key"]] = (name, stage["spec"]["kind"])
    return found

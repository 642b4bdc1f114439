"""Artefacts by key, on any fsspec filesystem, and what was planned under a run's name before.

<store>/<key>/            an artefact, once its manifest is there (stages.artefacts)
<store>/data/<name>/      shards that dualprune wrote
<store>/weights/<sha256>  trained weights from elsewhere (stages.networks.pretrained)
<store>/<key>/checkpoints/, failure.json   of a stage that is not done
<store>/<key>/speed.json  how fast its network is, as it was timed last (pipeline.store.speeds)
<store>/events/<run>/     what happened, and when (pipeline.store.events)
<store>/progress/<run>.json  how far a run is (pipeline.run.progress)
<store>/plans/<run>.json  keys and settings of the last plan, to say what has changed since
<store>/saliency/<key>.json  what a network looks at (pipeline.reports.saliency.record)
<store>/locks/            who works on what (pipeline.store.locks)
<store>/logs/<run>/       logs, where the store is a local folder
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from dualprune.stages.artefacts import manifest, parts
from dualprune.stages.files.folder import AT_ONCE, Folder

_log = logging.getLogger(__name__)

LISTED = 3
"""Of so many things in a store a plan asks for one at least, where one listing of all is less than one for each."""


class Store:
    """A store by its URL."""

    def __init__(self, url: str) -> None:
        self.folder = Folder(url)
        self.url = self.folder.url

    def probe(self) -> float:
        """Write and remove a small file; the time by the store's own clock, in seconds since 1970.

        A folder that was no store yet is one after this. Raises stages.files.outage.StoreError and StoreAway, and
        what else the filesystem raises.
        """
        self.folder = self.folder.establish()
        name = f".probe-{uuid.uuid4().hex[:8]}"
        self.folder.write(name, b"")
        now = self.folder.info(name).modified
        self.folder.remove(name)
        return now

    def artefact(self, key: str) -> dict[str, Any] | None:
        """The manifest of a finished stage whose files are all there, or None, with a warning. Reads no other file."""
        return _undamaged(lambda: manifest.check(self.folder / key))

    def artefacts(self, keys: Collection[str]) -> dict[str, dict[str, Any]]:
        """What `artefact` gives for those of many stages that are finished, by key, asked side by side."""
        folders = {key: self.folder / key for key in keys}
        with ThreadPoolExecutor(AT_ONCE, "look") as pool:
            read = pool.map(lambda folder: _undamaged(lambda: manifest.read(folder)), folders.values())
            found = {key: one for key, one in zip(folders, read, strict=True) if one is not None}
            # Their files are looked at after their manifests, which come last.
            if len(found) > AT_ONCE and LISTED * len(found) > len(self.folder.names()):
                sizes: Mapping[str, Mapping[str, int] | None] = self._sizes()
            else:
                sizes = dict(zip(found, pool.map(lambda key: folders[key].sizes(), found), strict=True))
        whole = {
            key: _undamaged(partial(manifest.whole, folders[key], one, sizes.get(key, {})))
            for key, one in found.items()
        }
        return {key: one for key, one in whole.items() if one is not None}

    def _sizes(self) -> dict[str, dict[str, int]]:
        """Bytes of the files directly in each folder, from one listing of all there is: some thousand for an answer."""
        sizes: dict[str, dict[str, int]] = {}
        for path, file in self.folder.files().items():
            folder, _, name = path.rpartition("/")
            sizes.setdefault(folder, {})[name] = file.bytes
        return sizes

    def unfinished(self, key: str) -> tuple[int | None, bool]:
        """Of a stage that has no artefact: steps of its newest checkpoint, and whether one it had was found damaged."""
        names = self.folder.names(key)
        damaged = manifest.ASIDE in names or manifest.MANIFEST in names  # which was no artefact's when it was read
        return self.checkpoint_steps(key) if "checkpoints" in names else None, damaged

    def checkpoint_steps(self, key: str) -> int | None:
        """Steps of the newest checkpoint that an unfinished stage has, or None. It may prove damaged when read."""
        folder = self.folder / key / "checkpoints"
        found = [name for name in parts.steps(folder) if folder.names(name)]
        return int(found[-1].removeprefix("step-")) if found else None

    def failure(self, key: str) -> str | None:
        """Why a stage failed last, or None."""
        try:
            return str(self.folder.read_json(f"{key}/failure.json")["reason"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def note_failure(self, key: str, reason: str | None) -> None:
        """Leave, or with None take back, why a stage failed."""
        if reason is None:
            self.folder.discard(f"{key}/failure.json")
        else:
            self.folder.write_json(f"{key}/failure.json", {"reason": reason})

    def last_plan(self, run: str) -> dict[str, Any]:
        """What `note_plan` left under a run's name: key material by stage; empty where there is none."""
        try:
            plan: dict[str, Any] = self.folder.read_json(f"plans/{run}.json")
        except (FileNotFoundError, ValueError):
            return {}
        return plan

    def note_plan(self, run: str, material: dict[str, Any]) -> None:
        """Leave key material by stage."""
        self.folder.write_json(f"plans/{run}.json", material)


def _undamaged(look: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
    """What is found, or None, with a warning, if it is damaged."""
    try:
        return look()
    except manifest.Damaged as error:
        _log.warning("%s; it counts as absent and its stage is run again", error)
        return None

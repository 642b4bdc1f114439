"""Whether a folder of shards still holds what was written or indexed. Runs do not ask: it means reading all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stages.data.index import at_hand
from stages.data.manifest import MANIFEST, SPLITS, read_manifest, shards_folder
from stages.files import Folder, sha256_of


def verify(url: str, progress: Callable[[int, int], None] = lambda done, files: None) -> tuple[int, list[str]]:
    """Hash every shard and index, several at a time: how many there are, and in words what is wrong with which.

    `progress` is told how many files of all are done. Raises DataError for a folder whose manifest can't be read or
    names files that are missing, and stages.outage.StoreError and StoreAway.
    """
    files = list(_files(url))
    damages = []
    with ThreadPoolExecutor(max_workers=min(8, len(os.sched_getaffinity(0)))) as pool:
        for done, damage in enumerate(pool.map(_damage, files), 1):
            damages += [damage] if damage else []
            progress(done, len(files))
    return len(files), damages


def _files(url: str) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """Each file with its entry in the manifest."""
    manifest = read_manifest(url)
    for split in SPLITS:
        entry = manifest["splits"][split]
        yield Folder(url), entry["index"]
        folder = shards_folder(url, manifest, split)
        for shard in entry["shards"]:
            yield folder, shard


def _damage(found: tuple[Folder, dict[str, Any]]) -> str | None:
    folder, entry = found
    where = f"{folder.url}/{entry['file']}"
    try:
        with at_hand(folder, entry["file"]) as path:
            same = sha256_of(path) == entry["sha256"]
    except FileNotFoundError:  # where there are no listings, as on web servers, nobody has noticed before
        return f"{where} is missing, though {MANIFEST} lists it"
    except OSError as error:
        if not folder.local:
            raise
        return f"{where} can't be read: {error.strerror}"
    return None if same else f"{where} is not what the manifest says: its sha256 differs"

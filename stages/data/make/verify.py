"""Whether a folder of shards still holds what was written or indexed. Runs do not ask: it means reading all of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dualprune.stages.data.format import MANIFEST, listed, manifest_alone
from dualprune.stages.data.make.index import at_hand
from dualprune.stages.files.folder import Folder, sha256_of


def verify(url: str, progress: Callable[[int, int], None] = lambda done, files: None) -> tuple[int, list[str]]:
    """Hash every shard and index, several at a time: how many there are, and in words what is wrong with which.

    `progress` is told how many files of all are done. Raises DataError for a folder whose manifest can't be read, and
    stages.files.outage.StoreError and StoreAway.
    """
    files = list(listed(url, manifest_alone(url)))
    damages = []
    with ThreadPoolExecutor(max_workers=min(8, len(os.sched_getaffinity(0)))) as pool:
        for done, damage in enumerate(pool.map(_damage, files), 1):
            damages += [damage] if damage else []
            progress(done, len(files))
    return len(files), damages


def _damage(found: tuple[Folder, dict[str, Any]]) -> str | None:
    folder, entry = found
    where = f"{folder.url}/{entry['file']}"
    try:
        with at_hand(folder, entry["file"]) as path:
            same = sha256_of(path) == entry["sha256"]
    except FileNotFoundError:
        return f"{where} is missing, though {MANIFEST} lists it"
    except OSError as error:
        if not folder.local:
            raise
        return f"{where} can't be read: {error.strerror}"
    return None if same else f"{where} is not what the manifest says: its sha256 differs"

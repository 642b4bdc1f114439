"""Files within shards, read by their place: from a local file, or from a copy of a remote one in the cache."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from typing import Any

from dualprune.stages.data.format import DataError
from dualprune.stages.data.read.cache import Cache, default_root
from dualprune.stages.files.folder import Folder


class Members:
    """Files in the shards of a folder; `shards` are their entries in a manifest, `limit` the bytes of the cache."""

    def __init__(self, folder: Folder, shards: Sequence[dict[str, Any]], limit: int) -> None:
        self.folder, self.shards, self.limit = folder, shards, limit
        # fsspec's connections don't outlive a fork, so each process opens its own.
        self._opened = (os.getpid(), folder)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of shard number `shard`. Raises DataError if it is gone or ends before them."""
        entry = self.shards[shard]
        if self.folder.local:
            try:
                with open(self.folder.path(entry["file"]), "rb", buffering=0) as file:
                    data = os.pread(file.fileno(), size, offset)
            except FileNotFoundError:
                raise DataError(f"{self.folder.url}/{entry['file']} is no longer there") from None
        else:
            if self._opened[0] != os.getpid():
                self._opened = (os.getpid(), Folder(self.folder.url))
            data = Cache(default_root(), self.limit).read(self._opened[1], entry, offset, size)
        if len(data) != size:
            raise DataError(
                f"{self.folder.url}/{entry['file']} ends before a sample that its index has: it was changed"
            )
        return data

    def name(self, shard: int, offset: int) -> str:
        """The name of the file whose bytes begin at `offset`."""
        try:
            return tarfile.TarInfo.frombuf(self.read(shard, offset - 512, 512), "utf-8", "replace").name
        except tarfile.HeaderError:
            return f"what is at byte {offset}"

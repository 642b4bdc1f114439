"""The manifest of a folder of shards, read without torch."""

from __future__ import annotations

from typing import Any

from stages.files import Folder, canonical, sha256

MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """Shards that are missing, empty or not what their manifest says."""


def read_manifest(url: str) -> dict[str, Any]:
    """The manifest of a folder of shards, after a look at what must be there. Raises DataError."""
    try:
        folder = Folder(url)
        manifest: dict[str, Any] = folder.read_json(MANIFEST)
        splits = manifest["splits"]
        present = set(folder.names())
        for split in SPLITS:
            if split not in splits or not splits[split]["samples"]:
                raise DataError(f"{url} has no samples for the split {split}")
            for entry in [*splits[split]["shards"], splits[split]["index"]]:
                if entry["file"] not in present:
                    raise DataError(f"{url}/{entry['file']} is missing, though {MANIFEST} lists it")
    except FileNotFoundError:
        raise DataError(f"{url} holds no {MANIFEST}, so no shards that dualprune wrote") from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        raise DataError(f"{url}/{MANIFEST} can't be read: {error!r}") from None
    return manifest


def digest(manifest: dict[str, Any]) -> str:
    """What a stage's key knows of its data: the hash of the manifest, and so of every shard's hash."""
    return sha256(canonical(manifest["splits"]))

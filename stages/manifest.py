"""An artefact's manifest, read and checked without torch: is this stage done? And artefacts copied."""

from __future__ import annotations

from typing import Any

from stages.files import Folder, canonical, sha256

MANIFEST = "manifest.json"


class Damaged(Exception):
    """An artefact whose files are not what its manifest says; it counts as absent."""


def own_hash(manifest: dict[str, Any]) -> str:
    """The hash of all of a manifest but the hash itself."""
    return sha256(canonical({key: value for key, value in manifest.items() if key != "sha256"}))


def read(folder: Folder) -> dict[str, Any] | None:
    """The manifest, or None where there is none: the stage is not done. Raises Damaged if it is no JSON."""
    try:
        manifest: dict[str, Any] = folder.read_json(MANIFEST)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Damaged(f"{folder.url}/{MANIFEST} is no JSON: {error}") from None
    return manifest


def verify(folder: Folder) -> dict[str, Any] | None:
    """The manifest after every file's hash was checked, or None where there is none. Raises Damaged."""
    manifest = read(folder)
    if manifest is None:
        return None
    try:
        if own_hash(manifest) != manifest["sha256"]:
            raise Damaged(f"{folder.url}/{MANIFEST} has changed since it was written: its sha256 differs")
        files = dict(manifest["files"])
        for name, entry in files.items():
            if sha256(folder.read(name)) != entry["sha256"]:
                raise Damaged(f"{folder.url}/{name} has changed since it was written: its sha256 differs")
    except FileNotFoundError as error:
        raise Damaged(f"{folder.url} lacks a file that its manifest lists: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder.url}/{MANIFEST} lacks {error}") from None
    return manifest


def take(source: Folder, folder: Folder, changes: dict[str, Any]) -> dict[str, Any]:
    """Copy a finished artefact, with `changes` to its manifest. Returns the copy's. Raises Damaged."""
    manifest = verify(source)
    if manifest is None:
        raise Damaged(f"{source.url} holds no finished artefact")
    for name in manifest["files"]:
        folder.write(name, source.read(name))
    manifest |= changes
    manifest["sha256"] = own_hash(manifest)
    folder.write_json(MANIFEST, manifest)
    return manifest

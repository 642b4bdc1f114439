"""An artefact's manifest, read and checked without torch: is this stage done? And artefacts copied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from stages.files import Folder, canonical, encoded, sha256

MANIFEST = "manifest.json"


class Damaged(Exception):
    """An artefact whose files are not what its manifest says; it counts as absent."""


def own_hash(manifest: dict[str, Any]) -> str:
    """The hash of all of a manifest but the hash itself."""
    return sha256(canonical({key: value for key, value in manifest.items() if key != "sha256"}))


def read(folder: Folder) -> dict[str, Any] | None:
    """The manifest, or None where there is none: the stage is not done. Raises Damaged if it is no JSON of ours."""
    try:
        data = folder.read(MANIFEST)
    except FileNotFoundError:
        return None
    try:
        manifest: dict[str, Any] = json.loads(data)
        same = encoded(manifest) == data
    except ValueError as error:
        raise Damaged(f"{folder.url}/{MANIFEST} is no JSON: {error}") from None
    if not same:
        raise Damaged(f"{folder.url}/{MANIFEST} has changed since it was written: it is not in our form")
    return manifest


def verify(folder: Folder) -> dict[str, Any] | None:
    """The manifest after every file's hash was checked, or None where there is none. Raises Damaged."""
    manifest = read(folder)
    if manifest is not None:
        for damage in _damages(folder, manifest):
            raise Damaged(damage)
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


def damages(folder: Folder) -> list[str]:
    """A sentence for each file of an artefact that is not what it was; none where there is no artefact."""
    try:
        manifest = read(folder)
    except Damaged as error:
        return [str(error)]
    return [] if manifest is None else list(_damages(folder, manifest))


def _damages(folder: Folder, manifest: dict[str, Any]) -> Iterator[str]:
    try:
        if own_hash(manifest) != manifest["sha256"]:
            yield f"{folder.url}/{MANIFEST} has changed since it was written: its sha256 differs"
            return  # so what it says of other files is worth nothing
        files = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        yield f"{folder.url}/{MANIFEST} lacks {error}"
        return
    for name, digest in files.items():
        try:
            if sha256(folder.read(name)) != digest:
                yield f"{folder.url}/{name} has changed since it was written: its sha256 differs"
        except FileNotFoundError:
            yield f"{folder.url}/{name} is missing, though {MANIFEST} lists it"

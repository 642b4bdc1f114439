"""An artefact's manifest, read and checked without torch: is this stage done? And artefacts copied.

Whether a stage is done is asked of thousands of artefacts at once, so that takes the manifest and one listing. The
bytes of the other files are hashed by who reads them (stages.artefacts.artefact.load) and by `damages`. An artefact
that is found damaged then is set aside, and counts as absent from there on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dualprune.stages.files.folder import Folder, canonical, sha256

MANIFEST = "manifest.json"
ASIDE = "damaged.json"
"""The manifest of an artefact that was found damaged: with it, and without the other, the stage is not done."""


class Damaged(Exception):
    """An artefact whose files are not what its manifest says; it counts as absent."""


def own_hash(manifest: dict[str, Any]) -> str:
    """The hash of all of a manifest but the hash itself."""
    return sha256(canonical({key: value for key, value in manifest.items() if key != "sha256"}))


def read(folder: Folder) -> dict[str, Any] | None:
    """The manifest, or None where there is none: the stage is not done. Raises Damaged if it was changed."""
    try:
        data = folder.read_small(MANIFEST)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise Damaged(f"{folder.url}/{MANIFEST} is a folder") from None
    try:
        manifest: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise Damaged(f"{folder.url}/{MANIFEST} is no JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise Damaged(f"{folder.url}/{MANIFEST} has changed since it was written: it is no mapping")
    try:
        if own_hash(manifest) != manifest["sha256"]:
            raise Damaged(f"{folder.url}/{MANIFEST} has changed since it was written: its sha256 differs")
        _ = {name: (entry["sha256"], entry["bytes"]) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged(f"{folder.url}/{MANIFEST} lacks {error}") from None
    return manifest


def check(folder: Folder) -> dict[str, Any] | None:
    """The manifest after the sizes of its files were looked at, or None where there is none. Raises Damaged."""
    manifest = read(folder)
    return manifest and whole(folder, manifest, folder.sizes())


def whole(folder: Folder, manifest: dict[str, Any], sizes: Mapping[str, int] | None) -> dict[str, Any]:
    """The manifest, if its files are there by a listing's `sizes`; None where none could be had. Raises Damaged."""
    for name, entry in manifest["files"].items():
        there = entry["bytes"] if sizes is None else sizes.get(name)
        if there is None:
            raise Damaged(f"{folder.url}/{name} is missing, though {MANIFEST} lists it")
        if there != entry["bytes"]:
            found = f"it has {there:,} bytes, not {entry['bytes']:,}"
            raise Damaged(f"{folder.url}/{name} has changed since it was written: {found}")
    return manifest


def content(folder: Folder, manifest: dict[str, Any], name: str) -> bytes:
    """All of one of an artefact's files, its hash checked. Raises Damaged."""
    try:
        data = folder.read(name)
    except FileNotFoundError:
        raise Damaged(f"{folder.url}/{name} is missing, though {MANIFEST} lists it") from None
    if sha256(data) != manifest["files"][name]["sha256"]:
        raise Damaged(f"{folder.url}/{name} has changed since it was written: its sha256 differs")
    return data


def set_aside(folder: Folder) -> None:
    """Let a damaged artefact count as absent, so that the next run of its stage makes it anew."""
    try:
        folder.write(ASIDE, folder.read(MANIFEST))
    except FileNotFoundError:
        return  # somebody else has done it
    except IsADirectoryError:
        folder.write(ASIDE, b"")
    folder.remove(MANIFEST)


def take(source: Folder, folder: Folder, changes: dict[str, Any]) -> dict[str, Any]:
    """Copy a finished artefact, with `changes` to its manifest. Returns the copy's. Raises Damaged."""
    manifest = check(source)
    if manifest is None:
        raise Damaged(f"{source.url} holds no finished artefact")
    for name in manifest["files"]:
        source.copy(name, folder)
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
    for name, entry in manifest["files"].items():
        try:
            if folder.hash(name) != entry["sha256"]:
                yield f"{folder.url}/{name} has changed since it was written: its sha256 differs"
        except FileNotFoundError:
            yield f"{folder.url}/{name} is missing, though {MANIFEST} lists it"

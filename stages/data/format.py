"""The manifest of a folder of shards, read without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from dualprune.stages.files.folder import Folder, canonical, sha256
from dualprune.stages.settings.data import Data

MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")
OF_ANY_SIZE = (
    *("crop", "resize", "scale", "ratio", "randaugment", "decode"),
    *("window", "max_pixels", "bad", "workers", "cache"),
)
"""Settings that have a meaning for encoded pictures alone."""

KEPT = 1 << 30
"""Bytes of a split with fields that are kept in memory, at most."""


class DataError(ValueError):
    """Shards that are missing, empty or not what their manifest says."""


def read_manifest(url: str) -> dict[str, Any]:
    """The manifest of a folder of shards, after a look at what must be there, and how large. Raises DataError."""
    manifest = manifest_alone(url)
    sizes: dict[str, dict[str, int] | None] = {}
    for folder, entry in listed(url, manifest):
        if folder.url not in sizes:
            try:
                sizes[folder.url] = folder.sizes()
            except OSError as error:
                raise DataError(f"{folder.url} can't be listed: {error!r}") from None
        found, where = sizes[folder.url], f"{folder.url}/{entry['file']}"
        if found is None:  # where a service lists no files, what is missing is found when it is read
            continue
        if entry["file"] not in found:
            raise DataError(f"{where} is missing, though {MANIFEST} lists it")
        size = found[entry["file"]]
        if size != entry.get("bytes", size):
            raise DataError(
                f"{where} has {size} bytes and not the {entry['bytes']} that the manifest says: bring it back, or make "
                "or index the shards anew; `dualprune verify` finds what else is damaged"
            )
    return manifest


def listed(url: str, manifest: Mapping[str, Any]) -> Iterator[tuple[Folder, dict[str, Any]]]:
    """Each file that the manifest of the folder `url` lists, by the folder that it lies in and its entry."""
    for split in SPLITS:
        entry = manifest["splits"][split]
        yield Folder(url), entry["index"]
        shards = shards_folder(url, manifest, split)
        for shard in entry["shards"]:
            yield shards, shard


def manifest_alone(url: str) -> dict[str, Any]:
    """The manifest of a folder of shards, whatever has become of its files. Raises DataError."""
    try:
        manifest: dict[str, Any] = Folder(url).read_json(MANIFEST)
        splits = manifest["splits"]
        for split in SPLITS:
            if split not in splits or not splits[split]["samples"]:
                raise DataError(f"{url} has no samples for the split {split}")
        for _, entry in listed(url, manifest):
            entry["file"], entry["sha256"]  # or KeyError
    except FileNotFoundError:
        raise DataError(f"{url} holds no {MANIFEST}, so no shards that dualprune wrote") from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        raise DataError(f"{url}/{MANIFEST} can't be read: {error!r}") from None
    return manifest


@lru_cache(maxsize=8)
def planned_manifest(url: str, planned: str) -> dict[str, Any]:
    """The manifest that a run was planned with (`planned`: its digest), read once per process: a warm worker keeps it.

    Raises DataError, also if there is another one now.
    """
    manifest = read_manifest(url)
    if digest(manifest) != planned:
        raise DataError(f"{url} holds other shards than when this run was planned; start the run again")
    return manifest


def shards_folder(url: str, manifest: Mapping[str, Any], split: str) -> Folder:
    """Where a split's shards lie: beside the manifest, or where they lay when they were indexed."""
    return Folder(manifest.get("at", {}).get(split, url))


def has_fields(manifest: Mapping[str, Any]) -> bool:
    """Whether samples have any fields, and not one picture and one label each."""
    return bool(manifest["splits"]["train"].get("format") == "fields")


def pictures(manifest: Mapping[str, Any], data: Data) -> dict[str, tuple[int, ...]]:
    """Shapes of the fields that are pictures, as a network sees them: channels, height, width."""
    split = manifest["splits"]["train"]
    if not has_fields(manifest):
        return {"image": (3, data.crop, data.crop) if split.get("format") == "jpeg" else tuple(split["shape"])}
    fields = split["fields"].items()
    found = {name: entry for name, entry in fields if entry["kind"] in ("jpg", "jpeg", "png")}
    return {name: tuple(entry.get("shape", (3, data.crop, data.crop))) for name, entry in found.items()}


def labels(manifest: Mapping[str, Any]) -> int | None:
    """How many classes there are, as far as the manifest says."""
    classes: list[str] | None = manifest.get("classes")
    return len(classes) if classes else manifest.get("labels")


def check_settings(url: str, manifest: dict[str, Any], data: Data) -> None:
    """Raise DataError for settings that do nothing to the samples of the folder `url`, or can't."""
    _check_channels(manifest, data)
    for name, why in _meaningless(manifest, data).items():
        if _given(data, name):
            raise DataError(f"data.{name} {why}")
    for name in ("scale", "ratio", "decode"):
        if data.shift and _given(data, name):
            what = (
                "is done on the CPU alone" if name == "decode" else "moves pictures, and does not cut parts out of them"
            )
            raise DataError(f"data.shift {what}: leave it or data.{name} out")
    split = manifest["splits"]["train"]
    if "format" in split and not (has_fields(manifest) and fits_memory(split)):
        _check_cache(url, manifest, data)


def fits_memory(split: Mapping[str, Any]) -> bool:
    """Whether all of a split with fields can be kept in memory (`KEPT`), by its fields' shapes."""
    fields = split["fields"].values()
    if not all("shape" in field for field in fields):
        return False
    values = (math.prod([field.get("longest", 1), *field["shape"]]) for field in fields)
    size = sum(count * np.dtype(field["dtype"]).itemsize for count, field in zip(values, fields, strict=True))
    return bool(split["samples"] * size <= KEPT)


def _check_channels(manifest: Mapping[str, Any], data: Data) -> None:
    """Raise DataError for a mean and a standard deviation of more channels than pictures have."""
    for shape in pictures(manifest, data).values():
        if len(data.mean) not in (1, shape[0]):
            have = f"data.mean and data.std have {len(data.mean)} values each"
            channels = f"{shape[0]} channel{'s' if shape[0] > 1 else ''}"
            raise DataError(f"{have}, and the pictures {channels}: one value for each")


def _meaningless(manifest: Mapping[str, Any], data: Data) -> dict[str, str]:
    """Settings that mean nothing for the samples of a manifest, and why."""
    split = manifest["splits"]["train"]
    one_shape = "is for pictures encoded, and those of these shards are of one shape"
    if not has_fields(manifest):
        return {} if split.get("format") == "jpeg" else dict.fromkeys(OF_ANY_SIZE, one_shape)
    reading = ("window", "bad", "workers", "cache")
    cutting = [name for name in OF_ANY_SIZE if name not in (*reading, "decode")]
    found = {"decode": "is for shards of one picture and one label each, and these have other fields"}
    if not pictures(manifest, data):
        return found | dict.fromkeys((*cutting, "mean", "std", "shift", "flip"), "is for pictures; there are none here")
    any_size = any("shape" not in entry for entry in split["fields"].values())
    return found if any_size else found | dict.fromkeys(cutting, one_shape)


def _given(data: Data, name: str) -> bool:
    return bool(getattr(data, name) != Data.model_fields[name].default)


def too_small(manifest: Mapping[str, Any], data: Data) -> str | None:
    """A word on training crops that are mostly made larger, where the default of `scale` is for larger pictures."""
    sides = manifest.get("short_sides")
    if sides is None or data.shift or _given(data, "scale") or sides[1] > data.crop:
        return None
    side, least = sides[1], math.sqrt(data.scale[0])
    return (
        f"training pictures are small (short sides of {sides[0]} to {sides[2]} pixels, half of them at most {side}): "
        f"crops by the default of data.scale are made {data.crop} large, some from {max(1, round(side * least))}; set "
        f"data.scale to [0.5, 1] or so, or data.shift with crop and resize {side}"
    )


def _check_cache(url: str, manifest: dict[str, Any], data: Data) -> None:
    """Raise DataError if shards would leave the cache before they are used again."""
    # Each epoch ends with val. By windows, all of train goes through the cache, and what it held before goes.
    splits = ("train",) if data.window else ("train", "val")
    remote = [split for split in splits if not shards_folder(url, manifest, split).local]
    shards = [shard for split in remote for shard in manifest["splits"][split]["shards"] if shard["samples"]]
    # Once each, as the cache holds them.
    used = sorted({shard["sha256"]: int(shard["bytes"]) for shard in shards}.values())
    # Two windows, because the next one's samples are fetched while the last one's are used; all without any.
    most = sum(used[-2 * data.window :])
    if most > data.cache:
        fitting = data.cache // (2 * used[-1])
        whose = "samples are mixed over shards" if data.window else "an epoch reads the shards of train and val,"
        raise DataError(
            f"{url}: {whose} of {most} bytes, and data.cache is {data.cache}: they would be fetched again and again; "
            + (f"set data.window to at most {fitting}, or " if fitting else "")
            + f"raise data.cache to {most}"
        )


def digest(manifest: dict[str, Any]) -> str:
    """What a stage's key knows of its data: the hash of the manifest, and so of every shard's hash."""
    return sha256(canonical(manifest["splits"]))

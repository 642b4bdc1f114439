"""Shards of samples with any fields: written with a manifest, and scanned.

A split's `format` is `fields`; its `fields` say what each is (`fields.Seen.entry`). The index of such a split has for
each sample its shard and, for each field by its name's order, offset and size of its member: int64 [samples, 1 + 2k].
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from dualprune.stages.data.fields import PICTURES, Member, Seen, measured, member, written
from dualprune.stages.data.format import MANIFEST, DataError
from dualprune.stages.data.make.index import write_index
from dualprune.stages.data.make.samples import check_end
from dualprune.stages.data.order import Indices
from dualprune.stages.data.shards import packed
from dualprune.stages.files.folder import Folder, sha256

Record = Mapping[str, Any]
"""A sample: its fields by name."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def write_records(
    url: str, name: str, splits: Mapping[str, Iterable[Record]], shard_bytes: int = 64 << 20
) -> dict[str, Any]:
    """Write samples as shards; all have the same fields, and each field values of one kind. Returns the manifest.

    The same samples give the same bytes. Raises DataError.
    """
    manifest = records_manifest(url, name, splits, shard_bytes)
    Folder(url).write_json(MANIFEST, manifest)
    return manifest


def records_manifest(
    url: str,
    name: str,
    splits: Mapping[str, Iterable[Record]],
    shard_bytes: int = 64 << 20,
    padded: Collection[str] = (),
) -> dict[str, Any]:
    """The same, with the manifest still to be written. Fields `padded` are that even if all are of one length."""
    folder, seen = Folder(url), dict[str, Seen]()
    manifest: dict[str, Any] = {"name": name, "splits": {}}
    most = -1
    for split, records in splits.items():
        encoder = _Encoder(f"{name}: {split}", seen, padded)
        files: list[dict[str, Any]] = []
        rows: list[Indices] = []
        for data in packed(encoder.members(records), shard_bytes):
            file = f"{split}-{len(files):06d}.tar"
            index, _ = scan_records(io.BytesIO(data), len(files), encoder.fields)
            rows.append(index)
            folder.write(file, data)
            files.append({"file": file, "sha256": sha256(data), "bytes": len(data), "samples": len(index)})
        if not files:
            raise DataError(f"{name}: the split {split} has no samples to write")
        most = max(most, encoder.most)
        manifest["splits"][split] = {
            "samples": sum(f["samples"] for f in files),
            "format": "fields",
            "shards": files,
            "index": write_index(folder, split, np.concatenate(rows)),
        }
    fields = {field: seen[field].entry(field) for field in sorted(seen)}
    for entry in manifest["splits"].values():
        entry["fields"] = fields
    if most >= 0:
        manifest["labels"] = 1 + most
    return manifest


class _Encoder:
    """Samples as shards have them; what their fields are is noted in `seen`."""

    def __init__(self, where: str, seen: dict[str, Seen], padded: Collection[str]) -> None:
        self.where, self.seen, self.padded = where, seen, padded
        self.fields: list[Member] = []
        """By name, once a sample was met."""
        self.most = -1
        """The largest label, where there are labels (`label`, a whole number)."""

    def members(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        """Each sample's key and members."""
        for number, record in enumerate(records):
            where = f"{self.where}: sample {number}"
            if not isinstance(record, Mapping) or not record:
                what = f"is {type(record).__name__}" if not isinstance(record, Mapping) else "is empty"
                raise DataError(f"{where} {what}: a sample is a mapping from names to values, as {{'label': 3}}")
            found = {name: self._member(where, name, value) for name, value in sorted(record.items())}
            suffixes = [suffix for suffix, _ in found.values()]
            if not self.fields:
                self.fields = [made for suffix in suffixes if (made := member(suffix)) is not None]
            known = [field.suffix for field in self.fields]
            if suffixes != known:
                raise DataError(f"{where} has {_listed(suffixes)}, and the first one has {_listed(known)}")
            yield {"__key__": f"{number:08d}", **dict(found.values())}

    def _member(self, where: str, name: Any, value: Any) -> tuple[str, bytes]:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise DataError(f"{where}: {name!r} can't name a field; use letters, digits, - and _, a letter first")
        try:
            suffix, data = written(name, value)
            kind = suffix.rpartition(".")[2]
            grey = kind in PICTURES and len(getattr(value, "shape", ())) == 2
            dtype, shape = measured(kind, data, grey or getattr(value, "mode", "") == "L")
        except (TypeError, ValueError, OSError) as error:
            raise DataError(f"{where}: {name} ({type(value).__name__}) can't be written: {error}") from None
        known = self.seen.setdefault(name, Seen(kind, name in self.padded))
        if known.kind != kind and {known.kind, kind} <= set(PICTURES):
            suffix, kind = f"{name}.{known.kind}", known.kind  # decoders look at the bytes
        if known.kind != kind:
            raise DataError(f"{where}: {name} is written as {kind}, and that of others as {known.kind}; use one type")
        known.add(dtype, shape)
        if name == "label" and kind == "cls":
            self.most = max(self.most, int(value))
        return suffix, data


def _listed(suffixes: Sequence[str]) -> str:
    return ", ".join(suffixes)


def scan_records(file: IO[bytes], number: int, fields: Sequence[Member]) -> tuple[Indices, dict[str, str]]:
    """The index rows of tar file `number` for these fields, and why which keys are no samples.

    Raises tarfile.TarError if it is damaged. Nothing is unpacked.
    """
    wanted = {field.suffix for field in fields}
    places: dict[str, dict[str, tuple[int, int]]] = {}
    bad: dict[str, str] = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for found in tar:
            named = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", found.name)
            key, suffix = (named[1], named[2]) if named else (found.name, "")
            own = places.setdefault(key, {})
            if suffix not in wanted:
                continue
            if found.name.startswith("/") or ".." in found.name.split("/"):
                bad[key] = "its path leads out of the folder"
            elif not found.isreg():
                bad[key] = f"{found.name} is no plain file"
            elif suffix in own:
                bad[key] = "it is there more than once"
            own[suffix] = (found.offset_data, found.size)
        check_end(file, tar.offset)
    for key, own in places.items():
        lacking = [field.suffix for field in fields if field.suffix not in own]
        if lacking and key not in bad:
            bad[key] = f"it has no {_listed(lacking)}"
    rows = [
        [number, *(value for field in fields for value in own[field.suffix])]
        for key, own in places.items()
        if key not in bad
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 1 + 2 * len(fields)), bad

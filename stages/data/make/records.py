"""Shards of samples with any fields: written with a manifest, or described where they lie.

A split's `format` is `fields`; its `fields` say what each is (`fields.Seen.entry`). The index of such a split has for
each sample its shard and, for each field by its name's order, offset and size of its member: int64 [samples, 1 + 2k].
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

import numpy as np

from dualprune.stages.data.fields import FIELDS, PICTURES, BadValue, Member, Seen, measured, member, written
from dualprune.stages.data.format import MANIFEST, DataError
from dualprune.stages.data.make.index import described, matching, write_index
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
            if suffix in wanted:
                why = "it is there more than once" if suffix in own else _wrong(found)
                bad |= {key: why} if why else {}
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


def _wrong(found: tarfile.TarInfo) -> str | None:
    """Why a member is not to be read."""
    if found.name.startswith("/") or ".." in found.name.split("/"):
        return "its path leads out of the folder"
    return None if found.isreg() else f"{found.name} is no plain file"


def index_records(
    url: str, name: str, shards: Mapping[str, str], suffixes: Sequence[str], held: int = 0, bad: float = 0.001
) -> dict[str, Any]:
    """Describe WebDataset shards that are there already, by pattern as `index.index` does; a sample has these members.

    A suffix is what follows a key: `jpg`, `tokens.npy`. All members are decoded once; samples with one that can't be
    are left out and counted, up to a share `bad`. Writes to `url`. Returns the manifest. Raises DataError.
    """
    if held and "val" in shards:
        raise DataError("samples are `held` out of train to become val, but val has shards: give one of the two")
    fields = _members(suffixes)
    look = partial(_looked, fields=fields)
    seen = {pattern: matching(pattern, None, look) for pattern in dict.fromkeys(shards.values())}
    manifest = described(url, name, shards, seen, held, bad, ", ".join(suffixes))
    common = {field.name: Seen(field.kind) for field in fields}
    for shard in (shard for every in seen.values() for shard in every):
        for field, one in shard.facts.items():
            common[field].merge(one)
    entries = {field: one.entry(field) for field, one in common.items()}
    for entry in manifest["splits"].values():
        entry |= {"format": "fields", "fields": entries}
    Folder(url).write_json(MANIFEST, manifest)
    return manifest


def _members(suffixes: Sequence[str]) -> list[Member]:
    """The fields that members with these ends hold, by their names. Raises DataError."""
    found = {suffix: member(suffix) for suffix in suffixes}
    strange = next((suffix for suffix, field in found.items() if field is None), None)
    if strange is not None:
        raise DataError(f"nothing here reads members {strange}; there are {', '.join(FIELDS)}, as in tokens.npy")
    fields = sorted(field for field in found.values() if field is not None)
    twice = next((field.name for n, field in enumerate(fields[1:]) if field.name == fields[n].name), None)
    if twice is not None:
        raise DataError(f"two of {', '.join(suffixes)} are called {twice}")
    return fields


def _looked(file: IO[bytes], number: int, fields: Sequence[Member]) -> tuple[Indices, dict[str, str], dict[str, Seen]]:
    """The index rows of a tar file whose members can be read, why which keys are bad, and what each field has."""
    rows, bad = scan_records(file, number, fields)
    seen = {field.name: Seen(field.kind) for field in fields}
    good = []
    for row in rows.tolist():
        try:
            values = []
            for field, offset, size in zip(fields, row[1::2], row[2::2], strict=True):
                file.seek(offset)
                values.append(measured(field.kind, file.read(size), check=True))
        except BadValue as error:
            file.seek(row[1] - 512)
            key = tarfile.TarInfo.frombuf(file.read(512), "utf-8", "replace").name.removesuffix(f".{fields[0].suffix}")
            bad[key] = f"{field.name}: {error}"
            continue
        good.append(row)
        for field, (dtype, shape) in zip(fields, values, strict=True):
            seen[field.name].add(dtype, shape)
    return np.array(good, dtype=np.int64).reshape(-1, rows.shape[1]), bad, seen

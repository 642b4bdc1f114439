"""What wandb has written into its files, read as its own uploader reads them: wandb has no other reader any more."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Mirrored:
    """One run's file."""

    path: Path
    run: Any = None
    """wandb's own description of it."""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    """By names with dots."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """How series were declared, by name."""
    artifacts: list[Any] = field(default_factory=list)
    code: int | None = None
    """With which it was finished."""

    def series(self, name: str) -> list[Any]:
        """All values of one."""
        return [row[name] for row in self.rows if name in row]

    def networks(self, used: bool) -> list[tuple[str, str]]:
        """Names and keys of those that it logged, or of those that it used."""
        found = [one for one in self.artifacts if one.type == "network" and one.use_after_commit == used]
        return [(one.name, next(alias for alias in one.aliases if alias != "latest")) for one in found]


def records(path: Path) -> Iterator[Any]:
    """The whole records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            return
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read(path: Path, finished: bool = True) -> Mirrored:
    """A file, once its run was `finished`: W&B's own process may write a moment after that."""
    limit = time.monotonic() + 20.0
    while finished and not any(r.HasField("exit") for r in records(path)) and time.monotonic() < limit:
        time.sleep(0.05)
    found = Mirrored(path)
    for record in records(path):
        _take(found, record)
    assert found.run is not None
    return found


def mirrored(folder: Path, finished: bool = True) -> dict[str, Mirrored]:
    """All files below a folder, by their runs' names."""
    paths = [path for path in folder.rglob("*.wandb") if not path.parent.is_symlink()]
    found = [read(path, finished) for path in paths]
    assert len({one.run.display_name for one in found}) == len(found)
    return {one.run.display_name: one for one in found}


def _take(found: Mirrored, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found.run = record.run
        found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    elif kind == "history":
        found.rows.append(_nested(record.history.item))
    elif kind == "summary":
        found.summary |= {_named(item): json.loads(item.value_json) for item in record.summary.update}
    elif kind == "metric":
        found.metrics[record.metric.name or record.metric.glob_name] = record.metric
    elif kind == "artifact":
        found.artifacts.append(record.artifact)
    elif kind == "exit":
        found.code = record.exit.exit_code


def _named(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _nested(items: Any) -> dict[str, Any]:
    """A row; of a histogram or table all parts."""
    row: dict[str, Any] = {}
    for item in items:
        names = [item.key] if item.key else list(item.nested_key)
        place = row
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = json.loads(item.value_json)
    return row

"""How fast a network is, as `dualprune speed` measured it last, beside its artefact: `<store>/<key>/speed.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dualprune.pipeline.store.store import Store

FILE = "speed.json"
PLACE = ("machine", "backend", "device", "batch", "threads")
"""What tells the places apart in which a network is timed."""
Row = Mapping[str, Any]


def leave(store: Store, key: str, rows: Sequence[Row]) -> None:
    """Leave what was measured; what was measured before in other places stays. Raises the store's errors."""
    places = {_place(row) for row in rows}
    before = [row for row in left(store, key) if _place(row) not in places]
    store.folder.write_json(f"{key}/{FILE}", {"rows": [*before, *rows]})


def left(store: Store, key: str) -> list[Row]:
    """What was left; nothing where there is none, or it makes no sense."""
    try:
        rows = store.folder.read_json(f"{key}/{FILE}")["rows"]
        return [row for row in rows if all(name in row for name in PLACE) and row["latency"]["middle"] > 0]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in PLACE)

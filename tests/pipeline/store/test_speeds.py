"""Measured speeds beside artefacts."""

from __future__ import annotations

from typing import Any

from dualprune.pipeline.store import speeds
from dualprune.pipeline.store.store import Store
from dualprune.stages.files.folder import Folder


def row(backend: str, seconds: float) -> dict[str, Any]:
    """One measurement."""
    latency = {"low": seconds, "middle": seconds, "high": seconds}
    return {"machine": "fast", "backend": backend, "device": "cpu", "batch": 1, "threads": 1, "latency": latency}


def test_the_last_measurement_of_each_place_stays(place: Folder) -> None:
    store, key = Store(place.url), "a" * 16
    assert speeds.left(store, key) == []
    speeds.leave(store, key, [row("torch", 1.0), row("onnx", 2.0)])
    speeds.leave(store, key, [row("torch", 0.5)])
    assert speeds.left(store, key) == [row("onnx", 2.0), row("torch", 0.5)]


def test_what_makes_no_sense_is_nothing(place: Folder) -> None:
    store = Store(place.url)
    for number, text in enumerate((b"{", b"[]", b'{"rows": [{}]}', b'{"rows": 3}')):
        place.write(f"{number}/{speeds.FILE}", text)
        assert speeds.left(store, str(number)) == []

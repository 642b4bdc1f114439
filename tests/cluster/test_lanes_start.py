"""What lanes do before the first of them opens: the work is imported while Ray starts."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dualprune.cluster import importing, lanes
from dualprune.cluster.capacity import Shape
from dualprune.cluster.errors import ClusterError
from dualprune.cluster.lanes import Lanes


def opened(monkeypatch: pytest.MonkeyPatch, failures: int) -> tuple[list[str], Lanes]:
    """Lanes whose work can't be imported so often, in place of Ray nothing; and the threads that tried to."""
    tries: list[str] = []

    def work() -> Any:
        tries.append(threading.current_thread().name)
        if len(tries) <= failures:
            raise ImportError("half there")
        return len

    ray = SimpleNamespace(shutdown=lambda: tries.append("shut down"))
    for name, value in {"start": lambda *_: ray, "settings": lambda **_: {}, "refusal": lambda *_: None}.items():
        monkeypatch.setattr(lanes, name, value)
    monkeypatch.setattr(lanes, "raylet", lambda *_: None)
    monkeypatch.setattr(lanes, "near", lambda *_: None)
    monkeypatch.setattr(lanes, "head", lambda *_: "")
    monkeypatch.setattr(importing, "imported", lambda work: work())
    return tries, Lanes(work, Shape(1, 1, 1, 0))


@pytest.mark.parametrize(("failures", "threads"), [(0, ["import"]), (1, ["import", "MainThread"])])
def test_what_fails_beside_rays_start_is_imported_after_it(
    monkeypatch: pytest.MonkeyPatch, failures: int, threads: list[str]
) -> None:
    """Ray imports on its own at that time, and may have a package half there."""
    tries, made = opened(monkeypatch, failures)
    assert tries == threads
    assert made._work is len


def test_work_that_can_not_be_imported_is_told_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And Ray is let go of."""
    with pytest.raises(ClusterError, match=r"can't be imported: ImportError\('half there'\)"):
        opened(monkeypatch, 2)


def test_a_ray_train_that_lacks_what_is_used_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked through where it is imported, and no lane opens; Ray is let go of."""
    imported = importing.imported
    tries, _ = opened(monkeypatch, 0)
    monkeypatch.setattr(importing, "imported", imported)
    monkeypatch.setattr(importing, "TRAIN", (("ray.train.torch", "TorchTrainer.no_more"),))
    text = r"^Ray \S+ lacks ray\.train\.torch\.TorchTrainer\.no_more, which dualprune uses: install "
    with pytest.raises(ClusterError, match=text):
        Lanes(lambda: pytest.fail("its work was asked for"), Shape(1, 1, 1, 0))
    assert tries == ["import", "shut down"]

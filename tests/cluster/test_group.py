"""How a worker group ended, as Ray Train tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dualprune.cluster.group import out_of_memory, teller
from dualprune.cluster.private import no_room

SAID = "1 worker(s) were killed due to the node running low on memory."


def failed(kind: str, *arguments: Any) -> Exception:
    """A rank that did not answer for that reason, as one of Ray's exceptions."""
    import ray
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return WorkerHealthCheckFailedError("A worker health check failed.", getattr(ray.exceptions, kind)(*arguments))


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("OutOfMemoryError", (f"{SAID}\nTop 10 memory users: ...",), SAID),
        ("ActorDiedError", (), None),
        ("ActorUnavailableError", ("out of memory, somebody says", None), None),
        ("NodeDiedError", ("its machine is gone",), None),
    ],
)
def test_what_ray_killed_for_memory(kind: str, arguments: tuple[Any, ...], said: str | None) -> None:
    """Is known by the exception's kind; its first line says enough."""
    assert out_of_memory(failed(kind, *arguments)) == said


def test_an_error_of_the_work_is_none_of_rays() -> None:
    """It comes as it was raised."""
    assert out_of_memory(MemoryError("1 GiB")) is None
    assert not no_room(MemoryError("1 GiB"))


def test_the_mailbox_hears_of_it_once_a_rank() -> None:
    """From the callback that Ray Train calls."""
    told: list[Any] = []
    call = SimpleNamespace(remote=lambda event, sender, number: told.append((event, number)))
    mailbox = SimpleNamespace(tell=SimpleNamespace(options=lambda max_task_retries: call))
    errors = {0: failed("ActorDiedError"), 1: failed("OutOfMemoryError", SAID)}
    teller(mailbox, "lane-0").after_exception(None, errors)
    assert told == [(("memory", "lane-0", "", "", SAID), 1)]

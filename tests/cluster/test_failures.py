"""Failures: what an exception is, and what is done about it."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from dualprune.cluster.failures import Decision, Failure, Policy, decide, failure

LOST = Failure("lost", "", "a worker process or its machine died")
PREEMPTED = Failure("preempted", "", "a machine under it is to be taken away")
ERROR = Failure("error", "ValueError Exception", "no such tensor")
PASSING = Failure("error", "ConnectionResetError ConnectionError OSError Exception", "reset")


GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561]"
CLOSED = "socketProgress: Connection closed by remote peer 10.0.0.1<1>"
FULL = "Error while creating shared memory segment /dev/shm/nccl-1, error: No space left on device (28)"
TORCHS = "DistError RuntimeError Exception"


class StorageTimeout(TimeoutError):
    """A library's own exception of a transient kind."""


@pytest.mark.parametrize(
    ("error", "kind", "names"),
    [
        (ValueError("x"), "error", "ValueError Exception"),
        (KeyError("x"), "error", "KeyError LookupError Exception"),
        (ConnectionResetError("reset"), "error", "ConnectionResetError ConnectionError OSError Exception"),
        (StorageTimeout(), "error", "StorageTimeout TimeoutError OSError Exception"),
        (RuntimeError("CUDA out of memory"), "error", "RuntimeError Exception"),
        (RuntimeError(f"{GLOO} Connection closed by peer [10.0.0.1]:1"), "lost", "RuntimeError Exception"),
        (RuntimeError(f"{GLOO} Read error [10.0.0.1]:1: Connection reset by peer"), "lost", "RuntimeError Exception"),
        (dist.DistNetworkError("Failed to recv, got 0 bytes."), "lost", f"DistNetworkError {TORCHS}"),
        (dist.DistStoreError("wait timeout after 1000ms, keys: /x"), "lost", f"DistStoreError {TORCHS}"),
        (dist.DistBackendError(f"NCCL error: ncclRemoteError: {CLOSED}"), "lost", f"DistBackendError {TORCHS}"),
        (dist.DistBackendError(f"NCCL error: ncclSystemError: {FULL}"), "error", f"DistBackendError {TORCHS}"),
        (RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:10] 8 vs 4"), "error", "RuntimeError Exception"),
        (RuntimeError("Timed out"), "error", "RuntimeError Exception"),
        (RuntimeError("Timed out waiting 1800000ms for my own server"), "error", "RuntimeError Exception"),
        (RuntimeError("Connection reset by peer"), "error", "RuntimeError Exception"),
        (RuntimeError("write: Broken pipe"), "error", "RuntimeError Exception"),
        (RuntimeError("Socket closed"), "error", "RuntimeError Exception"),
        (ValueError(f"{GLOO} Connection closed by peer"), "error", "ValueError Exception"),
    ],
)
def test_an_exception_becomes_plain_text(error: Exception, kind: str, names: str) -> None:
    """Only what torch, gloo and NCCL say of a peer that is gone is a loss; class names are kept, bases too."""
    assert failure(error, "trace", 3) == Failure(kind, names, str(error), "trace", 3)  # type: ignore[arg-type]


RANK = """
import os, signal, sys, time, traceback
from datetime import timedelta
import torch, torch.distributed as dist
from dualprune.cluster.failures import failure
rank, end, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=2), rank=rank, world_size=2)
tensor = torch.ones(9)
dist.all_reduce(tensor)
if rank == 1:
    os.kill(os.getpid(), getattr(signal, end))
try:
    while True:
        dist.all_reduce(tensor)
except Exception as error:
    print(failure(error, traceback.format_exc()).kind, flush=True)
os._exit(0)
"""
"""One of two ranks, of which the second is killed or hangs."""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP"])
def test_a_rank_that_is_gone_is_a_loss(tmp_path: Path, end: str) -> None:
    """As gloo tells it to the other one, here and now."""
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), end, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        assert ranks[0].communicate(timeout=120)[0] == "lost\n"
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.mark.parametrize(
    ("failures", "retry", "reason"),
    [
        ([LOST], True, "its workers were lost; retry 1 of 2"),
        ([LOST] * 2, True, "its workers were lost; retry 2 of 2"),
        ([LOST] * 3, False, "its workers were lost, 3 times; the policy allows 2 retries"),
        ([PREEMPTED] * 9, True, "a machine under it was taken away; retry 9"),
        ([LOST, PREEMPTED, PREEMPTED, LOST], True, "its workers were lost; retry 2 of 2"),
        ([LOST, LOST, PREEMPTED], True, "a machine under it was taken away; retry 1"),
        ([PASSING], True, "ConnectionResetError: reset; retry 1 of 1"),
        ([PASSING] * 2, False, "ConnectionResetError: reset, 2 times; the policy allows 1 retries"),
        ([ERROR], False, "ValueError: no such tensor"),
        ([LOST, ERROR], False, "ValueError: no such tensor"),
        ([PASSING, LOST], True, "its workers were lost; retry 1 of 2"),
        ([LOST, PASSING, LOST], True, "its workers were lost; retry 2 of 2"),
        ([LOST, LOST, PASSING], True, "ConnectionResetError: reset; retry 1 of 1"),
        ([PASSING, LOST, PASSING], False, "ConnectionResetError: reset, 2 times; the policy allows 1 retries"),
    ],
)
def test_decisions(failures: list[Failure], retry: bool, reason: str) -> None:
    """Losses and transient errors are counted apart; an error of the task's own ends it at once."""
    assert decide(failures, Policy(lost=2, passing=1)) == Decision(retry, reason)


def test_preemption_may_be_limited() -> None:
    """By a number of its own."""
    policy = Policy(lost=0, preempted=1)
    assert decide([PREEMPTED], policy) == Decision(True, "a machine under it was taken away; retry 1 of 1")
    assert not decide([PREEMPTED] * 2, policy).retry


def test_nothing_is_retried_without_leave() -> None:
    """A policy of zeros gives up at the first failure."""
    assert not any(decide([one], Policy(lost=0, passing=0)).retry for one in (LOST, PASSING, ERROR))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError(),
        TimeoutError(),
        InterruptedError(),
        StorageTimeout(),
        BlockingIOError(),
        OSError(errno.EBUSY, "Please reduce your request rate."),
        OSError(errno.ESTALE, "Stale file handle", "/mnt/store/x"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ],
)
def test_errors_of_the_world_pass(error: Exception) -> None:
    """By the class's name or a base's, as it crosses processes."""
    assert decide([failure(error, "")], Policy()).retry


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        OSError(),
        FileNotFoundError(),
        MemoryError(),
        AssertionError(),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EIO, "Input/output error"),
        ValueError(f"[Errno {errno.EBUSY}] is what somebody wrote"),
    ],
)
def test_errors_of_its_own_stay(error: Exception) -> None:
    """They would come again."""
    assert not decide([failure(error, "")], Policy()).retry


def test_notes_on_an_error_are_told() -> None:
    """Such as the line that it comes from: it is added on the machine where that is known."""
    error = KeyError("x")
    error.__notes__ = ["at mine.py:3: x['x']", "in layer 2"]  # type: ignore[attr-defined]
    decision = decide([failure(error, "Traceback ...")], Policy())
    assert not decision.retry
    assert decision.reason == "KeyError: 'x', at mine.py:3: x['x'], in layer 2"

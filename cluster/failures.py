"""What to do about a failed task: a decision as a value, made from values. Pure.

A task is *lost* when machines or processes under it die; that says nothing against the task, so it
is tried again. It is *preempted* when a machine under it is taken away by who lent it; that says
nothing against the machine either, and is counted apart. An *error* is the task's own exception: it
would come again, so it is not, unless it is one of the outside world's (a storage service that does
not answer).
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lost", "preempted", "error"]

_GLOO = re.compile(r"\[\S*gloo/transport/\S+:\d+\] ")
"""Where in gloo's connections an error arose, which it says in each message, of the plain RuntimeError that it raises.
Ranks that call it with different sizes get `[enforce fail at ...` instead: that would come again."""
_STORE = ("DistNetworkError", "DistStoreError")
"""What torch.distributed raises when the ranks' common store is gone or a rank does not come to it in time."""
_NCCL = ("ncclRemoteError", "communicator was aborted", "Watchdog caught collective operation timeout")
"""In a DistBackendError; NCCL's other ones are as good as always of the machine itself, such as a full /dev/shm."""
_PASSING = ("ConnectionError", "TimeoutError", "InterruptedError", "BlockingIOError")
_PASSING_NUMBERS = (errno.EBUSY, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ESTALE)
"""Of an OSError that has no class of its own. A full disk, a read-only one and one that fails don't mend themselves."""


@dataclass(frozen=True)
class Failure:
    """One failed attempt, as plain text, so that it can cross processes."""

    kind: Kind
    error: str
    """Class name of the exception, and of its bases, most specific first, separated by spaces."""
    message: str
    trace: str = ""
    rank: int | None = None
    notes: tuple[str, ...] = ()
    """What was added to the exception on its way, such as where it comes from."""


@dataclass(frozen=True)
class Policy:
    """How often a task may be tried again."""

    lost: int = 3
    """After worker processes or machines died."""
    preempted: int | None = None
    """After machines were taken away; None: however often."""
    passing: int = 3
    """After transient errors of the outside world."""
    nonfinite: int = 0
    """After numbers that overflowed: on the same machine, from the same checkpoint, they mostly do so again."""


@dataclass(frozen=True)
class Decision:
    """Whether to try again, and a sentence that says why."""

    retry: bool
    reason: str


def failure(error: BaseException, trace: str, rank: int | None = None) -> Failure:
    """Describe an exception. One that only says that a peer is gone is a loss, not an error."""
    names = " ".join(cls.__name__ for cls in type(error).__mro__[:-2])
    notes = tuple(getattr(error, "__notes__", ()))
    return Failure("lost" if _peer_gone(error) else "error", names, str(error), trace, rank, notes)


def _peer_gone(error: BaseException) -> bool:
    """Whether torch, gloo or NCCL says that another rank is gone. What others raise says nothing of the kind."""
    name, text = type(error).__name__, str(error)
    if type(error) is RuntimeError:
        return _GLOO.search(text) is not None
    if type(error).__module__ != "torch.distributed":
        return False
    return name in _STORE or (name == "DistBackendError" and any(sign in text for sign in _NCCL))


def decide(failures: list[Failure], policy: Policy) -> Decision:
    """What to do after the last of `failures`, all of one task, oldest first."""
    # A branch for each kind of failure: apart, they would say less than as the one list of rules that they are.
    last = failures[-1]
    most: int | None
    if last.kind == "lost":
        count, most, what = sum(f.kind == "lost" for f in failures), policy.lost, "its workers were lost"
    elif last.kind == "preempted":
        count, most = sum(f.kind == "preempted" for f in failures), policy.preempted
        what = "a machine under it was taken away"
    elif _passing(last):
        count, most = sum(_passing(f) for f in failures), policy.passing
        what = f"{last.error.split()[0]}: {last.message}"
    elif _nonfinite(last):
        count, most = sum(_nonfinite(f) for f in failures), policy.nonfinite
        what = last.message
    else:
        return Decision(False, ", ".join([f"{last.error.split()[0]}: {last.message}", *last.notes]))
    if most is None:
        return Decision(True, f"{what}; retry {count}")
    if count > most:
        return Decision(False, f"{what}, {count} times; the policy allows {most} retries" if most else what)
    return Decision(True, f"{what}; retry {count} of {most}")


def _passing(failure: Failure) -> bool:
    names = failure.error.split()
    numbered = "OSError" in names and failure.message.startswith(tuple(f"[Errno {n}]" for n in _PASSING_NUMBERS))
    return failure.kind == "error" and (numbered or any(name in names for name in _PASSING))


def _nonfinite(failure: Failure) -> bool:
    return failure.kind == "error" and "ArithmeticError" in failure.error.split()

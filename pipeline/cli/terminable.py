"""How a command is told to save and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dualprune.cluster.spared import WARNINGS


@contextmanager
def terminable(terminated: threading.Event) -> Iterator[None]:
    """SIGTERM and WARNINGS raise as an interrupt does, so that what is at work is saved, and set `terminated`: Ray may
    raise an interrupt of its own in its place. A second one of them adds nothing.

    A warning that is ignored stays so: under `nohup` a run outlives its terminal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first, interrupted = signal.getsignal(signal.SIGINT), threading.Event()
    asked = [signal.SIGTERM, *(number for number in WARNINGS if signal.getsignal(number) != signal.SIG_IGN)]

    def terminate(*_: object) -> None:
        for number in asked:
            signal.signal(number, _nothing)  # unlike SIG_IGN, not handed on to processes that are started now
        terminated.set()
        raise KeyboardInterrupt

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, terminate)) for number in asked]
    if first is signal.default_int_handler:
        before.append((signal.SIGINT, signal.signal(signal.SIGINT, interrupt)))
    try:
        yield
    except Exception as error:
        # An interrupt in the middle of an import of C code becomes an error of that import.
        if terminated.is_set() or interrupted.is_set():
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _nothing(*_: object) -> None:
    """What a further signal does."""

"""Finished networks and the dense ones they came from, timed side by side."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from dualprune.stages.export.backends import BACKENDS, Bind, Bound, Unavailable, check
from dualprune.stages.export.inputs import Inputs, batched
from dualprune.stages.export.reasons import Facts, reasons, shape
from dualprune.stages.export.timing import Effort, Spread, interleaved, quartiles, times_as_fast

GAIN = 1.05
"""Times as fast as the dense network, from which on it is a gain."""
SHORT = 0.8
"""Share of the MACs' ratio, below which a gain is less than it could be."""
AT_ONCE = 8
"""Networks that torch keeps compiled, of one class; further ones would run as they are, without a word."""
Verdict = Literal["dense", "gain", "no gain", "slower"]


@contextmanager
def used(threads: int) -> Iterator[None]:
    """So many of torch's threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Subject:
    """A network that is timed, on the CPU and in evaluation mode."""

    name: str
    network: nn.Module
    """Takes tensors in their order."""
    inputs: Inputs
    facts: Facts
    dense: str | None
    """The name of the one that it came from; None of a dense one."""


@dataclass(frozen=True)
class Place:
    """Where and how networks are timed."""

    device: str
    backend: str
    """A name from BACKENDS."""
    batch: int
    threads: int


@dataclass(frozen=True)
class Speed:
    """What came of one network in one place. Without `latency`, `why` says why it was not timed."""

    name: str
    place: Place
    latency: Spread | None = None
    """Seconds of one call: median and quartiles over rounds."""
    ratio: Spread | None = None
    """How many times as fast as the dense network: the median, and where it lies with 99 % certainty."""
    of_macs: float | None = None
    """That median over how many times fewer MACs it has than the dense network."""
    rounds: int = 0
    verdict: Verdict | None = None
    why: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    """The layers that are computed as sparse ones."""
    waited: float | None = None
    """Share of the time for which there was no processor for it: others had it. None of several threads."""

    @property
    def title(self) -> str:
        """The backend's name, for people."""
        return BACKENDS[self.place.backend].title

    @property
    def throughput(self) -> float | None:
        """Samples a second."""
        return None if self.latency is None else self.place.batch / self.latency.middle


def speeds(
    subjects: Sequence[Subject],
    backends: Sequence[str],
    batches: Sequence[int],
    devices: Sequence[str],
    threads: int,
    effort: Effort,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Speed]:
    """All networks in all places, those of one place side by side. `note` is told what is done, where it lasts."""
    for device in devices:
        for backend in backends:
            if device in BACKENDS[backend].devices:
                yield from _on(subjects, backend, batches, device, threads, effort, note)


def _on(
    subjects: Sequence[Subject],
    backend: str,
    batches: Sequence[int],
    device: str,
    threads: int,
    effort: Effort,
    note: Callable[[str], None],
) -> Iterator[Speed]:
    prepared: dict[str, Bind | str] = {}
    for batch in batches:
        place = Place(device, backend, batch, threads)
        with used(threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of what it compiles and of sparse tensors
            bound, failed = _ready(subjects, place, prepared, note)
            times, waited = _timed(bound, place, effort)
        for one in subjects:
            if one.name in failed:
                yield Speed(one.name, place, why=(failed[one.name],))
            elif one.name in bound:
                yield replace(_speed(one, place, bound[one.name], times, subjects), waited=waited)


def _ready(
    subjects: Sequence[Subject], place: Place, prepared: dict[str, Bind | str], note: Callable[[str], None]
) -> tuple[dict[str, Bound], dict[str, str]]:
    """Networks ready to be timed, and why others can't be, by name."""
    bound: dict[str, Bound] = {}
    failed: dict[str, str] = {}
    torch.compiler.reset()
    for one in subjects:
        note(f"{one.name} is made ready: {BACKENDS[place.backend].title}, batch {place.batch}, {place.device}")
        try:
            bound[one.name] = _bound(one, place, prepared, len(subjects))
        except Unavailable as error:
            failed[one.name] = str(error)
    if BACKENDS[place.backend].unfit and all(one.dense is None for one in subjects if one.name in bound):
        bound.clear()  # the dense ones alone, which are as in torch's own rows
    return bound, failed


def _timed(bound: Mapping[str, Bound], place: Place, effort: Effort) -> tuple[dict[str, list[float]], float | None]:
    """Seconds by name and round, and the share of the time for which there was no processor."""
    began, before = time.perf_counter(), time.process_time()
    times = interleaved({name: one.call for name, one in bound.items()}, effort)
    lasted, worked = time.perf_counter() - began, time.process_time() - before
    alone = place.threads == 1 and place.device == "cpu"
    return times, max(0.0, 1 - worked / lasted) if alone else None


def _bound(one: Subject, place: Place, prepared: dict[str, Bind | str], networks: int) -> Bound:
    """A network ready to be timed. What does not depend on the batch is made once. Raises Unavailable."""
    backend, inputs = BACKENDS[place.backend], batched(one.inputs, place.batch)
    if (missing := backend.missing()) is not None:
        raise Unavailable(missing)
    if place.backend == "compile" and networks > AT_ONCE:
        raise Unavailable(f"torch keeps {AT_ONCE} networks compiled at once, and these are {networks}")
    if one.name not in prepared:
        try:
            prepared[one.name] = backend.prepare(one.network, one.inputs, torch.device(place.device), place.threads)
        except Unavailable as error:
            prepared[one.name] = str(error)  # once for all batches
    bind = prepared[one.name]
    if isinstance(bind, str):
        raise Unavailable(bind)
    found = bind(inputs)
    if found.sparse == () and one.dense is not None:
        raise Unavailable(backend.unfit)
    check(one.network, inputs, found, backend.tolerance)
    return found


def _speed(
    one: Subject, place: Place, bound: Bound, times: Mapping[str, Sequence[float]], subjects: Sequence[Subject]
) -> Speed:
    own, sparse = times[one.name], bound.sparse or ()
    latency = quartiles(own)
    if one.dense is None:
        return Speed(one.name, place, latency, Spread(1.0, 1.0, 1.0), 1.0, len(own), "dense")
    if one.dense not in times:
        return Speed(one.name, place, latency, rounds=len(own), sparse=sparse)
    (dense,) = (other for other in subjects if other.name == one.dense)
    ratio = times_as_fast(times[one.dense], own)
    verdict = judged(ratio)
    macs = dense.facts.cost.macs / max(1, one.facts.cost.macs)
    why: list[str] = []
    if verdict != "gain" and sparse:
        named = f"{', '.join(sparse[:3])}{', ...' if len(sparse) > 3 else ''}"
        text = f"layers that are sparse there ({len(sparse)}: {named}) make no certain difference"
        why = [f"{text} to the whole"]
    elif verdict == "gain" and ratio.middle < SHORT * macs:
        why = shape(dense.facts, one.facts, place.batch, torch.device(place.device))
    elif verdict != "gain":
        why = reasons(dense.facts, one.facts, place.batch, torch.device(place.device))
    return Speed(one.name, place, latency, ratio, ratio.middle / macs, len(own), verdict, tuple(why), sparse)


def judged(ratio: Spread) -> Verdict:
    """What a ratio to the dense network comes to: a gain is certain, and worth a word."""
    if ratio.low > 1 and ratio.middle >= GAIN:
        return "gain"
    return "slower" if ratio.high < 1 and ratio.middle <= 1 / GAIN else "no gain"

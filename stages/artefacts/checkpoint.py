"""Checkpoints within a stage: named whole tensors and where the stage stands, free of the world size.

Each rank writes every world-th tensor, in the background, and what is its own: its share of the epoch's
loss, and its batch statistics, which differ between ranks within an epoch. The same number of ranks
goes on from its own; another number, from sums and averages. A part counts when its JSON is there and
the hash in it is right (stages.artefacts.parts); a checkpoint counts when all of its parts do. The newest two are
kept, so that there is always a whole one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dualprune.stages.artefacts import parts
from dualprune.stages.artefacts.packed import Pieces, header, place, unpacked
from dualprune.stages.engine import zero
from dualprune.stages.engine.engine import Engine
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import State

KEPT = 2
BESIDE = 48 << 20
"""Bytes that may wait to be written, beside as many as the network has: 64 MB with what making a tensor takes."""
FORMAT = 3
"""Of a checkpoint; those from before formats had numbers are of format 1. Up to format 2 all of ADMM's state was in
fp32, and masks, which were called `hold`, had the numbers of clusters while values were tied."""


@dataclass
class Progress:
    """Where a stage stands. All of it is in a checkpoint; nothing else but tensors is."""

    phase: int = 0
    """Index into the stage's phases (stages.kinds)."""
    epoch: int = 0
    """Epochs of the phase that are over."""
    step: int = 0
    """Steps of the epoch that are over."""
    steps: int = 0
    """Optimizer steps since the stage began."""
    seconds: float = 0.0
    """Time since the stage began, over all attempts, without what was lost."""
    loss: float | Tensor = 0.0
    """Sum of the epoch's losses so far, of this rank's samples; while it trains, fp64 [] on the device."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """One row an epoch."""
    speeds: list[dict[str, float]] = field(default_factory=list)
    """How fast each of these was, by its `epoch`; it is not so twice."""
    state: Any = field(default_factory=State)
    """What the stage's kind remembers: a stages.kinds.base.State."""


class OtherVersion(RuntimeError):
    """A checkpoint that another version of dualprune has written, and that this one can't go on from."""


class Checkpoints:
    """The checkpoints of one stage, as one rank sees them."""

    def __init__(self, artefact: Folder, rank: int, world: int) -> None:
        self.folder = artefact / "checkpoints"
        self.rank, self.world = rank, world
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, engine: Engine, progress: Progress) -> None:
        """Gather the state (on all ranks together), and write this rank's part of it in the background.

        Returns when no more of it waits to be written than the network is large, and BESIDE.
        """
        self.finish()  # each rank's last part is written, so what is older may go
        entries = sorted(_entries(engine), key=lambda one: place(one.name, one.kind))
        mine = {one.name for number, one in enumerate(entries) if one.own or number % self.world == self.rank}
        top, length = header((one.name, one.shape, one.kind) for one in entries if one.name in mine)
        pieces = Pieces(length, BESIDE + sum(4 * engine.shape(name).numel() for name in engine.parameters))
        facts = {"format": FORMAT, **asdict(progress), "inner_steps": engine.inner_steps()}
        facts["loss"] = float(progress.loss)
        self._writer = threading.Thread(target=self._write, args=(pieces, facts), name="checkpoint")
        self._writer.start()
        try:
            pieces.put(torch.frombuffer(bytearray(top), dtype=torch.uint8))
            for one in entries:
                value = one.value()
                if one.name in mine:
                    pieces.put(value)
        finally:
            pieces.end()

    def wait(self) -> None:
        """Return when the last checkpoint is written. Raises what its writing raised."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def finish(self) -> None:
        """Return when all ranks' last checkpoint is written."""
        self.wait()
        if self.world > 1:
            dist.barrier()

    def abandon(self) -> None:
        """After a failure elsewhere: let the writing end, so that nothing writes behind the next attempt's back."""
        if self._writer is not None:
            self._writer.join()

    def newest(self) -> str | None:
        """Name of the newest checkpoint that is whole, as `step-N/M` with its number of parts M, or None."""
        for step in reversed(parts.steps(self.folder)):
            for world in parts.worlds(self.folder.names(step)):
                if all(parts.whole(self.folder, parts.stem(step, part, world)) for part in range(world)):
                    return f"{step}/{world}"
        return None

    def load(self, checkpoint: str, engine: Engine, state: type[State] = State) -> Progress:
        """Put the engine where `checkpoint` (as `newest` gave it) says, on all ranks together. Raises OtherVersion.

        `state` is the class of what the stage's kind remembers.
        """
        step, count = checkpoint.split("/")
        stems = [parts.stem(step, number, int(count)) for number in range(int(count))]
        found = [self._facts(stem) for stem in stems]
        facts = self._known(step, dict(found[0]), state)
        if len(found) == self.world:
            facts["loss"] = found[self.rank]["loss"]
            buffers = self._buffers(stems[self.rank])
        else:
            facts["loss"] = sum(each["loss"] for each in found) if self.rank == 0 else 0.0
            buffers = _averaged([self._buffers(stem) for stem in stems])
        for name, value in buffers.items():
            engine.put(name, value)
        tied = bool(facts["state"].get("tied"))
        numbered = tied and found[0].get("format", 1) < FORMAT
        missing = {one.name for one in _entries(engine) if not one.own}
        # U is told by the target, which is to be there before it.
        for late in (False, True):
            for stem in stems:
                wanted = partial(_wanted, engine, late, numbered)
                for name, value in unpacked(self.folder, f"{stem}.safetensors", wanted):
                    missing -= _put(engine, name, value, tied)
        if missing:
            raise KeyError(min(missing))
        engine.set_inner_steps(facts.pop("inner_steps"))
        return Progress(**{**facts, "state": state(**facts["state"])})

    def _facts(self, stem: str) -> dict[str, Any]:
        try:
            return parts.facts(self.folder, stem)
        except (FileNotFoundError, ValueError, KeyError) as error:
            step, _, part = stem.partition("/")
            gone = f"{self.folder.url}/{step}: {part.replace('-', ' ')} was whole and is not now"
            raise FileNotFoundError(gone) from error

    def _buffers(self, stem: str) -> dict[str, Tensor]:
        return _under("buffer/", dict(unpacked(self.folder, f"{stem}.safetensors", lambda n: n.startswith("buffer/"))))

    def _known(self, step: str, facts: dict[str, Any], state: type[State]) -> dict[str, Any]:
        """What a checkpoint says of where the stage stands, in today's format. Raises OtherVersion."""
        number = facts.pop("format", 1)
        facts = _from_first(facts) if number == 1 else facts
        unknown = facts.keys() - {one.name for one in fields(Progress)} - {"inner_steps"}
        if not unknown:
            unknown = facts.get("state", {}).keys() - {one.name for one in fields(state)}
        if number > FORMAT or unknown:
            what = f"with {', '.join(sorted(unknown))}" if unknown else f"format {number}, and this one reads {FORMAT}"
            ways = f"go on with that one, or delete {self.folder.url} to begin the stage anew"
            raise OtherVersion(f"{self.folder.url}/{step} was written by another version of dualprune ({what}): {ways}")
        return facts

    def _write(self, pieces: Pieces, facts: dict[str, Any]) -> None:
        try:
            step = f"step-{facts['steps']:08d}"
            parts.write(self.folder, parts.stem(step, self.rank, self.world), pieces, facts)
            if self.rank == 0:
                for old in [s for s in parts.steps(self.folder) if s < step][: -(KEPT - 1)]:
                    self.folder.remove(old)
        except BaseException as error:  # noqa: BLE001 - raised again by wait(), in the training thread
            self._error = error
        finally:
            pieces.drop()


def _from_first(facts: dict[str, Any]) -> dict[str, Any]:
    """From the first format, in which what kinds remember was not apart."""
    own = {"rho": "rho", "residual": "residual", "values": "values", "sharing": "tied", "budget": "budget"}
    state = {new: facts.pop(old) for old, new in own.items() if old in facts}
    facts["phase"] = facts.pop("stretch", 0)
    return facts | {"state": {name: value for name, value in state.items() if value}}


def _wanted(engine: Engine, late: bool, numbered: bool, name: str) -> bool:
    """Whether a tensor of a file is put in place now; `numbered`: its holds have the numbers that targets have now."""
    key, _, tensor = name.partition("/")
    if key == "buffer" or late != (key == "dual"):
        return False
    if key in ("marks", "hold"):
        return tensor in engine.masked
    if key in ("target", "dual"):
        return tensor in engine.penalised and not (numbered and key == "target")
    return True


def _put(engine: Engine, name: str, value: Tensor, tied: bool) -> set[str]:
    """Put a tensor of a file in its place, on all ranks together; which of today's names it makes up for."""
    key, _, tensor = name.partition("/")
    if key == "network":
        engine.put(tensor, value)
    elif key == "hold":
        engine.set(tensor, value, "mask")
        if tied:
            engine.set(tensor, value, "target")
        return {f"marks/{tensor}", *([f"target/{tensor}"] if tied else [])}
    else:
        engine.set(tensor, value, key)
    return {name}


class Entry(NamedTuple):
    """A tensor that is saved."""

    name: str
    shape: torch.Size
    kind: torch.dtype
    value: Callable[[], Tensor]
    """Makes all of it, on all ranks together, to be copied at once."""
    own: bool = False
    """Whether each rank has one of its own."""


def _entries(engine: Engine) -> Iterator[Entry]:
    """All that is saved."""
    for name in engine.parameters:
        yield Entry(f"network/{name}", engine.shape(name), torch.float32, partial(engine.seen, name))
    for name, parameter in engine.untrained.items():
        yield Entry(f"network/{name}", zero.shape(parameter), parameter.dtype, partial(zero.whole, parameter))
    for key, name in _states(engine):
        kind = torch.uint8 if key == "marks" else torch.float32
        # What is not kept beside the target has to be made of it.
        make = engine.get if key == "dual" else engine.seen
        yield Entry(f"{key}/{name}", engine.shape(name), kind, partial(make, name, key))
    for name, buffer in engine.own.items():
        yield Entry(f"buffer/{name}", buffer.shape, buffer.dtype, buffer.detach, own=True)


def _states(engine: Engine) -> Iterator[tuple[str, str]]:
    """States of parameters, and whose."""
    for key in engine.inner_states():
        for name in engine.parameters:
            yield key, name
    for name in engine.parameters:
        if name in engine.masked:
            for key in engine.kept(name):
                yield key, name


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _averaged(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Buffers of other ranks than there are now: averages, as at the end of an epoch; counts are the same on all."""
    found = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        # In double precision, so that the average of equal values is that value.
        found[name] = torch.stack(values).double().mean(0).to(first) if first.is_floating_point() else first
    return found

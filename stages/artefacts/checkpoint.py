"""Checkpoints within a stage: named whole tensors and where the stage stands, free of the world size.

Each rank writes every world-th tensor, in the background, and what is its own: its share of the epoch's
loss, and its batch statistics, which differ between ranks within an epoch. The same number of ranks
goes on from its own; another number, from sums and averages. A part counts when its JSON is there and
the hash in it is right (stages.artefacts.parts); a checkpoint counts when all of its parts do. The newest two are
kept, so that there is always a whole one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from dualprune.stages.artefacts import parts
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.state import STATE
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import State

KEPT = 2
STATES = (*STATE, "mask")
"""What there may be of ADMM's state of a tensor."""
FORMAT = 3
"""Of a checkpoint; those from before formats had numbers are of format 1. Up to format 2 all of ADMM's state was in
fp32, and masks, which were called `hold`, had the numbers of clusters while values were tied."""
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
"""safetensors' names of types."""


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
        """Gather the state (on all ranks together), and write this rank's part of it in the background."""
        self.finish()  # each rank's last part is written, so what is older may go
        tensors = {name: value.cpu() for i, (name, value) in enumerate(_state(engine)) if i % self.world == self.rank}
        tensors |= {f"buffer/{name}": value.detach().cpu().clone() for name, value in engine.own.items()}
        facts = {"format": FORMAT, **asdict(progress), "inner_steps": engine.inner_steps()}
        facts["loss"] = float(progress.loss)
        self._writer = threading.Thread(target=self._write, args=(tensors, facts), name="checkpoint")
        self._writer.start()

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
                if all(parts.read(self.folder, parts.stem(step, part, world)) for part in range(world)):
                    return f"{step}/{world}"
        return None

    def load(self, checkpoint: str, engine: Engine, state: type[State] = State) -> Progress:
        """Put the engine where `checkpoint` (as `newest` gave it) says, on all ranks together. Raises OtherVersion.

        `state` is the class of what the stage's kind remembers.
        """
        step, count = checkpoint.split("/")
        found = []
        for number in range(int(count)):
            part = parts.read(self.folder, parts.stem(step, number, int(count)))
            if part is None:
                raise FileNotFoundError(f"{self.folder.url}/{step}: part {number} of {count} was whole and is not now")
            found.append((safetensors.torch.load(part[0]), part[1]))
        tensors = {n: t for part, _ in found for n, t in part.items()}
        facts = self._known(step, dict(found[0][1]), state)
        if len(found) == self.world:
            own, facts["loss"] = found[self.rank][0], found[self.rank][1]["loss"]
        else:
            own = _averaged([part for part, _ in found])
            facts["loss"] = sum(each["loss"] for _, each in found) if self.rank == 0 else 0.0
        engine.load({**_under("network/", tensors), **_under("buffer/", own)})
        for key in engine.inner_states():
            for name in engine.parameters:
                engine.set(name, tensors[f"{key}/{name}"], key)
        if any(name.startswith("hold/") for name in tensors):
            tensors = _from_second(tensors, bool(facts["state"].get("tied")))
        for name in _masked(engine):
            engine.restore(name, {key: tensors[f"{key}/{name}"] for key in STATES if f"{key}/{name}" in tensors})
        engine.set_inner_steps(facts.pop("inner_steps"))
        return Progress(**{**facts, "state": state(**facts["state"])})

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

    def _write(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        try:
            step = f"step-{facts['steps']:08d}"
            stem = parts.stem(step, self.rank, self.world)
            data = _serialized(tensors)
            self.folder.write(f"{stem}.safetensors", data)
            self.folder.write_json(f"{stem}.json", {"sha256": parts.digest(data, facts), "progress": facts})
            if self.rank == 0:
                for old in [s for s in parts.steps(self.folder) if s < step][: -(KEPT - 1)]:
                    self.folder.remove(old)
        except BaseException as error:  # noqa: BLE001 - raised again by wait(), in the training thread
            self._error = error


def _from_first(facts: dict[str, Any]) -> dict[str, Any]:
    """From the first format, in which what kinds remember was not apart."""
    own = {"rho": "rho", "residual": "residual", "values": "values", "sharing": "tied", "budget": "budget"}
    state = {new: facts.pop(old) for old, new in own.items() if old in facts}
    facts["phase"] = facts.pop("stretch", 0)
    return facts | {"state": {name: value for name, value in state.items() if value}}


def _from_second(tensors: dict[str, Tensor], tied: bool) -> dict[str, Tensor]:
    """From the second format: what was called a hold is a mask, but numbers of clusters are in the target now."""
    found = dict(tensors)
    for name, hold in _under("hold/", tensors).items():
        found[f"mask/{name}"] = hold
        if tied:
            found[f"target/{name}"] = hold
    return found


def _masked(engine: Engine) -> list[str]:
    return [name for name in engine.parameters if name in engine.masked]


def _state(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    for name in engine.parameters:
        yield f"network/{name}", engine.get(name)
    for name, value in engine.left_alone():
        yield f"network/{name}", value
    for key in engine.inner_states():
        for name in engine.parameters:
            yield f"{key}/{name}", engine.get(name, key)
    for name in _masked(engine):
        for key in engine.kept(name):
            yield f"{key}/{name}", engine.get(name, key)


def _serialized(tensors: dict[str, Tensor]) -> bytearray:
    """Tensors in safetensors' form, taken out of `tensors` one by one.

    The library's own function has all of them three times at its end: as tensors, and as bytes twice.
    """
    header, end = {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        place = [end, end := end + tensor.nbytes]
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = bytearray(8 + len(text) + end)
    data[:8], data[8 : 8 + len(text)] = len(text).to_bytes(8, "little"), text
    view = torch.frombuffer(data, dtype=torch.uint8)[8 + len(text) :]
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        view[first:last] = tensors.pop(name).contiguous().flatten().view(torch.uint8)
    return data


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _averaged(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Buffers of other ranks than there are now: averages, as at the end of an epoch; counts are the same on all."""
    found = {}
    for name, first in parts[0].items():
        if name.startswith("buffer/"):
            values = [part[name] for part in parts]
            # In double precision, so that the average of equal values is that value.
            found[name] = torch.stack(values).double().mean(0).to(first) if first.is_floating_point() else first
    return found

"""Tensors in safetensors' form: the library's own bytes, written and read one by one; and what memory they take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from dualprune.stages.artefacts import packed
from dualprune.stages.artefacts.packed import TYPES, Broken, Pieces, header, place, unpacked
from dualprune.stages.files.folder import Folder
from tests.processes import PATH, ROOT
from tests.stages.conftest import small_net


def brought(pieces: Pieces, top: bytes, tensors: Iterable[Tensor]) -> None:
    """Bring a file's bytes, and say that it ends."""
    pieces.put(torch.frombuffer(bytearray(top), dtype=torch.uint8))
    for tensor in tensors:
        pieces.put(tensor)
    pieces.end()


def written(tensors: dict[str, Tensor], most: int = 1 << 20) -> bytes:
    """A file of these tensors."""
    top, length = header((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
    pieces = Pieces(length, most)
    ordered = [tensors[name] for name in sorted(tensors, key=lambda name: place(name, tensors[name].dtype))]
    bringing = threading.Thread(target=brought, args=(pieces, top, ordered))
    bringing.start()
    found = b"".join(bytes(piece) for piece in pieces)
    bringing.join()
    assert len(found) == length
    return found


def some() -> dict[str, Tensor]:
    """Of every type, and of shapes that are easily got wrong."""
    tensors = {str(kind): torch.arange(6).view(2, 3).to(kind) for kind in TYPES}
    return tensors | {
        "scalar": torch.tensor(5),
        "none": torch.zeros(0, 3),
        "turned": torch.randn(3, 4).t(),
        "conj": CONJ,
    }


CONJ = torch.complex(torch.arange(3.0), torch.ones(3)).conj()
"""Numbers that are in memory with another sign than they have."""


def numbers(tensor: Tensor) -> Tensor:
    """Of types that torch does not compare, their bytes."""
    return tensor.contiguous().view(torch.uint8) if "float8" in str(tensor.dtype) else tensor


def same(found: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """The same names, types and bits."""
    assert found.keys() == tensors.keys()
    assert all(tensor.dtype == found[name].dtype for name, tensor in tensors.items())
    assert all(torch.equal(numbers(tensor), numbers(found[name])) for name, tensor in tensors.items())


def test_tensors_are_written_in_safetensors_form() -> None:
    tensors = some()
    same(safetensors.torch.load(written(tensors)), tensors)
    network = small_net().state_dict()
    assert written(network) == safetensors.torch.save(network)


@pytest.mark.parametrize("size", [1, 7, 8, 4096])
def test_tensors_are_written_piece_by_piece(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """However long a piece is."""
    tensors = some()
    whole = written(tensors)
    monkeypatch.setattr(packed, "WRITTEN", size)
    assert written(tensors, most=5 * size) == whole


def test_who_brings_more_than_may_wait_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "WRITTEN", 10)
    pieces, done = Pieces(1000, 60), threading.Event()

    def bring() -> None:
        pieces.put(torch.zeros(250, dtype=torch.int32))
        pieces.end()
        done.set()

    bringing = threading.Thread(target=bring)
    bringing.start()
    assert not done.wait(0.2)
    arriving = iter(pieces)
    for _ in range(5):
        assert bytes(next(arriving)) == bytes(10)
    assert not done.wait(0.2)
    pieces.drop()
    bringing.join(timeout=5)
    assert done.is_set()
    pieces.drop()  # nothing comes any more


def test_a_file_of_which_not_all_came_is_broken() -> None:
    pieces = Pieces(9000, 1 << 20)
    pieces.put(torch.zeros(1000))
    pieces.end()
    with pytest.raises(Broken, match="9000 bytes of 9000 were not brought"):
        list(pieces)


@pytest.mark.parametrize("piece", [1, 30, packed.PIECE])
def test_tensors_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """However long a piece is; those that nobody asks for are left out."""
    monkeypatch.setattr(packed, "PIECE", piece)
    tensors = some()
    tmp_path.joinpath("file").write_bytes(written(tensors))
    place = Folder(str(tmp_path))
    same(dict(unpacked(place, "file", lambda name: True)), tensors)
    few = {name: tensor for name, tensor in tensors.items() if "int" in name}
    same(dict(unpacked(place, "file", few.__contains__)), few)


MEASURE = """
import json, sys, threading, time
import torch
from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.settings.engine import Engine as Settings
from dualprune.stages.settings.training import Optimizer

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

boxes, over = [[0]], threading.Event()
def watch():
    while not over.wait(0.001):
        most = boxes[-1]  # of a call that is over by now, it may be
        most[0] = max(most[0], resident())
threading.Thread(target=watch).start()

def extra(call):
    begin = resident()
    boxes.append(most := [begin])
    call()
    return most[0] - begin

join(threads=1)
network = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024, bias=False) for _ in range(24)])
names = {name for name, _ in network.named_parameters()}
engine = Engine(network, names, set(), Optimizer(), "fp32", Settings())
checkpoints = Checkpoints(Folder(sys.argv[1]), 0, 1)
def save():
    checkpoints.save(engine, Progress(steps=1))
    checkpoints.wait()
found = {"saved": extra(save), "newest": extra(checkpoints.newest)}
found["loaded"] = extra(lambda: checkpoints.load("step-00000001/1", engine))
over.set()
print(json.dumps(found))
"""
"""A network of 96 MB under ADMM with Adam, in a process of its own: bytes of memory beside what it had, at most."""


@pytest.mark.slow
def test_what_memory_a_checkpoint_takes(tmp_path: Path) -> None:
    """Written: as much as the network and 64 MB, of all its state; looked at and read: a piece or two."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout.splitlines()[-1])
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) > 4 * (96 << 20)
    assert found["saved"] <= (96 + 64) << 20
    assert found["newest"] < 64 << 20
    assert found["loaded"] < 96 << 20

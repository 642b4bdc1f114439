"""Files in the place of weights: what they are is said, and nothing in them is run."""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.pretrained import WeightsError, bring
from dualprune.stages.networks.weightsfile import Passed, read
from dualprune.stages.settings.training import Model

STATE = {"a.weight": torch.arange(5000.0).view(50, 100), "a.bias": torch.ones(3)}


def saved(value: Any, **options: Any) -> bytes:
    """As torch saves it."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


class Evil:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch was-run",))


def zipped(*names: str) -> bytes:
    """A zip archive of such members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"text")
    return buffer.getvalue()


def tarred() -> bytes:
    """A tar archive of one member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("weights.pth")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"text"))
    return buffer.getvalue()


def scripted() -> bytes:
    """A TorchScript archive."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    """With one bit of a tensor's numbers changed."""
    at = data.index(torch.arange(4000.0, 4010.0).numpy().tobytes())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 102530333\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>\n Page not found\n</title></head></html>"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "^w.pth is empty$"),
    "zeros": (bytes(3000), "is 3,000 bytes of zeros"),
    "html": (PAGE, r"it is an HTML page \(title: Page not found\); download the file itself"),
    "html without a doctype": (b"<html>404</html>", "it is an HTML page; download"),
    "lfs": (POINTER, r"it is a Git LFS pointer to them \(102,530,333 bytes\); `git lfs pull`"),
    "annex": (b"/annex/objects/SHA256E-s1--4d7a21.pth\n", "it is a git-annex pointer to them; `git annex get`"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is XML, and begins with .*Denied"),
    "json": (b'{"error":"Repository not found"}', "it is JSON, and begins with .*Repository not found"),
    "text": (b"Moved Permanently", "it is text, and begins with 'Moved Permanently'"),
    "gzip": (gzip.compress(saved(STATE)), "compressed with gzip: unpack it"),
    "tar": (tarred(), "a tar archive; unpack it"),
    "zip": (
        zipped("weights.pth", "README"),
        "a zip archive of weights.pth, README, without the data.pkl of torch.save",
    ),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes them"),
    "numpy": (zipped("a.npy"), "a zip archive of a.npy, without"),
    "script": (scripted(), r"is a TorchScript archive.*torch\.jit\.load\(FILE\)\.state_dict\(\)"),
    "cut": (saved(STATE)[:5000], r"is cut off or damaged \(5,000 bytes of a zip archive, .*get it anew"),
    "cut, old": (
        saved(STATE, _use_new_zipfile_serialization=False)[:9000],
        r"of 9,000 bytes can't be read \(unexpected EOF.*get it anew",
    ),
    "cut early, old": (saved(STATE, _use_new_zipfile_serialization=False)[:200], r"of 200 bytes can't be read.*; if"),
    "cut safetensors": (safetensors.torch.save(STATE)[:5000], r"of 5,000 bytes can't be read \(.*get it anew"),
    "a bit is another": (flipped(saved(STATE)), "is damaged: its member archive/data/0 is not what was saved"),
    "noise": (bytes(range(256)) * 4, "holds no weights that can be read safely"),
    "code": (saved({"state_dict": Evil()}), r"holds objects of the class posix\.system, which are not read"),
    "a network": (
        saved(torch.nn.Linear(2, 2)),
        r"class torch\.nn\.modules\.linear\.Linear, .*save\(network\.state_dict",
    ),
    "a network, old": (
        saved(torch.nn.Linear(2, 2), _use_new_zipfile_serialization=False),
        r"class torch\.nn\.modules\.linear\.Linear, which are not read",
    ),
    "pickle": (
        pickle.dumps({"a": np.zeros(3)}),
        r"numpy\S+_reconstruct, which are not read|a pickle that torch.save did",
    ),
    "plain pickle": (pickle.dumps({"a": [1.0]}), "a pickle that torch.save did not write"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_file_of_weights_is_named(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in it is run, and nobody is told to run it."""
    monkeypatch.chdir(tmp_path)
    data, words = BAD[case]
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(WeightsError, match=words) as caught:
        bring(Model(name="resnet20", weights="w.pth"), Folder(str(tmp_path / "store")))
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pth"]


class Code:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("open('was-run', 'w')",))


@pytest.mark.parametrize("old", [False, True])
def test_what_scripts_leave_beside_weights_is_passed_over(
    old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options, a best accuracy, and worse: none of it is made."""
    monkeypatch.chdir(tmp_path)
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(91.5), "names": np.zeros(3), "code": Code()}
    data = saved({"state_dict": STATE, "epoch": 7, **beside}, _use_new_zipfile_serialization=not old)
    found = read(data, "w.pth")
    assert found["epoch"] == 7
    assert all(isinstance(found[key], Passed) for key in beside)
    assert type(found["args"]).__name__ == "argparse.Namespace"
    assert all(torch.equal(found["state_dict"][name], tensor) for name, tensor in STATE.items())
    assert not list(tmp_path.iterdir())


def test_a_file_without_checksums_is_read() -> None:
    """torch can be told to leave them out."""
    torch.serialization.set_crc32_options(False)
    try:
        data = saved(STATE)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read(data, "w.pth").keys() == STATE.keys()

"""The file format `sparse`: whatever is packed comes back to the bit, in few bytes; damage is noticed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dualprune.stages.constraints.levels import Levels
from dualprune.stages.export.formats import reading
from dualprune.stages.export.grid import grid
from dualprune.stages.export.reader import read
from dualprune.stages.export.sparse import pack
from dualprune.stages.networks.builtin import MODELS
from tests.processes import ROOT


def back(tmp_path: Path, tensors: dict[str, np.ndarray], half: bool = False) -> tuple[dict[str, np.ndarray], int]:
    """Tensors that were packed and read, and the size of their file."""
    data = pack(tensors, half=half)
    (tmp_path / "x.dps").write_bytes(data)
    return read(str(tmp_path / "x.dps")), len(data)


def exact(found: dict[str, np.ndarray], tensors: dict[str, np.ndarray]) -> None:
    """All bits are as they were, of what is no number too; zeros have no sign."""
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        positive = tensor + tensor.dtype.type(0) if tensor.dtype.kind == "f" else tensor
        assert found[name].tobytes() == positive.tobytes(), name


def scattered(size: int, share: float, seed: int = 0) -> np.ndarray:
    """Numbers at random places, and zeros."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=size) * (rng.random(size) < share)).astype(np.float32)


TENSORS = {
    "empty": np.zeros((0, 3), np.float32),
    "zeros": np.zeros((40, 50), np.float32),
    "one": np.float32(3.5).reshape(()),
    "scalar zero": np.int64(0).reshape(()),
    "count": np.int64(1234567890123).reshape(()),
    "flags": np.arange(70) % 3 == 0,
    "bytes": np.arange(256, dtype=np.uint8).reshape(16, 16),
    "double": np.random.default_rng(0).normal(size=(5, 7)),
    "half": np.random.default_rng(0).normal(size=(5, 7)).astype(np.float16),
    "negative zero": np.array([0.0, -0.0, 1.0] + 40 * [0.0], np.float32),
    "no number": np.array([np.nan, np.inf, -np.inf, 0.0] + 60 * [0.0], np.float32),
    "last": np.eye(1, 3000, 2999, dtype=np.float32),
    "first": np.eye(1, 3000, 0, dtype=np.float32),
    "not contiguous": scattered(600, 0.1).reshape(20, 30).T,
    "shared": np.random.default_rng(0).choice(np.float32([0, 0, 0, 0.3, -0.7, 1.1]), (30, 40)),
    "binary": np.random.default_rng(0).choice(np.float32([-0.3, 0.3]), (30, 40)),
    "structured": np.repeat(scattered(50, 0.3), 64).reshape(50, 64),
    **{f"share {share}": scattered(20_000, share).reshape(100, 200) for share in (0.001, 0.02, 0.3, 0.6, 0.95, 1)},
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_to_the_bit(name: str, tmp_path: Path) -> None:
    exact(back(tmp_path, {name: TENSORS[name]})[0], {name: TENSORS[name].copy()})


def test_several_tensors_come_back_by_all_their_names(tmp_path: Path) -> None:
    (tmp_path / "x.dps").write_bytes(pack(TENSORS, {"tied": "one"}, {"name": "x"}))
    found = read(str(tmp_path / "x.dps"))
    assert found.pop("tied") == np.float32(3.5)
    exact(found, {name: tensor.copy() for name, tensor in TENSORS.items()})


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    )
)
def test_any_tensor_comes_back(tmp_path_factory: pytest.TempPathFactory, tensor: np.ndarray) -> None:
    exact(back(tmp_path_factory.mktemp("any"), {"x": tensor})[0], {"x": tensor.copy()})


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.2, 0.5])
def test_a_mask_takes_little_more_than_its_entropy(share: float, tmp_path: Path) -> None:
    """Of random places: three hundredths, of whole files of one value."""
    mask = (scattered(200_000, share) != 0).astype(np.float32)
    mask[0] = -0.0
    p = mask.mean()
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) * mask.size / 8
    assert back(tmp_path, {"x": mask})[1] < 1.04 * entropy + mask.sum() / 8 + 160


def test_a_structured_mask_takes_next_to_nothing(tmp_path: Path) -> None:
    """Whole rows that are zero: a mask of them all would be 8 kB."""
    mask = np.zeros((256, 256), np.float32)
    mask[::4] = 1
    assert back(tmp_path, {"x": mask})[1] < 1500


@pytest.mark.parametrize(("kind", "bits"), [("equidistant", 3), ("equidistant", 8), ("power", 3), ("ternary", 1)])
def test_levels_take_their_bits(kind: str, bits: int, tmp_path: Path) -> None:
    """And no table: an interval and whole numbers give each to the bit."""
    w = torch.from_numpy(scattered(20_000, 0.5)).double()
    z = Levels(kind, bits).project(w).float().numpy()
    found, size = back(tmp_path, {"x": z})
    exact(found, {"x": z})
    assert grid(np.unique(z)) is not None
    assert size < 20_000 / 8 + np.count_nonzero(z) * bits / 8 + 900


def test_clusters_take_their_bits_and_a_table(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=16).astype(np.float32)
    z = np.random.default_rng(1).choice(table, 10_000)
    found, size = back(tmp_path, {"x": z})
    exact(found, {"x": z})
    assert grid(table) is None
    assert size < 10_000 / 2 + 16 * 4 + 150


def lenet5() -> dict[str, np.ndarray]:
    """LeNet-5 as `configs/mnist_lenet5.yaml` has it at 167x: so many weights and bits, at random."""
    torch.manual_seed(0)
    network = MODELS["lenet5"](10)
    for name, count, bits in (("0", 100, 5), ("2", 1330, 3), ("5", 800, 2), ("7", 350, 3)):
        w = network.get_parameter(f"{name}.weight").detach().normal_()
        w.mul_(w.abs() >= w.abs().flatten().topk(count).values[-1])
        w.copy_(Levels("equidistant", bits).project(w.double()).float())
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def test_lenet5_takes_about_what_its_bits_are(tmp_path: Path) -> None:
    """2,580 weights and their places in 3.3 kB. Then there are 580 biases, in fp32 or rounded."""
    tensors = lenet5()
    found, size = back(tmp_path, tensors)
    exact(found, tensors)
    weights = {name: tensor for name, tensor in tensors.items() if name.endswith("weight")}
    assert back(tmp_path, weights)[1] < 3400
    assert size < 5500
    assert back(tmp_path, tensors, half=True)[1] < 4500


def test_half_rounds_what_is_not_shared(tmp_path: Path) -> None:
    tensors = {"x": scattered(5000, 0.5), "count": np.int64(70_000).reshape(()), "shared": TENSORS["shared"]}
    found, size = back(tmp_path, tensors, half=True)
    assert np.array_equal(found["x"], tensors["x"].astype(np.float16).astype(np.float32))
    exact({n: found[n] for n in ("count", "shared")}, {n: tensors[n] for n in ("count", "shared")})
    assert size < 0.65 * back(tmp_path, tensors)[1]
    with pytest.raises(ValueError, match=r"x has numbers up to 4\.257e\+06"):
        pack({"x": np.random.default_rng(0).normal(size=9000).astype(np.float32) * 1e6 + 1e6}, half=True)


def test_a_type_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="x is of type complex64"):
        pack({"x": np.zeros(3, np.complex64)})


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    data = pack({"x": scattered(400, 0.1), "shared": TENSORS["shared"][:3]})
    damaged = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    damaged += [data[:-1], data[:40], data[:3], b"", data + b"x"]
    for bad in damaged:
        (tmp_path / "bad.dps").write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad\.dps is no sparse file, or it has changed since it was written"):
            read(str(tmp_path / "bad.dps"))


def test_the_reader_of_the_readme_is_the_reader(tmp_path: Path) -> None:
    """It runs as it stands there, with NumPy alone."""
    (shown,) = re.findall(r"```python\n(import hashlib\n.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown == reading()
    tensors = lenet5()
    (tmp_path / "lenet5.dps").write_bytes(pack(tensors))
    after = "import sys\ntensors = read('lenet5.dps')\nnp.savez('found.npz', **tensors)\n"
    after += "assert not {'torch', 'dualprune'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", f"{shown}\n\n{after}"], cwd=tmp_path, check=True)
    exact(dict(np.load(tmp_path / "found.npz")), tensors)

"""Exports: each format on five networks, loaded back without dualprune; what is refused, and what is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors
import torch

from dualprune.stages.export import csr
from dualprune.stages.export import export as exporting
from dualprune.stages.export.errors import NotExported
from dualprune.stages.export.export import Exported, export
from dualprune.stages.export.formats import FORMATS, Written
from dualprune.stages.export.source import Origin, Source, source
from dualprune.stages.networks.builtin import MODELS
from tests.stages.export.finished import GPT2, KEY, OWN, committed, given, same, tokens

NETWORKS = ("digits_cnn", "resnet20", "torchvision", "own", "tied")


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str = OWN, module: str = "mynets") -> None:
    """A module of a user's own, found by Python."""
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture
def network(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """One of five finished networks."""
    store, which = tmp_path / "store", request.param
    if which == "own":
        own(tmp_path, monkeypatch)
        fields = {"x": np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), "kind": np.array([1, 0, 6, 2])}
        aim = {"name": "classify", "args": {"inputs": ["x", "kind"], "output": "logits"}}
        return given(committed(store, {"name": "mynets:Two", "args": {"width": 6}}, objective=aim), tmp_path, **fields)
    if which == "tied":
        pytest.importorskip("transformers")
        aim = {"name": "tokens", "args": {"task": "language"}}
        fields = {"input_ids": tokens(), "input_ids_mask": np.ones((4, 12), dtype=bool)}
        return given(committed(store, GPT2, objective=aim), tmp_path, **fields)
    name = "torchvision:squeezenet1_1" if which == "torchvision" else which
    sizes = {"digits_cnn": (1, 8, 8), "resnet20": (3, 32, 32), "torchvision": (3, 64, 64)}
    return given(committed(store, {"name": name}), tmp_path, *sizes[which])


@pytest.mark.parametrize("network", ["digits_cnn"], indirect=True)
def test_sparse_rows_round_trip(network: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain torch's file; where no layer is faster so, nothing is written."""
    monkeypatch.setattr(csr, "WORTH", float("inf"))
    made = export(network, "torch-csr", tmp_path)
    assert made.apart < 1e-5
    rows = [name for name, one in torch.load(made.file, weights_only=True).items() if one.layout == torch.sparse_csr]
    assert rows == ["6.weight", "8.weight"]
    assert "`6.weight`" not in made.card.read_text()
    assert "`6`" in made.card.read_text()
    assert "network.load_state_dict(tensors, assign=True)" in made.card.read_text()
    monkeypatch.setattr(csr, "WORTH", 0.0)
    with pytest.raises(NotExported, match="no linear layer of it is faster as sparse rows on this machine"):
        export(network, "torch-csr", tmp_path / "none")


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "torch-csr"])
@pytest.mark.parametrize(
    "network",
    [one if one in ("digits_cnn", "own") else pytest.param(one, marks=pytest.mark.slow) for one in NETWORKS],
    indirect=True,
)
def test_round_trips(network: Source, name: str, tmp_path: Path) -> None:
    """What was loaded back in another process computes the same: `export` raises otherwise."""
    made = export(network, name, tmp_path / "out")
    assert made.apart <= (0 if FORMATS[name].holds == "tensors" else 1e-5)
    assert made.bytes == made.file.stat().st_size
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [made.file.name, made.card.name]
    if name == "sparse":
        assert made.bytes < 0.5 * made.dense + 600
    else:
        assert made.bytes < 1.1 * made.dense + 400_000, "beside the tensors there is a graph at most"


@pytest.mark.parametrize("network", ["own", "tied"], indirect=True)
def test_inputs_keep_their_names(network: Source, tmp_path: Path) -> None:
    """Those of the data's fields, or of the network's parameters."""
    made = export(network, "onnx", tmp_path)
    graph = onnx.load(made.file).graph
    names = [one.name for one in graph.input]
    assert names == (
        ["x", "kind"] if "mynets" in network.manifest["spec"]["model"]["name"] else ["input_ids", "attention_mask"]
    )
    assert [one.name for one in graph.output] == ["output_logits"]


@pytest.mark.parametrize("network", ["tied"], indirect=True)
def test_tied_tensors_are_written_once(network: Source, tmp_path: Path) -> None:
    made = export(network, "safetensors", tmp_path)
    with safetensors.safe_open(made.file, "pt") as file:
        about = json.loads(file.metadata()["dualprune"])
        assert about["same"] == {"lm_head.weight": "transformer.wte.weight"}
        assert set(about["same"]).isdisjoint(file.keys())
    assert "GPT2LMHeadModel" in about["build"]
    graph = onnx.load(export(network, "onnx", tmp_path).file).graph
    assert sum(2000 in one.dims for one in graph.initializer) == 1
    with zipfile.ZipFile(export(network, "torch-export", tmp_path).file) as file:
        sizes = [one.file_size for one in file.infolist() if "/data/weights/" in one.filename]
    assert sizes.count(2000 * 16 * 4) == 1


@pytest.mark.parametrize("network", ["tied"], indirect=True)
@pytest.mark.parametrize("name", ["onnx", "torch-export"])
def test_sequences_may_be_of_any_length(network: Source, name: str, tmp_path: Path) -> None:
    """It was run on half of their length too; the card says so."""
    made = export(network, name, tmp_path)
    assert "of any length" in made.card.read_text()


@pytest.mark.parametrize("network", ["tied"], indirect=True)
def test_layer_norms_keep_kernels_of_their_own_in_onnx_runtime(network: Source, tmp_path: Path) -> None:
    """The card's code runs, and says what it leaves out."""
    made = export(network, "onnx", tmp_path)
    assert "disabled_optimizers=['SkipLayerNormFusion'],  # on CPUs it is faster without" in made.card.read_text()
    runs(made, tmp_path)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "torch-csr"])
@pytest.mark.parametrize("network", ["torchvision"], indirect=True)
def test_the_code_of_a_card_runs(network: Source, name: str, tmp_path: Path) -> None:
    """As it stands, in a process of its own, in the folder of the file."""
    runs(export(network, name, tmp_path / "out"), tmp_path / "out")


def runs(made: Exported, folder: Path) -> None:
    """Run the code of a card."""
    blocks = [part.split("```")[0] for part in made.card.read_text().split("```python\n")[1:]]
    code = "\n".join([*blocks, "import sys", "assert 'dualprune' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.parametrize("network", ["digits_cnn"], indirect=True)
def test_a_card_says_what_it_is_of(network: Source, tmp_path: Path) -> None:
    text = export(network, "torch", tmp_path).card.read_text()
    for said in (
        KEY,
        "91.5",
        "normal noise",
        "not in the store any more",
        "has to be installed",
        "`sparse` packs them",
    ):
        assert said in text, said


@pytest.mark.parametrize("network", ["digits_cnn"], indirect=True)
def test_a_file_that_computes_something_else_is_not_kept(
    network: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor its card; the error says how far it is off. What was there before stays."""
    before = export(network, "torch-export", tmp_path).file.read_bytes()
    form = FORMATS["torch-export"]

    def wrong(source: Source, path: Path, half: bool) -> Written:
        written = form.write(source, path, half)
        program = torch.export.load(path)
        program.state_dict["network.8.bias"].data += 0.5
        torch.export.save(program, path)
        return written

    monkeypatch.setitem(exporting.FORMATS, "torch-export", type(form)(form.suffix, form.holds, wrong, form.loading))
    with pytest.raises(NotExported, match=r"differ from the artefact's by \S+ of the largest, more than 0.0001"):
        export(network, "torch-export", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.pt2*")) == ["small.pt2", "small.pt2.md"]
    assert (tmp_path / "small.pt2").read_bytes() == before
    assert not list(tmp_path.glob(".export-*"))


LEVELS = [(4, onnx.TensorProto.INT4), (100, onnx.TensorProto.INT8), (128, onnx.TensorProto.INT16)]


@pytest.mark.parametrize(("levels", "kind"), LEVELS)
@pytest.mark.parametrize("model", ["digits_cnn", "resnet20"])
def test_weights_on_levels_are_whole_numbers_in_onnx(levels: int, kind: int, model: str, tmp_path: Path) -> None:
    """Whatever follows them: batch normalisation is not folded into them. They take so many bits."""
    store = committed(tmp_path / "store", {"name": model}, 2, levels)
    network = given(store, tmp_path, *((1, 8, 8) if model == "digits_cnn" else (3, 32, 32)))
    made = export(network, "onnx", tmp_path)
    graph = onnx.load(made.file).graph
    large = [one for one in graph.initializer if one.data_type != onnx.TensorProto.FLOAT and np.prod(one.dims) > 64]
    assert {one.data_type for one in large} == {kind}
    assert len(large) == len(network.manifest["fixed"])
    assert sum(node.op_type == "DequantizeLinear" for node in graph.node) == len(large)
    assert any("DequantizeLinear" in note for note in made.notes)
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8, onnx.TensorProto.INT16: 16}[kind]
    for one in large:
        assert len(one.raw_data) == -(-int(np.prod(one.dims)) * bits // 8), one.name


def test_values_that_are_no_levels_are_said_to_be_written_in_fp32(tmp_path: Path) -> None:
    store = committed(tmp_path / "store", {"name": "digits_cnn"}, 2, 40_000)
    made = export(given(store, tmp_path, 1, 8, 8), "onnx", tmp_path)
    assert any("is written in fp32" in note for note in made.notes)


def test_what_can_not_be_traced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, the layer, and the line of a user's own."""
    code = """
from torch import nn

class Odd(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def odd():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), Odd())
"""
    own(tmp_path, monkeypatch, code, "oddnets")
    network = given(committed(tmp_path / "store", {"name": "oddnets:odd"}), tmp_path, 2, 2)
    for name in ("torch-export", "onnx"):
        with pytest.raises(NotExported, match=r"can't be traced .*in layer 2, Odd\(\).*x\.sum\(\) > 0") as raised:
            export(network, name, tmp_path / "out")
        assert len(str(raised.value)) < 800
    assert not list((tmp_path / "out").iterdir())
    assert export(network, "safetensors", tmp_path / "out").apart == 0


def test_an_operation_without_onnx_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import torch
from torch import nn

class Spectrum(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)

def net():
    return Spectrum()
"""
    own(tmp_path, monkeypatch, code, "svdnets")
    network = given(committed(tmp_path / "store", {"name": "svdnets:net"}, None), tmp_path, 3, 3)
    with pytest.raises(NotExported, match=r"can't be written as ONNX.*svd"):
        export(network, "onnx", tmp_path)
    export(network, "torch-export", tmp_path)


def test_a_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = given(committed(tmp_path / "store", {"name": "digits_cnn"}), tmp_path, 1, 8, 8)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotExported, match=r"pip install 'dualprune\[onnx\]'"):
        export(network, "onnx", tmp_path)


def test_half_is_for_sparse_alone(tmp_path: Path) -> None:
    network = given(committed(tmp_path / "store", {"name": "digits_cnn"}), tmp_path, 1, 8, 8)
    with pytest.raises(NotExported, match="--half is for sparse"):
        export(network, "onnx", tmp_path, half=True)
    whole, half = (export(network, "sparse", tmp_path, half) for half in (False, True))
    assert half.bytes < 0.7 * whole.bytes
    assert 0 < half.apart < 1e-2


def test_nothing_to_gain_is_said(tmp_path: Path) -> None:
    network = given(committed(tmp_path / "store", {"name": "digits_cnn"}, None), tmp_path, 1, 8, 8)
    assert any("gains little" in note for note in export(network, "sparse", tmp_path).notes)


def with_pattern(store: Path, kept: int) -> Source:
    """A stage of 2:4, of whose weights so many of every four are not zero."""
    network = MODELS["digits_cnn"](10)
    network[6].weight.data.view(-1, 4)[:, kept:] = 0
    sets = [{"set": "nm", "tensors": "6.weight", "n": 2, "m": 4}]
    spec = {"kind": "prune", "constraints": sets, "admm": {"updates": 1, "lr": 0.1, "rho": 0.1}}
    whole = {**spec, "retrain": {"epochs": 1, "lr": 0.1}}
    return given(committed(store, {"name": "digits_cnn"}, None, network=network, **whole), store, 1, 8, 8)


def test_two_of_four_is_checked(tmp_path: Path) -> None:
    made = export(with_pattern(tmp_path / "good", 2), "torch", tmp_path)
    assert any("2 of every 4" in note and "to_sparse_semi_structured" in note for note in made.notes)
    with pytest.raises(NotExported, match=r"6\.weight should have at most 2 of every 4 inputs"):
        export(with_pattern(tmp_path / "bad", 3), "torch", tmp_path)


def test_samples_that_do_not_fit_are_named(tmp_path: Path) -> None:
    store = committed(tmp_path / "store", {"name": "digits_cnn"})
    with pytest.raises(NotExported, match=r"can't take samples of 3 x 8 x 8.*in layer"):
        given(store, tmp_path, 3, 8, 8)
    with pytest.raises(NotExported, match=r"--data.*--sample FILE\.npy.*--noise"):
        source(store, KEY, Origin())
    (tmp_path / "no.npy").write_text("no")
    with pytest.raises(NotExported, match=r"no\.npy is no array"):
        source(store, KEY, Origin(sample=tmp_path / "no.npy"))
    np.save(tmp_path / "one.npy", np.ones((1, 1, 8, 8), np.float32))
    assert len(source(store, KEY, Origin(sample=tmp_path / "one.npy")).call.inputs[0]) == 2


def test_real_samples_of_the_data_are_found_by_its_digest(shards: str, tmp_path: Path) -> None:
    store = committed(tmp_path / "store", {"name": "digits_cnn"})
    network = source(store, KEY, Origin(data=shards))
    assert network.call.names == ("image",)
    assert network.call.inputs[0].shape == (8, 1, 8, 8)
    made = export(network, "onnx", tmp_path)
    assert "validation data" in made.card.read_text()


def test_tensors_come_back_to_the_bit(tmp_path: Path) -> None:
    """Batch normalisation's counts too."""
    network = given(committed(tmp_path / "store", {"name": "resnet20"}), tmp_path, 3, 32, 32)
    made = export(network, "torch", tmp_path)
    assert same(torch.load(made.file, weights_only=True), dict(network.network.state_dict()))

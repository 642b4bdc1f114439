"""A network's tensors are found wherever they lie in a file and whatever was put before their names."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.pretrained import Note, WeightsError, bring, load
from dualprune.stages.networks.statedict import taken, wanted
from dualprune.stages.settings.training import Model
from tests.stages.networks.test_pretrained import saved

State = dict[str, Tensor]


def state(seed: int = 1, name: str = "digits_cnn") -> State:
    """A network's tensors with nothing at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(t.shape, generator=generator) for n, t in build_model(Model(name=name)).state_dict().items()}


def before(prefix: str, tensors: State) -> State:
    """With something put before each name."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def pruned(tensors: State) -> State:
    """By torch.nn.utils.prune: half of each weight."""
    network = build_model(Model(name="digits_cnn"))
    network.load_state_dict(tensors)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", 0.5)
    return dict(network.state_dict())


def averaged(tensors: State) -> State:
    """By torch's own averaging, of one network."""
    network = build_model(Model(name="digits_cnn"))
    network.load_state_dict(tensors)
    average = AveragedModel(network)
    average.update_parameters(network)
    return dict(average.state_dict())


def brought(data: bytes, folder: Path, name: str = "digits_cnn") -> tuple[State, list[Note]]:
    """What a network has of a file's bytes, by way of the store, and what was told of them."""
    (folder / "w.pth").write_bytes(data)
    store, notes = Folder(str(folder / "store")), list[Note]()
    settings = bring(Model(name=name, weights=str(folder / "w.pth")), store, notes.append)
    network = build_model(settings)
    load(settings, store, network)
    return dict(network.state_dict()), notes


WAYS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": torch.tensor(3)},
    "model_state_dict": lambda s: {
        "model_state_dict": s,
        "optimizer_state_dict": {"state": {0: {"exp_avg": s["0.bias"]}}},
    },
    "model": lambda s: {"model": s},
    "net": lambda s: {"net": s, "acc": 91.7, "epoch": 3},
    "a key of no name": lambda s: {"generator_of_noise": s, "iteration": 3},
    "two deep": lambda s: {"checkpoint": {"model": s}},
    "DataParallel": lambda s: before("module.", s),
    "torch.compile": lambda s: before("_orig_mod.", s),
    "DDP of a compiled one": lambda s: {"net": before("module._orig_mod.", s)},
    "a compiled DDP": lambda s: before("_orig_mod.module.", s),
    "a compiled part": lambda s: {
        n.replace("0.", "0._orig_mod.", 1) if n.startswith("0.") else n: t for n, t in s.items()
    },
    "FSDP": lambda s: before("_fsdp_wrapped_module.", s),
    "Lightning": lambda s: {"state_dict": before("model.", s), "pytorch-lightning_version": "2.5.0"},
    "Lightning, compiled": lambda s: {"state_dict": before("net._orig_mod.", s)},
    "averaged": averaged,
    "parameters": lambda s: {name: nn.Parameter(tensor) for name, tensor in s.items()},
    "double": lambda s: {name: tensor.double() for name, tensor in s.items()},
    "of one storage": lambda s: {
        n: torch.cat([t.flatten(), t.flatten()])[: t.numel()].view(t.shape) for n, t in s.items()
    },
    "strided otherwise": lambda s: {
        name: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor for name, tensor in s.items()
    },
}
"""Forms in which there is no doubt."""


@pytest.mark.parametrize("way", WAYS)
def test_what_is_clear_is_taken(way: str, tmp_path: Path) -> None:
    """To the bit, and without a word."""
    want = state()
    found, notes = brought(saved(WAYS[way](want)), tmp_path)
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in want.items())
    assert notes == []


def test_a_pruned_networks_masks_are_applied(tmp_path: Path) -> None:
    """And it is told to a train stage that its zeros do not stay."""
    want = state()
    masked = pruned(want)
    assert "0.weight_orig" in masked
    found, notes = brought(saved({"state_dict": before("module.", masked)}), tmp_path)
    for name, tensor in found.items():
        mask = masked.get(f"{name}_mask", torch.ones_like(tensor))
        assert torch.equal(tensor, want[name] * mask)
    (note,) = notes
    assert note.kind == "train"
    assert note.text.startswith("35,784 of the 71,568 weights in ")
    assert "(50.0 %) are zero, and a `train` stage does not hold them there" in note.text


def test_a_mask_that_is_none_is_not_applied(tmp_path: Path) -> None:
    """Values between 0 and 1 may mean anything, and so may a mask without its weights."""
    for change in ({"0.weight_mask": torch.full((16, 1, 3, 3), 0.5)}, {"0.weight_orig": None}):
        tensors = {n: t for n, t in (pruned(state()) | change).items() if t is not None}
        with pytest.raises(
            WeightsError, match=r"0\.weight is missing; it holds 0\.weight\S* .*which the network has not"
        ):
            brought(saved(tensors), tmp_path)


def test_of_several_networks_its_own_is_taken(tmp_path: Path) -> None:
    """Those under other keys are told of where they fit too."""
    want, other = state(1), state(2)
    found, notes = brought(saved({"model": want, "model_ema": other, "epoch": 1}), tmp_path)
    assert torch.equal(found["0.weight"], want["0.weight"])
    assert [note.kind for note in notes] == [None]
    assert "the weights under `model` are taken, not `model_ema`" in notes[0].text
    found, notes = brought(saved({"teacher": state(2, "resnet20"), "student": want}), tmp_path)
    assert torch.equal(found["0.weight"], want["0.weight"])
    assert notes == []


@pytest.mark.parametrize("keys", [("teacher", "student"), ("model", "net"), ("state_dict", "model_state_dict")])
def test_where_it_is_not_clear_it_is_asked(keys: tuple[str, str], tmp_path: Path) -> None:
    """Two of the same names and shapes under keys that say as much."""
    with pytest.raises(
        WeightsError, match=f"digits_cnn of 10 classes under `{keys[0]}` and `{keys[1]}`: save those that"
    ):
        brought(saved({keys[0]: state(1), keys[1]: state(2)}), tmp_path)


def test_what_is_beside_it_is_named(tmp_path: Path) -> None:
    """What training keeps in the same mapping, another's name before it or none."""
    want = state()
    loss = {"loss.weight": torch.ones(10), "metric.total": torch.tensor(3)}
    found, notes = brought(saved({"state_dict": before("model.", want) | loss}), tmp_path)
    assert torch.equal(found["0.weight"], want["0.weight"])
    (note,) = notes
    assert note.text.endswith("what is under `state_dict.model` is taken, and not loss.weight, metric.total")
    found, notes = brought(saved({"state_dict": before("model.", want) | before("ema.", state(2))}), tmp_path)
    assert torch.equal(found["0.weight"], want["0.weight"])
    (note,) = notes
    assert note.text.endswith("the weights under `state_dict.model` are taken, not `state_dict.ema`")
    with pytest.raises(WeightsError, match="digits_cnn of 10 classes under `student` and `teacher`: save"):
        brought(saved(before("student.", want) | before("teacher.", state(2))), tmp_path)
    with pytest.raises(WeightsError, match=r"it holds 0\.total_ops \(\), which the network has not"):
        brought(
            saved(want | {"0.total_ops": torch.tensor(3.0)}), tmp_path
        )  # in the network itself: not taken for granted


def test_what_the_file_holds_is_said(tmp_path: Path) -> None:
    """Beside what is missing, and where in the file."""
    with pytest.raises(WeightsError) as caught:
        brought(saved({"net": {"stem.weight": torch.ones(2, 3), "stem.bias": torch.ones(2)}, "epoch": 1}), tmp_path)
    assert str(caught.value).endswith(
        "w.pth, under `net`, does not fit digits_cnn of 10 classes: 0.weight, 0.bias, 2.weight, 2.bias and 4 more are "
        "missing; it holds stem.weight (2, 3), stem.bias (2,), which the network has not"
    )
    with pytest.raises(
        WeightsError, match=r"holds no state dict: tensors by name\. It holds epoch \(int\), arrays \(list\)$"
    ):
        brought(saved({"epoch": 3, "arrays": [torch.ones(1)]}), tmp_path)
    with pytest.raises(WeightsError, match=r"holds no state dict: tensors by name\. It holds a list$"):
        brought(saved([torch.ones(1)]), tmp_path)
    both = state() | {"module.0.weight": torch.zeros(16, 1, 3, 3)}  # one name, and two tensors
    with pytest.raises(WeightsError, match=r"it holds module\.0\.weight \(16, 1, 3, 3\), which the network has not"):
        brought(saved(both), tmp_path)


ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "fp8": (lambda t: t.to(torch.float8_e4m3fn), "dtype torch.float8_e4m3fn, layout torch.strided"),
    "fp8, other": (lambda t: t.to(torch.float8_e5m2), "dtype torch.float8_e5m2, layout torch.strided"),
    "quantized": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        r"dtype torch.qint8, layout torch.strided, quantized; save its dequantize\(\)",
    ),
    "sparse": (lambda t: t.to_sparse(), r"dtype torch.float32, layout torch.sparse_coo; save its to_dense\(\)"),
    "sparse rows": (lambda t: t.to_sparse_csr(), "dtype torch.float32, layout torch.sparse_csr"),
    "meta": (lambda t: t.to("meta"), "dtype torch.float32, layout torch.strided, on the device meta, without values"),
    "integers": (lambda t: t.to(torch.int8), "dtype torch.int8, layout torch.strided; floating-point"),
    "long integers": (lambda t: t.long(), "dtype torch.int64, layout torch.strided"),
    "unsigned": (lambda t: t.abs().to(torch.uint16), "dtype torch.uint16, layout torch.strided"),
    "truths": (lambda t: t > 0, "dtype torch.bool, layout torch.strided"),
    "complex": (lambda t: t.to(torch.complex64), "dtype torch.complex64, layout torch.strided"),
    "ragged": (
        lambda t: torch.nested.nested_tensor([t, t], layout=torch.jagged),
        # What torch reads depends on what else of it has been imported.
        r"9\.weight|8\.weight has shape of its own, and \(10, 128\) is needed|objects of the class torch\.nested",
    ),
    "infinite": (lambda t: t / 0, "values that are not finite"),
    "beyond fp32": (lambda t: t.double() * 1e300, r"values beyond 3\.4e\+38, the largest of torch\.float32"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", ODD)
def test_what_is_no_plain_number_is_refused(case: str, tmp_path: Path) -> None:
    """By the tensor's name, dtype and layout; here of the last linear layer."""
    change, words = ODD[case]
    tensors = state()
    tensors["8.weight"] = change(tensors["8.weight"])
    with pytest.raises(WeightsError, match=rf"8\.weight: {words}" if "ragged" not in case else words):
        brought(saved(tensors), tmp_path)
    if case in ("fp8", "integers", "infinite"):
        with pytest.raises(WeightsError, match=rf"8\.weight: {words}"):
            brought(safetensors.torch.save(tensors), tmp_path)


def test_all_of_a_kind_are_told_as_a_few() -> None:
    """And how many more there are."""
    tensors = {name: tensor.to(torch.int8) for name, tensor in state(name="resnet20").items()}
    needs = wanted(build_model(Model(name="resnet20"), device="meta"))
    with pytest.raises(
        WeightsError, match=r"^w can't be taken: conv1\.weight, .* and 93 more: dtype torch.int8, [^;]*;[^;]*$"
    ):
        taken(tensors, needs, "w", "resnet20")


def test_counts_of_batches_may_be_of_any_whole_numbers() -> None:
    """Some tools make all of a file's tensors floating."""
    needs = wanted(build_model(Model(name="resnet20"), device="meta"))
    tensors = {name: tensor.float() for name, tensor in build_model(Model(name="resnet20")).state_dict().items()}
    assert taken(tensors, needs, "w", "resnet20").tensors.keys() == needs.tensors.keys()
    tensors["bn1.num_batches_tracked"] = torch.tensor(0.5)
    with pytest.raises(WeightsError, match=r"bn1\.num_batches_tracked: values that are no integers"):
        taken(tensors, needs, "w", "resnet20")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_truths_that_a_network_keeps_are_taken(dtype: torch.dtype) -> None:
    """As they are, and as the numbers 0 and 1; no others."""
    network = nn.Linear(2, 2)
    network.register_buffer("kept", torch.tensor([True, False]))
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["kept"] = tensors["kept"].to(dtype)
    assert taken(tensors, wanted(network), "w", "linear").tensors.keys() == tensors.keys()
    if dtype != torch.bool:
        tensors["kept"][0] = 2
        with pytest.raises(WeightsError, match="kept: other values than 0 and 1"):
            taken(tensors, wanted(network), "w", "linear")


def test_a_file_within_itself_ends() -> None:
    """Mappings may hold themselves."""
    tensors: dict[str, Any] = {"net": state()}
    tensors["self"] = tensors
    needs = wanted(build_model(Model(name="digits_cnn"), device="meta"))
    found = taken(torch.load(io.BytesIO(saved(tensors)), weights_only=True), needs, "w", "digits_cnn")
    assert (found.at, found.others) == ("net", ())

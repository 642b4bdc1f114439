"""A batch tried before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.build import parameters_of, sketch
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.networks.pretrained import bring
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import StageSpec
from dualprune.stages.training.probe import probe

TABLE = {
    "splits": {
        "train": {
            "samples": 100,
            "format": "fields",
            "fields": {
                "x": {"kind": "npy", "dtype": "float32", "shape": [8]},
                "target": {"kind": "num", "dtype": "float32", "shape": []},
                "label": {"kind": "cls", "dtype": "int64", "shape": []},
                "input_ids": {"kind": "npy", "dtype": "int32", "shape": [], "longest": 30},
            },
        }
    },
    "labels": 4,
}
"""A manifest of numbers, a target, labels from 0 to 3, and tokens."""
PICTURES = {"splits": {"train": {"samples": 100, "shape": [1, 8, 8]}}, "labels": 10}
"""One of a grey picture and a label each."""
LOOK = """
import sys
from dualprune.stages.kinds.table import parse
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.probe import probe

given = {"model": {"name": "digits_cnn"}, "data": {"shards": "x"}}
spec = parse({"kind": "train", "train": {"epochs": 0, "lr": 1.0}, **given})
for channels in (1, 3):
    try:
        probe(spec, {"splits": {"train": {"samples": 100, "shape": [channels, 8, 8]}}, "labels": 10})
    except SpecError as error:
        print(error)
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""
Stage = Callable[..., StageSpec]


class Counted(nn.Module):
    """Embeds tokens, and gives its logits by name."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """[n, t] to `logits` [n, outputs]."""
        assert attention_mask is not None
        assert attention_mask.shape == input_ids.shape
        return {"hidden": input_ids, "logits": self.head(self.embedding(input_ids).mean(1))}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A function that makes settings of a stage with a small network."""
    monkeypatch.setitem(MODELS, "linear", lambda classes: nn.Linear(8, classes))
    monkeypatch.setitem(MODELS, "counted", Counted)

    def make(network: str, outputs: int, objective: Any) -> StageSpec:
        return parse(
            {
                "kind": "train",
                "model": {"name": network, "classes": outputs},
                "data": {"shards": "somewhere"},
                "objective": objective,
                "train": {"epochs": 1, "lr": 0.1},
            }
        )

    return make


@pytest.mark.parametrize(
    ("network", "outputs", "objective"),
    [
        ("linear", 1, "regress"),
        ("linear", 4, {"name": "classify", "args": {"inputs": ["x"]}}),
        ("counted", 4, "tokens"),
        (
            "counted",
            7,
            {"name": "classify", "args": {"inputs": {"input_ids": "input_ids", "attention_mask": "input_ids_mask"}}},
        ),
    ],
)
def test_what_fits_passes(stage: Stage, network: str, outputs: int, objective: Any) -> None:
    probe(stage(network, outputs, objective), TABLE)


@pytest.mark.parametrize(
    ("network", "outputs", "objective", "place", "said"),
    [
        ("linear", 3, "regress", "model", "outputs are [2, 3], and targets [2, 1]: one each is needed"),
        (
            "linear",
            2,
            {"name": "classify", "args": {"inputs": ["x"]}},
            "model",
            "the data has 4 classes, and linear 2; set model.classes to 4",
        ),
        (
            "linear",
            1,
            {"name": "regress", "args": {"inputs": ["y"]}},
            "objective.args.inputs",
            "the data has no field 'y'",
        ),
        (
            "linear",
            1,
            {"name": "regress", "args": {"target": "y"}},
            "objective.args.target",
            "the data has no field 'y'",
        ),
        ("linear", 4, "classify", "objective.args.inputs", "the data has no field 'image'; it has x, target, label"),
        ("counted", 3, "tokens", "model", "Target 3 is out of bounds"),
        (
            "digits_cnn",
            4,
            {"name": "classify", "args": {"inputs": ["x"]}},
            "model",
            "a batch of x float32 [2, 8], target",
        ),
    ],
)
def test_what_does_not_fit_is_told(
    stage: Stage, network: str, outputs: int, objective: Any, place: str, said: str
) -> None:
    """With the batch that it fails on, where the fault may be the network's."""
    with pytest.raises(SpecError) as caught:
        probe(stage(network, outputs, objective), TABLE)
    ((path, text),) = caught.value.problems
    assert ".".join(map(str, path)) == place
    assert said in text


def test_a_network_is_given_a_picture_without_torchs_slow_imports() -> None:
    """They take longer than the rest of a plan."""
    ended = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    refused, imported = ended.stdout.splitlines()
    assert "digits_cnn with classify fails on a batch of image float32 [2, 3, 8, 8] (samples, channels, " in refused
    assert imported == "[]"


def test_a_network_of_a_billion_weights_is_looked_at_without_its_memory(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which pictures it takes, in a process that has no room for its weights."""

    def wide(classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32_000), nn.Linear(32_000, 32_000), nn.Linear(32_000, classes))

    monkeypatch.setitem(MODELS, "wide", wide)
    spec, larger = stage("wide", 10, "classify"), {"splits": {"train": {"samples": 100, "shape": [1, 9, 9]}}}
    before = psutil.Process().memory_info().vms
    probe(spec, PICTURES)
    with pytest.raises(SpecError, match=r"wide with classify fails on a batch of image float32 \[2, 1, 9, 9\]"):
        probe(spec, larger)
    assert psutil.Process().memory_info().vms - before < 1 << 30


class Choosy(nn.Module):
    """Takes the pixels in an order that it keeps, and refuses numbers that are none, as distributions do."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(64))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        y: Tensor = self.linear(x.flatten(1)[:, self.get_buffer("order")])
        if not bool(y.isfinite().all()):
            raise ValueError("not finite")
        return y


def test_whatever_is_in_memory_plays_no_part(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is filled with NaN and the largest integers, as it may be."""
    monkeypatch.setitem(MODELS, "choosy", Choosy)
    torch.use_deterministic_algorithms(True)
    try:
        probe(stage("choosy", 10, "classify"), PICTURES)
    finally:
        torch.use_deterministic_algorithms(False)


class Changing(nn.Module):
    """Keeps something as it is called, can't be copied (torch's old weight_norm), and is counted as it is built."""

    built = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).built += 1
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, 10]."""
        y: Tensor = self.linear(x.flatten(1))
        self.register_buffer("last", y)
        return y


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_network_is_built_once_and_stays_as_it_was_built(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, copied: bool
) -> None:
    """For all that is asked of it before training, whatever it starts from; once more if it can't be copied."""
    name = f"changing, {copied}"

    def make(classes: int) -> nn.Module:
        network = Changing()
        if not copied:
            nn.utils.weight_norm(network.linear)
        return network

    monkeypatch.setattr(Changing, "built", 0)
    monkeypatch.setitem(MODELS, name, make)
    spec, store = stage(name, 10, "classify"), Folder(str(tmp_path / "store"))
    torch.save(make(10).state_dict(), tmp_path / "w.pth")
    before = parameters_of(spec.model)
    probe(spec, PICTURES)
    model = bring(spec.model.model_copy(update={"weights": str(tmp_path / "w.pth")}), store)
    assert parameters_of(model) == before == parameters(sketch(model))
    assert "last" not in dict(sketch(model).named_buffers())
    assert sketch(model).training
    assert Changing.built == (2 if copied else 3)


def test_the_number_of_classes_is_that_of_one_field(stage: Stage) -> None:
    """Of `label`: of others the manifest says nothing."""
    fields = {**TABLE["splits"]["train"]["fields"], "group": {"kind": "cls", "dtype": "int64", "shape": []}}  # type: ignore[index]
    table = {"splits": {"train": {**TABLE["splits"]["train"], "fields": fields}}, "labels": 9}  # type: ignore[index]
    probe(stage("linear", 4, {"name": "classify", "args": {"inputs": ["x"], "target": "group"}}), table)
    with pytest.raises(SpecError, match="the data has 9 classes, and linear 4"):
        probe(stage("linear", 4, {"name": "classify", "args": {"inputs": ["x"]}}), table)


def test_what_depends_on_values_is_let_pass_in_large_networks(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not run."""

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 10_000_000)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)[:, : int(torch.count_nonzero(x).item()) + 1]

    monkeypatch.setitem(MODELS, "large", lambda classes: Large())
    probe(stage("large", 1, "regress"), TABLE)


def test_maps_of_what_has_no_attention_are_refused() -> None:
    held = {"constraints": [{"set": "cardinality", "tensors": "*", "rate": 2}], "distill": {"weight": 0.5, "maps": 1}}
    rest = {"kind": "prune", "admm": None, "retrain": {"epochs": 1, "lr": 0.1}}
    spec = parse({"model": {"name": "digits_cnn"}, "data": {"shards": "x"}} | held | rest)
    with pytest.raises(SpecError, match=r"^distill\.maps: digits_cnn calls no `scaled_dot_product_attention`"):
        probe(spec, PICTURES)

"""Weights in a folder, in several files with an index, in part, and of tied tensors."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dualprune.stages.files.folder import Folder, canonical
from dualprune.stages.kinds.job import key_material
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.pretrained import Note, WeightsError, bring, load
from dualprune.stages.networks.weightsfile import read
from dualprune.stages.settings.training import Model, Partly
from tests.stages.networks.test_pretrained import saved, trained

State = dict[str, Tensor]


def split(folder: Path, state: State, form: Callable[[State], bytes], stem: str, end: str) -> Path:
    """Write weights into three files and an index, as transformers does; the index's path."""
    folder.mkdir(exist_ok=True)
    where = {name: f"{stem}-{1 + number % 3:05d}-of-00003{end}" for number, name in enumerate(state)}
    for file in set(where.values()):
        (folder / file).write_bytes(form({name: state[name] for name in state if where[name] == file}))
    index = folder / f"{stem}{end}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


def brought(weights: Any, store: Path, name: str = "resnet20", classes: int = 10) -> tuple[State, list[Note]]:
    """What a network has of weights that were put into a store, and what was told of them."""
    notes: list[Note] = []
    folder = Folder(str(store))
    settings = bring(Model(name=name, classes=classes, weights=weights), folder, notes.append)
    torch.manual_seed(0)
    network = build_model(settings)
    load(settings, folder, network)
    return dict(network.state_dict()), notes


def same(found: State, want: State) -> None:
    """To the bit."""
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)


@pytest.mark.parametrize(
    ("form", "stem", "end"),
    [(safetensors.torch.save, "model", ".safetensors"), (saved, "pytorch_model", ".bin")],
)
def test_several_files_with_an_index(form: Callable[[State], bytes], stem: str, end: str, tmp_path: Path) -> None:
    """By the index's path or the folder's: the same file in the store, which is all that ranks read."""
    state = trained()
    index = split(tmp_path / "w", state, form, stem, end)
    for weights in (str(index), str(tmp_path / "w"), f"{tmp_path}/w/"):
        same(brought(weights, tmp_path / "store")[0], state)
    assert len(list((tmp_path / "store" / "weights").iterdir())) == 1


@pytest.mark.parametrize(
    ("form", "name"), [(safetensors.torch.save, "model.safetensors"), (saved, "pytorch_model.bin")]
)
def test_a_folder_of_one_file(form: Callable[[State], bytes], name: str, tmp_path: Path) -> None:
    state = trained()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text("{}")
    (tmp_path / "w" / name).write_bytes(form(state))
    same(brought(str(tmp_path / "w"), tmp_path / "store")[0], state)


def test_a_folder_on_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    state, url = trained(), f"memory://{uuid.uuid4().hex}"
    split(tmp_path / "w", state, safetensors.torch.save, "model", ".safetensors")
    for file in (tmp_path / "w").iterdir():
        with fsspec.open(f"{url}/{file.name}", "wb") as there:
            there.write(file.read_bytes())
    same(brought(url, tmp_path / "store")[0], state)
    same(brought(f"{url}/model.safetensors.index.json", tmp_path / "store")[0], state)


INDEX: dict[str, tuple[str, str]] = {
    "no JSON": ("text", "is no index of weights: JSON with a `weight_map`"),
    "no map": ('{"metadata": {}}', "is no index of weights"),
    "a list": ("[1]", "is no index of weights"),
    "another folder": ('{"weight_map": {"a": "../secret.bin"}}', r"lists \.\./secret\.bin, which is not beside it"),
    "no such file": ('{"weight_map": {"a": "gone.safetensors"}}', r"w/gone\.safetensors can't be read: FileNotFound"),
    "no such tensor": (
        '{"weight_map": {"a": "model.safetensors", "conv1.weight": "model.safetensors"}}',
        r"lists a as in model\.safetensors, which has not: get both anew",
    ),
}


@pytest.mark.parametrize("case", INDEX)
def test_an_index_that_is_not_right(case: str, tmp_path: Path) -> None:
    text, words = INDEX[case]
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "model.safetensors").write_bytes(safetensors.torch.save(trained()))
    (tmp_path / "w" / "my.index.json").write_text(text)
    with pytest.raises(WeightsError, match=words):
        brought(str(tmp_path / "w" / "my.index.json"), tmp_path / "store")


def test_a_head_of_another_size_is_left_out(tmp_path: Path) -> None:
    """The rest is taken, the head begins as the seed says, and a plan says so."""
    state = trained(classes=100)
    del state["bn1.weight"]
    (tmp_path / "w.pth").write_bytes(saved({"state_dict": {f"module.{name}": t for name, t in state.items()}}))
    given = {"file": str(tmp_path / "w.pth"), "skip": ["linear.*", "bn1.weight"]}
    found, (note,) = brought(given, tmp_path / "store")
    torch.manual_seed(0)
    fresh = build_model(Model(name="resnet20")).state_dict()
    for name, tensor in found.items():
        assert torch.equal(
            tensor, fresh[name] if name in ("linear.weight", "linear.bias", "bn1.weight") else state[name]
        )
    assert note == Note(
        f"of {tmp_path}/w.pth, as `skip` says, bn1.weight (16,) (not in the file), "
        "linear.weight (10, 64) ((100, 64) in the file), linear.bias (10,) ((100,) in the file) "
        "are not taken, and stay as initialised"
    )
    with pytest.raises(WeightsError, match=r"does not fit resnet20 of 10 classes: bn1\.weight is missing$"):
        brought(given | {"skip": "linear.*"}, tmp_path / "store")


def test_what_only_the_file_has_can_be_left_out(tmp_path: Path) -> None:
    state = trained() | {"extra.weight": torch.ones(3)}
    (tmp_path / "w.pth").write_bytes(saved(state))
    found, notes = brought({"file": str(tmp_path / "w.pth"), "skip": "extra.*"}, tmp_path / "store")
    assert torch.equal(found["linear.weight"], state["linear.weight"])
    assert notes == []


@pytest.mark.parametrize(
    ("skip", "words"),
    [
        (
            ["linear.*", "fc.*"],
            r"'fc\.\*' of `skip` matches no tensor of \S+w\.pth or of resnet20 of 10 classes, which h",
        ),
        ("*", "`skip` leaves nothing of resnet20 of 10 classes to be taken of"),
    ],
)
def test_what_skips_nothing_or_everything_is_refused(skip: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved(trained()))
    with pytest.raises(WeightsError, match=words):
        brought({"file": str(tmp_path / "w.pth"), "skip": skip}, tmp_path / "store")


def test_what_is_left_out_is_part_of_the_key() -> None:
    """Where the file lies is not; a file that is taken whole has the key that it had before files could be in part."""

    def material(weights: Any) -> str:
        model = {"name": "resnet20", "weights": weights, "sha256": "0" * 64}
        spec = {"kind": "train", "model": model, "data": {"source": "cifar10"}, "train": {"epochs": 1, "lr": 0.1}}
        return canonical(key_material(TrainSpec.model_validate(spec), "digest", [])).decode()

    whole = material("w.pth")
    assert "skip" not in whole
    assert "w.pth" not in whole
    assert material({"file": "other.pth"}) == whole
    part = material({"file": "w.pth", "skip": "linear.*"})
    assert part != whole
    assert material({"file": "other.pth", "skip": ["linear.*"]}) == part
    assert material({"file": "w.pth", "skip": "conv1.*"}) != part


def test_settings_of_a_part_come_back_from_json() -> None:
    """As they go to ranks, and as manifests have them."""
    model = Model(name="resnet20", weights={"file": "w.pth", "skip": "linear.*"})  # type: ignore[arg-type]
    assert (model.weights, model.origin, model.file) == (Partly(file="w.pth", skip=("linear.*",)), "w.pth", "w.pth")
    assert Model.model_validate_json(model.model_dump_json()) == model
    assert Model(**model.model_dump(mode="json")) == model
    assert hash(model) == hash(Model(**model.model_dump()))
    assert Model(name="resnet20", weights={"file": "torchvision"}).weights == "torchvision"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"skip": "a"}, "file: is missing"),
        ({"file": "w.pth", "skip": []}, r"skip: a pattern is needed, or a list of them, not \[\]"),
        ({"file": "w.pth", "skip": 3}, "skip: a pattern is needed, or a list of them, not 3"),
        ({"file": "w.pth", "keep": "a"}, "keep: unknown setting"),
        ({"file": "s3:/b/w.pth", "skip": "a"}, "file: s3:/b/w.pth would be in a folder"),
        ({"file": "s3:/b/w.pth"}, "s3:/b/w.pth would be in a folder"),
        (3, r"a path or URL is needed, or \{file: ..., skip: PATTERN\}, not 3"),
    ],
)
def test_parts_that_are_said_wrongly(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Model(name="resnet20", weights=given)


class Twin(nn.Module):
    """An embedding that is the output layer too."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, classes, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("places", torch.arange(8), persistent=False)


@pytest.mark.parametrize("left_out", ["head.weight", "embed.weight", None])
@pytest.mark.parametrize("form", [saved, safetensors.torch.save])
def test_tied_weights_may_have_either_name(
    left_out: str | None, form: Callable[[State], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or both; before them may stand something else, and beside them buffers that the network makes by itself."""
    monkeypatch.setitem(MODELS, "twin", Twin)
    state = trained("twin") | {"places": torch.arange(8)}
    state["head.weight"] = state["embed.weight"].clone()
    for before in ("", "module.", "lm."):
        file = {f"{before}{name}": tensor for name, tensor in state.items() if name != left_out}
        (tmp_path / "w").write_bytes(form(file))
        found, _ = brought(str(tmp_path / "w"), tmp_path / "store", "twin")
        assert torch.equal(found["head.weight"], state["embed.weight"])
        assert torch.equal(found["embed.weight"], state["embed.weight"])


def test_tied_weights_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "twin", Twin)
    state = trained("twin")
    state["head.weight"] = state["embed.weight"] + 1
    (tmp_path / "w").write_bytes(saved(state))
    with pytest.raises(
        WeightsError, match=r"other values for head\.weight than for embed\.weight, which are one tensor"
    ):
        brought(str(tmp_path / "w"), tmp_path / "store", "twin")


def test_what_is_tied_is_left_out_by_any_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "twin", Twin)
    state = trained("twin", classes=7)
    (tmp_path / "w").write_bytes(saved(state))
    found, (note,) = brought({"file": str(tmp_path / "w"), "skip": "head.*"}, tmp_path / "store", "twin")
    assert torch.equal(found["middle.weight"], state["middle.weight"])
    assert "embed.weight (10, 6) ((7, 6) in the file), head.weight (10, 6) ((7, 6) in the file) are not" in note.text


def test_a_file_of_what_is_inside_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that others have trained, under a head of one's own."""

    def headed(classes: int) -> nn.Module:
        network = nn.Sequential()
        network.add_module("body", Twin(9))
        network.add_module("classifier", nn.Linear(6, classes))
        return network

    monkeypatch.setitem(MODELS, "twin", Twin)
    monkeypatch.setitem(MODELS, "headed", headed)
    state = trained("twin", classes=9)
    state["head.weight"] = state["embed.weight"]
    (tmp_path / "w").write_bytes(saved({"model": state}))
    given = {"file": str(tmp_path / "w"), "skip": "classifier.*"}
    found, (note,) = brought(given, tmp_path / "store", "headed")
    assert torch.equal(found["body.middle.weight"], state["middle.weight"])
    assert "classifier.weight (10, 6) (not in the file)" in note.text
    state["middle.weight"] = torch.ones(3)
    (tmp_path / "w").write_bytes(saved({"model": state}))
    with pytest.raises(WeightsError, match=r"does not fit headed of 10 classes: "):
        brought(given, tmp_path / "store", "headed")


def test_a_small_transformer_of_others(weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp16, with positions that newer networks make by themselves; as a whole, and under a head."""
    transformers = pytest.importorskip("transformers")
    folder = weights_folder / "minilm_l6"
    state = read((folder / "model.safetensors").read_bytes(), "model.safetensors")
    config = transformers.BertConfig(**json.loads((folder / "config.json").read_text()))
    for name, around in (("BertModel", ""), ("BertForSequenceClassification", "bert.")):
        monkeypatch.setitem(MODELS, name, lambda classes, name=name: getattr(transformers, name)(config))
        weights = str(folder) if not around else {"file": str(folder), "skip": "classifier.*"}
        found, _ = brought(weights, tmp_path / "store", name)
        own = {n.removeprefix(around): t for n, t in found.items() if not n.startswith("classifier.")}
        assert own.keys() == state.keys() - {"embeddings.position_ids"}
        assert all(torch.equal(tensor, state[n].float()) for n, tensor in own.items())


@pytest.mark.parametrize(
    ("name", "classes", "file"),
    [
        ("resnet20", 10, "resnet20-12fca82f.th"),
        ("resnet56", 10, "resnet56-4bfd9763.th"),
        ("squeezenet1_1", 1000, "squeezenet1_1-imagenet.pth"),
    ],
)
def test_files_that_others_have_published(
    name: str, classes: int, file: str, weights_folder: Path, tmp_path: Path
) -> None:
    """Whole, and without their last layer under one of another size."""
    state, _ = brought(str(weights_folder / file), tmp_path / "store", name, classes)
    head = "classifier.1.*" if name == "squeezenet1_1" else "linear.*"
    part, _ = brought({"file": str(weights_folder / file), "skip": head}, tmp_path / "store", name, 7)
    other = [n for n, t in state.items() if part[n].shape != t.shape]
    assert other == [head.replace("*", "weight"), head.replace("*", "bias")]
    assert all(torch.equal(part[n], t) for n, t in state.items() if n not in other)


@pytest.fixture
def weights_folder() -> Path:
    """Of files of weights as others have published them. Needs DUALPRUNE_DATA with weights/."""
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder that holds weights/")
    return Path(root) / "weights"

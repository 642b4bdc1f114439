"""Trained weights from elsewhere: read safely in every form they come in, refused if they don't fit, kept by hash."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.error
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import read_manifest
from dualprune.stages.data.make.builtin import cifar10
from dualprune.stages.data.read.memory import Batches
from dualprune.stages.data.shards import Split, write
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.pretrained import WeightsError, bring, load
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.training import Model
from dualprune.stages.training.evaluate import evaluate
from dualprune.stages.training.stage import run_stage
from tests.stages.conftest import CLASSIFY, MakeTask


def trained(model: str = "resnet20", classes: int = 10) -> dict[str, Tensor]:
    """A network's state with nothing at its initial value."""
    generator = torch.Generator().manual_seed(1)
    state = build_model(Model(name=model, classes=classes)).state_dict()
    return {n: torch.randn(t.shape, generator=generator).abs().to(t.dtype) for n, t in state.items()}


def saved(value: Any) -> bytes:
    """As torch saves it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As DataParallel names it."""
    return OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())


FORMS = {
    "bare.pth": saved,
    "wrapped.th": lambda state: saved({"state_dict": wrapped(state), "best_prec1": 91.73, "epoch": 3}),
    "model.pth": lambda state: saved({"model": state}),
    "file.safetensors": safetensors.torch.save,
    "old.th": lambda state: saved({n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}),
    "halves.pth": lambda state: saved({n: t.half() if t.is_floating_point() else t for n, t in state.items()}),
}
"""Files that hold the same network, but for the precision of the last."""


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_network(form: str, tmp_path: Path) -> None:
    """Names, values and buffers; what an old file does not have stays as it was."""
    state = trained()
    (tmp_path / form).write_bytes(FORMS[form](state))
    store = Folder(str(tmp_path / "store"))
    settings = bring(Model(name="resnet20", weights=str(tmp_path / form)), store)
    network = build_model(settings)
    load(settings, store, network)
    for name, tensor in network.state_dict().items():
        want = torch.tensor(0) if form == "old.th" and name.endswith("num_batches_tracked") else state[name]
        assert tensor.dtype == want.dtype
        torch.testing.assert_close(tensor, want, rtol=1e-3 if "halves" in form else 0, atol=1e-3 * ("halves" in form))


def test_networks_that_go_by_the_versions_of_their_modules_take_them(tmp_path: Path) -> None:
    """MNASNet takes tensors without a version for those of its first one, whose stem was of other widths."""
    name = "torchvision:mnasnet0_5"
    (tmp_path / "w.pth").write_bytes(saved(trained(name)))
    settings, store = Model(name=name, weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store"))
    settings, network = bring(settings, store), build_model(settings)
    load(settings, store, network)
    assert torch.equal(network.state_dict()["layers.0.weight"], trained(name)["layers.0.weight"])


def test_they_are_kept_by_the_hash_of_the_file(tmp_path: Path) -> None:
    """The same place with another file is another hash; ranks read what was there when it was planned."""
    file, store = tmp_path / "w.pth", Folder(str(tmp_path / "store"))
    first, second = trained(), {name: tensor + 1 for name, tensor in trained().items()}
    settings = []
    for state in (first, second):
        file.write_bytes(saved(state))
        settings.append(bring(Model(name="resnet20", weights=str(file)), store))
        assert settings[-1].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()
    for one, state in zip(settings, (first, second), strict=True):
        network = build_model(one)
        load(one, store, network)
        assert torch.equal(network.state_dict()["linear.weight"], state["linear.weight"])
        assert bring(one, store) == one  # the store has it, so the file need not be there
    damaged = Folder(store.url)
    damaged.write(f"weights/{settings[0].sha256}", b"x")
    with pytest.raises(WeightsError, match="not what was put there: delete it"):
        load(settings[0], damaged, build_model(settings[0]))


def test_a_hash_that_was_given_is_insisted_on(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved(trained()))
    with pytest.raises(WeightsError, match=rf"is [0-9a-f]{{64}}, and not {'0' * 64} as asked for"):
        bring(Model(name="resnet20", weights=str(tmp_path / "w.pth"), sha256="0" * 64), Folder(str(tmp_path / "s")))


def test_what_does_not_fit_is_told_with_names_and_shapes(tmp_path: Path) -> None:
    """The first few, and how many more."""
    state = trained("resnet20", classes=100)
    state["surplus"] = torch.zeros(1)
    del state["conv1.weight"]
    (tmp_path / "w.pth").write_bytes(saved(state))
    with pytest.raises(WeightsError) as caught:
        bring(Model(name="resnet20", weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store")))
    assert str(caught.value).endswith(
        "w.pth does not fit resnet20 of 10 classes: conv1.weight is missing; "
        "linear.weight has shape (100, 64), and (10, 64) is needed; linear.bias has shape (100,), and (10,) is needed; "
        "it holds surplus (1,), which the network has not"
    )
    state = trained("resnet20")
    state["linear.bias"][3] = torch.nan
    (tmp_path / "w.pth").write_bytes(saved(state))
    with pytest.raises(WeightsError, match=r"can't be taken: linear\.bias: values that are not finite$"):
        bring(Model(name="resnet20", weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store")))
    (tmp_path / "w.pth").write_bytes(saved(trained("resnet32")))
    with pytest.raises(WeightsError, match=r"holds layer1\.3\.\S+ \(\d.* and \d+ more, which the network has not$"):
        bring(Model(name="resnet20", weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store")))


def test_from_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept beside, and taken anew where the service tells that it is another file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"memory://{uuid.uuid4().hex}/w.pth"
    found = []
    for value in (0.0, 1.0):
        with fsspec.open(url, "wb") as file:
            file.write(saved({name: torch.full_like(t, value) for name, t in trained().items()}))
        found += [bring(Model(name="resnet20", weights=url), Folder(str(tmp_path / "store"))) for _ in range(2)]
    assert found[0] == found[1] != found[2] == found[3]
    with pytest.raises(WeightsError, match=r"nowhere\.pth can't be read: FileNotFoundError\(.*; with the file at hand"):
        bring(Model(name="resnet20", weights=f"{url}/nowhere.pth"), Folder(str(tmp_path / "store")))
    with pytest.raises(
        WeightsError, match=r"store is a folder, of weights; give a file, or a folder with one of model"
    ):
        bring(Model(name="resnet20", weights=str(tmp_path / "store")), Folder(str(tmp_path / "store")))
    with pytest.raises(WeightsError, match=r"nowhere\.pth can't be read: FileNotFoundError\([^;]*$"):
        bring(Model(name="resnet20", weights=str(tmp_path / "nowhere.pth")), Folder(str(tmp_path / "store")))


def test_torchvisions_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where torch keeps them, or a sentence on what to do."""
    from torchvision.models import get_model_weights

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(url: str, *_: Any, **__: Any) -> None:
        raise urllib.error.URLError(f"no route to {url}")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    store = Folder(str(tmp_path / "store"))
    for network in ("resnet20", "timm:resnet18", "mypkg.nets:resnet18"):
        with pytest.raises(
            WeightsError, match=f"torchvision has no weights for {network}; give `weights` a file's path"
        ):
            bring(Model(name=network, weights="torchvision"), store)
    with pytest.raises(
        WeightsError, match=r"for torchvision:resnet34 can't be downloaded \(.*no route to .*/resnet34-"
    ):
        bring(Model(name="torchvision:resnet34", classes=1000, weights="torchvision"), store)
    with pytest.raises(WeightsError, match="no weights V9 for squeezenet1_1; it has IMAGENET1K_V1"):
        bring(Model(name="squeezenet1_1", weights="torchvision:V9"), store)
    with pytest.raises(WeightsError, match=r"can't be downloaded \(.*no route to.*give `weights` the path of"):
        bring(Model(name="squeezenet1_1", classes=1000, weights="torchvision"), store)
    name = get_model_weights("squeezenet1_1").DEFAULT.url.rpartition("/")[2]
    (tmp_path / "checkpoints" / name).write_bytes(saved(trained("squeezenet1_1", classes=1000)))
    for weights in ("torchvision", "torchvision:IMAGENET1K_V1"):
        assert bring(Model(name="squeezenet1_1", classes=1000, weights=weights), store).sha256
    (tmp_path / "checkpoints" / name).write_bytes(saved({"a": torch.ones(9)})[:-100])
    with pytest.raises(WeightsError, match=rf"torchvision \(as kept in {tmp_path}/checkpoints\) is cut off"):
        bring(Model(name="squeezenet1_1", classes=1000, weights="torchvision"), store)
    (tmp_path / "checkpoints" / name).write_bytes(saved(trained("squeezenet1_1", classes=1000)))
    with pytest.raises(WeightsError, match=r"classifier\.1\.weight has shape \(1000, 512, 1, 1\)"):
        bring(Model(name="squeezenet1_1", weights="torchvision"), store)


def test_a_stage_of_no_epochs_is_the_pretrained_network(make_task: MakeTask, tmp_path: Path, one_rank: None) -> None:
    """Its artefact holds those weights, and says where they came from."""
    state = trained("digits_cnn")
    (tmp_path / "w.pth").write_bytes(saved(state))
    settings = bring(Model(name="digits_cnn", weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store")))
    spec = {"kind": "train", "model": settings.model_dump(), "train": {"epochs": 0, "lr": 0.1}}
    manifest = run_stage(make_task(spec), lambda event: None)
    assert manifest is not None
    assert manifest["metrics"]["steps"] == 0
    assert manifest["spec"]["model"] == {"name": "digits_cnn", "args": {}, "classes": 10, "source": None} | {
        "weights": str(tmp_path / "w.pth"),
        "sha256": hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest(),
    }
    network = artefact.load(Folder(str(tmp_path / "store" / "key"))).network
    assert all(torch.equal(network[name], tensor) for name, tensor in state.items())


def test_a_pruned_files_zeros_stay_as_a_plan_says(make_task: MakeTask, tmp_path: Path, one_rank: None) -> None:
    """Not in a train stage; in a prune stage at once that leaves no more weights."""
    state = trained("digits_cnn")
    state["6.weight"][:96] = 0
    (tmp_path / "w.pth").write_bytes(saved(state))
    settings = bring(Model(name="digits_cnn", weights=str(tmp_path / "w.pth")), Folder(str(tmp_path / "store")))
    phase = {"epochs": 1, "lr": 0.001}
    prune = {"constraints": [{"set": "cardinality", "tensors": "6.*", "rate": 4}], "admm": None, "retrain": phase}
    for kind, own, stay in (("train", {"train": phase}, False), ("prune", prune, True)):
        task = make_task({"kind": kind, "model": settings.model_dump(), **own}, kind)
        run_stage(task, lambda event: None)
        found = artefact.load(Folder(task.store) / task.key).network["6.weight"]
        assert (int(torch.count_nonzero(found[:96])) == 0) is stay
        assert not torch.equal(found, state["6.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "right"),
    [(20, 9173), *(pytest.param(*more, marks=pytest.mark.soak) for more in ((32, 9263), (56, 9339)))],
)
def test_published_accuracies(depth: int, right: int, cifar10_shards: str, tmp_path: Path) -> None:
    """Of the checkpoints of the CIFAR-10 ResNets, to the picture: our networks, our shards, our evaluation."""
    (file,) = (Path(os.environ["DUALPRUNE_DATA"]) / "weights").glob(f"resnet{depth}-*.th")
    store = Folder(str(tmp_path))
    settings = bring(Model(name=f"resnet{depth}", weights=str(file)), store)
    network = build_model(settings).eval()
    load(settings, store, network)
    imagenet = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    data = Data.model_validate({"source": "cifar10", "shift": 4, "flip": True} | imagenet)
    score = evaluate(
        network,
        CLASSIFY,
        Batches(
            Split(cifar10_shards, read_manifest(cifar10_shards)["splits"]["test"]),
            data,
            seed=0,
            device=torch.device("cpu"),
        ),
    )
    assert (score.values["accuracy"], score.samples) == (right / 100, 10_000)


@pytest.fixture(scope="module")
def cifar10_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All of the test pictures, and a few of the others. Needs DUALPRUNE_DATA with cifar10/ and weights/."""
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        pytest.skip("DUALPRUNE_DATA is not set: it names a folder that holds cifar10/ and weights/")
    url = str(tmp_path_factory.mktemp("cifar10"))
    splits = {name: list(samples) for name, samples in cifar10(str(Path(root) / "cifar10")).items()}
    write(url, "cifar10", {"train": splits["train"][:10], "val": splits["val"][:10], "test": splits["test"]})
    assert np.load(f"{url}/test-index.npy").shape == (10_000, 4)
    return url

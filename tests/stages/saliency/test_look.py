"""Networks of real artefacts beside each other: on the samples of a split, from their store alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.builtin import digits
from dualprune.stages.data.shards import write
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.look import Asked, chosen, evenly, look
from dualprune.stages.saliency.subject import Subject, subject

QUICK = Asked(samples=30, shown=4, classes=2, steps=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A store with digits, and a network of random weights and others made of it."""
    url = str(tmp_path_factory.mktemp("look") / "store")
    Folder(url).establish()
    write(f"{url}/data/digits", "digits", {split: list(all_)[:40] for split, all_ in digits(None).items()})
    torch.manual_seed(0)
    network = MODELS["digits_cnn"](10)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    other = {name: value.clone() for name, value in weights.items()}
    last = [name for name in other if name.endswith("weight")][-1]
    other[last].index_copy_(0, torch.tensor([0, 1]), other[last][[1, 0]])  # swaps two classes
    bias = last.replace("weight", "bias")
    other[bias].index_copy_(0, torch.tensor([0, 1]), other[bias][[1, 0]])
    for name, tensors in (("dense", weights), ("same", weights), ("swapped", other)):
        commit(url, name, tensors)
    return Folder(url)


def commit(url: str, name: str, weights: dict[str, Any]) -> None:
    """An artefact, as far as anybody looks here."""
    common = {"model": {"name": "digits_cnn"}, "data": {"source": "digits"}, "batch": 8}
    manifest = {
        "name": name,
        "key": name,
        "spec": parse({**common, "kind": "train", "train": {"epochs": 1, "lr": 0.01}}).model_dump(mode="json"),
        "data": digest(read_manifest(f"{url}/data/digits")),
        "parents": [],
        "tensors": {},
        "fixed": {},
        "metrics": {},
        "rows": [],
    }
    artefact.commit(Folder(f"{url}/{name}"), manifest, weights, {}, {})


def loaded(store: Folder, *names: str) -> list[Subject]:
    """Subjects by the names of their artefacts."""
    return [subject(store, name, name, "val") for name in names]


def test_which_samples() -> None:
    assert evenly(5, 10) == [0, 1, 2, 3, 4]
    assert evenly(100, 3) == [0, 50, 99]
    assert evenly(0, 3) == []
    assert chosen([], 10, 3) == [0, 4, 9]
    some = chosen([[7, 8, 9], [2]], 10, 4)
    assert {7, 2} <= set(some)
    assert len(some) == 4
    assert not {8, 9} & set(some)
    assert chosen([[1, 2]], 3, 9) == [0, 1, 2]


def test_the_same_network_twice(store: Folder) -> None:
    found = look(loaded(store, "dense", "same"), QUICK)
    beside = found.compared["same"]
    assert (beside.agreement, beside.changed, beside.better, beside.worse) == (1, (), 0, 0)
    assert beside.product is not None
    assert beside.product.mean == pytest.approx(1)
    assert beside.strength is not None
    assert beside.strength.mean == pytest.approx(1)
    assert [one.place for one in found.shown] == evenly(30, 4)
    for made in found.optimal.values():
        assert torch.equal(made["dense"].input, made["same"].input)


def test_changed_answers_are_found(store: Folder) -> None:
    """Of two networks that differ in the names of two classes."""
    subjects = loaded(store, "dense", "swapped")
    found = look(subjects, QUICK)
    numbers = evenly(len(subjects[0].split), 30)
    (part,) = subjects[0].split.evaluation([np.array(numbers)])
    with torch.no_grad():
        before, after = (one.network(part["image"]).argmax(1) for one in subjects)
    wanted = (before != after).nonzero()[:, 0].tolist()
    assert wanted
    beside = found.compared["swapped"]
    assert list(beside.changed) == wanted
    assert found.seen["dense"].numbers == tuple(numbers)
    assert beside.agreement == pytest.approx(1 - len(wanted) / 30)
    right = part["label"]
    assert beside.better == int(((after == right) & (before != right)).sum())
    assert beside.worse == int(((before == right) & (after != right)).sum())
    assert len({one.place for one in found.shown} & set(wanted)) >= min(2, len(wanted))
    assert torch.equal(found.seen["swapped"].classes, before), "maps of both are of what the dense one says"


def test_maps_are_of_the_sample_that_is_shown(store: Folder) -> None:
    (one,) = loaded(store, "dense")
    found = look([one], QUICK)
    assert found.compared == {}
    for shown in found.shown:
        number = found.seen["dense"].numbers[shown.place]
        (batch,) = one.split.evaluation([np.array([number])])
        assert np.array_equal(shown.input, batch["image"][0].numpy())
        x = batch["image"].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(one.network(x).max(), x)
        assert np.allclose(shown.products["dense"], (gradient * x).sum(1)[0].detach().numpy(), atol=1e-6)


def test_errors_name_the_network_and_the_layer(store: Folder) -> None:
    (one,) = loaded(store, "dense")

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(1))  # type: ignore[no-any-return]

    broken = Broken()
    broken.layer = nn.Linear(3, 3)
    wrong = Subject(**{**one.__dict__, "network": broken})
    with pytest.raises(NotShown, match=r"dense: no map can be made of it.*in layer layer, Linear"):
        look([wrong], QUICK)


def test_other_data(store: Folder) -> None:
    """The samples would not be the same."""
    subjects = loaded(store, "dense", "same")
    other = Subject(**{**subjects[1].__dict__, "data": "0" * 64})
    with pytest.raises(NotShown, match="same was made with other data than dense"):
        look([subjects[0], other], QUICK)


def test_data_that_is_gone(store: Folder) -> None:
    with pytest.raises(NotShown, match="say where it is"):
        subject(store, "dense", "dense", "val", data=f"{store.url}/nowhere")

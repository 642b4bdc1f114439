"""Edits of a network's shape: as JSON, on the device `meta`, and through artefacts to the stages after."""

from __future__ import annotations

import json
from typing import Literal

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.edits import EDITS, Edit, EditKind
from dualprune.stages.networks.structure import Structure, load
from dualprune.stages.training.stage import run_stage
from tests.stages.conftest import MakeTask, noisy_net


class Outputs(Edit):
    """A linear layer of so many outputs stands in the place of another."""

    edit: Literal["outputs"]
    count: int


def _outputs(edit: Outputs, network: nn.Module) -> None:
    old = network.get_submodule(edit.module)
    if not isinstance(old, nn.Linear):
        raise ValueError(f"{edit.module} is no linear layer")
    network.set_submodule(edit.module, nn.Linear(old.in_features, edit.count, device=old.weight.device))


@pytest.fixture
def structure(monkeypatch: pytest.MonkeyPatch) -> Structure:
    """The last layer of `noisy` with 12 outputs; such edits are in the table."""
    monkeypatch.setitem(EDITS, "outputs", EditKind(Outputs, _outputs))
    return Structure(edits=[Outputs(edit="outputs", module="5", count=12)])


def test_without_edits_a_network_stays_what_it_is() -> None:
    network, weights = noisy_net(10), noisy_net(10).state_dict()
    assert load(network, Structure(), weights) is network
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


def test_a_structure_survives_json(structure: Structure) -> None:
    there = structure.model_dump(mode="json")
    assert there == {"edits": [{"edit": "outputs", "module": "5", "count": 12}]}
    assert Structure.model_validate(json.loads(json.dumps(there))) == structure
    for wrong in ({"edit": "nosuch", "module": "5"}, {"module": "5"}, 3):
        with pytest.raises(ValidationError, match=r"there is no edit .*; known are .*outputs"):
            Structure.model_validate({"edits": [wrong]})
    with pytest.raises(ValidationError, match="count"):
        Structure.model_validate({"edits": [{"edit": "outputs", "module": "5"}]})


def test_shapes_are_known_without_memory_for_weights(structure: Structure) -> None:
    with torch.device("meta"):
        network = structure.apply(noisy_net(10))
    assert all(parameter.is_meta for parameter in network.parameters())
    assert network.get_parameter("5.weight").shape == (12, 24)


def test_an_edit_that_does_not_fit_is_refused(structure: Structure) -> None:
    wrong = structure.edits[0].model_copy(update={"module": "2"})
    with pytest.raises(ValueError, match="2 is no linear layer"):
        Structure(edits=[wrong]).apply(noisy_net(10))


def test_stages_after_it_have_their_parents_structure(
    structure: Structure, make_task: MakeTask, one_rank: None
) -> None:
    """From an artefact of a changed network a stage trains on, and so does one after that; another has none."""
    train = {"kind": "train", "train": {"epochs": 1, "lr": 0.01}}
    plain = make_task(train, key="plain")
    store = Folder(plain.store)
    assert run_stage(plain, lambda row: None) is not None
    first = artefact.load(store / "plain")
    assert "structure" not in first.manifest
    tensors = load(noisy_net(10), structure, structure.apply(noisy_net(10)).state_dict()).state_dict()
    changed = {**first.manifest, "structure": structure.model_dump(mode="json"), "rows": []}
    artefact.commit(store / "changed", changed, dict(tensors), {}, {})
    for key, parent in (("child", "changed"), ("grandchild", "child")):
        assert run_stage(make_task(train, key=key, parent=parent), lambda row: None) is not None
        found = artefact.load(store / key)
        assert artefact.structure(found) == structure
        assert artefact.network(found)(torch.zeros(2, 1, 8, 8)).shape == (2, 12)

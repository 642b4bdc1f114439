"""`dualprune.load`: a finished network by its artefact, or by its stage's name in a store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dualprune
from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.manifest import Damaged
from dualprune.stages.files.folder import Folder
from dualprune.stages.files.source import source_digest
from tests.stages.conftest import MakeTask
from tests.stages.training.test_stage import DENSE, made, prune


@pytest.mark.usefixtures("one_rank")
def test_a_network_by_place_and_by_name(make_task: MakeTask, tmp_path: Path) -> None:
    """The one that the stage left, ready to be used; what can't be found is told with what there is."""
    store = tmp_path / "store"
    dense = made(make_task(DENSE, "dense", model="digits_cnn"))
    small = made(make_task(prune(), "small", "dense", model="digits_cnn"))
    for network in (dualprune.load(str(store / "small")), dualprune.load(str(store), stage="small")):
        assert not network.training
        assert all(torch.equal(value, small.network[name]) for name, value in network.state_dict().items())
    assert dualprune.load(str(store), "dense").state_dict().keys() == dense.network.keys()
    with pytest.raises(FileNotFoundError, match=r"holds no finished stage 'smal'; there are dense, small$"):
        dualprune.load(str(store), "smal")
    with pytest.raises(FileNotFoundError, match="there is no finished artefact at"):
        dualprune.load(str(store))
    other = small.manifest | {"rows": []}
    artefact.commit(Folder(str(store / "other")), other, small.network, small.holds, small.duals)
    with pytest.raises(ValueError, match=r"holds several stages 'small'; load one by its folder: other, small$"):
        dualprune.load(str(store), "small")
    (store / "other" / "model.safetensors").write_bytes(b"")
    with pytest.raises(Damaged, match=r"model\.safetensors has changed"):
        dualprune.load(str(store / "other"))


NET = """
from torch import nn

def small(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))
"""


def test_a_network_of_ones_own(make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is built by its module, wherever Python finds that; another module of that name is refused."""
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net_of_a_user.py").write_text(NET)
    spec = make_task(DENSE, "dense", model="digits_cnn").spec.model_dump(mode="json")
    model = {"name": "net_of_a_user:small", "args": {"width": 5}, "source": source_digest("net_of_a_user")}
    weights = {"1.weight": torch.randn(5, 64), "1.bias": torch.randn(5)}
    manifest = {"name": "own", "spec": spec | {"model": model}, "rows": []}
    artefact.commit(Folder(str(tmp_path / "store" / "own")), manifest, weights, {}, {})
    network = dualprune.load(str(tmp_path / "store"), "own")
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    (tmp_path / "code" / "net_of_a_user.py").write_text(f"{NET}# changed\n")
    with pytest.raises(dualprune.SpecError, match="is not the code that its stage was planned with"):
        dualprune.load(str(tmp_path / "store"), "own")

"""Edits of a network's shape: what each changes, what it carries, and what it does not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.networks.edits import FewerHeads, Narrow, Remove, Resolution
from dualprune.stages.networks.structure import Structure

KEPT = [[0, 1], [3, 5]]


def _edited(network: nn.Module, *edits: Narrow | Remove | Resolution) -> nn.Module:
    return Structure(edits=[*edits]).apply(copy.deepcopy(network))


def test_positions_that_stay_are_those_of_the_tensors() -> None:
    network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6))
    narrow = Narrow(module="0", kept={"weight": [KEPT, None], "bias": [KEPT]}, attributes={"out_features": 3})
    found = _edited(network, narrow)
    assert torch.equal(found.get_parameter("0.weight"), network.get_parameter("0.weight")[[0, 3, 4]])
    assert torch.equal(found.get_parameter("0.bias"), network.get_parameter("0.bias")[[0, 3, 4]])
    assert found[0].out_features == 3  # type: ignore[index]
    buffers = _edited(network, Narrow(module="1", kept={"running_mean": [KEPT]}))
    assert not isinstance(buffers[1].running_mean, nn.Parameter)  # type: ignore[index]
    assert buffers[1].running_mean.shape == (3,)  # type: ignore[index]


def test_tensors_of_its_names_are_carried_along() -> None:
    structure = Structure(edits=[Narrow(module="0", kept={"weight": [KEPT, None]}), Remove(module="1")])
    given = {"0.weight": torch.arange(18.0).view(6, 3), "1.weight": torch.zeros(6), "2.weight": torch.zeros(2)}
    found = structure.carry(given)
    assert found["0.weight"].tolist() == [[0, 1, 2], [9, 10, 11], [12, 13, 14]]
    assert list(found) == ["0.weight", "2.weight"]
    own = Structure(edits=[Narrow(module="", kept={"weight": [KEPT, None]})])
    assert own.carry({"weight": torch.zeros(6, 3)})["weight"].shape == (3, 3)


def test_what_is_not_trained_stays_so_and_shapes_are_known_without_memory() -> None:
    with torch.device("meta"):
        network = nn.Linear(3, 6).requires_grad_(False)
    found = _edited(network, Narrow(module="", kept={"weight": [KEPT, None]}))
    weight = found.get_parameter("weight")
    assert weight.is_meta
    assert not weight.requires_grad
    assert weight.shape == (3, 3)


def test_tied_tensors_stay_tied() -> None:
    network = nn.ModuleDict({"words": nn.Embedding(20, 6), "out": nn.Linear(6, 20, bias=False)})
    network["out"].weight = network["words"].weight  # type: ignore[assignment]
    found = _edited(network, Narrow(module="words", kept={"weight": [None, KEPT]}))
    assert found.get_parameter("words.weight") is found.get_parameter("out.weight")
    assert found.get_parameter("out.weight").shape == (20, 3)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Narrow(module="0", kept={"weight": [[[0, 7]], None]}), "0.weight: positions to 7 of 6"),
        (Narrow(module="0", kept={"weight": [[], None]}), "0.weight: positions to 0 of 6"),
        (Narrow(module="0", kept={"weight": [KEPT]}), "0.weight: 1 dimensions of 2"),
        (Narrow(module="0", kept={"scale": [KEPT]}), "0 has no tensor scale"),
        (Narrow(module="0", attributes={"heads": 3}), "0 has no number heads"),
        (Remove(module="nosuch"), "there is no module 'nosuch'"),
    ],
)
def test_what_does_not_fit_is_refused(edit: Narrow | Remove, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _edited(nn.Sequential(nn.Linear(3, 6)), edit)


def _masks() -> dict[str, dict[str, Tensor | bool]]:
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    return {
        "none": {},
        "bool": {"attn_mask": later},
        "float": {"attn_mask": torch.randn(5, 5)},
        "each head": {"attn_mask": torch.randn(2 * 4, 5, 5)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": later, "key_padding_mask": padding},
        "causal": {"attn_mask": later, "is_causal": True},
    }


@pytest.mark.parametrize("masks", _masks())
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_with_all_heads_is_torchs(masks: str, batch_first: bool) -> None:
    network = nn.MultiheadAttention(8, 4, batch_first=batch_first).eval()
    found = _edited(network, Narrow(module=""))
    assert isinstance(found, FewerHeads)
    x = torch.randn(2, 5, 8) if batch_first else torch.randn(5, 2, 8)
    given = _masks()[masks]
    wanted, _ = network(x, x, x, need_weights=False, **given)
    torch.testing.assert_close(found(x, x, x, need_weights=False, **given)[0], wanted)
    for average in (True, False):
        weights = {"average_attn_weights": average, **given}
        torch.testing.assert_close(found(x, x, x, **weights), network(x, x, x, **weights))


def _without_head(network: nn.MultiheadAttention, head: int) -> Narrow:
    width = network.head_dim
    rows = [at for at in range(network.embed_dim) if at // width != head]
    each = [[at, at + 1] for part in range(3) for row in rows for at in [part * network.embed_dim + row]]
    kept = {"in_proj_weight": [each, None], "in_proj_bias": [each]}
    edit = {"num_heads": network.num_heads - 1}
    return Narrow(module="", kept=kept, attributes=edit)  # type: ignore[arg-type]


def test_attention_without_a_head_is_torchs_with_one_that_gives_nothing() -> None:
    network = nn.MultiheadAttention(8, 4, batch_first=True).eval()
    nn.init.normal_(network.in_proj_bias)
    head = _without_head(network, 1)
    columns = [[at, at + 1] for at in range(8) if at // 2 != 1]
    found = _edited(network, head, Narrow(module="out_proj", kept={"weight": [None, columns]}))
    with torch.no_grad():
        network.out_proj.weight[:, 2:4] = 0
    x, y = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    torch.testing.assert_close(found(x, y, y, need_weights=False)[0], network(x, y, y, need_weights=False)[0])
    torch.testing.assert_close(found(x, y, y)[0], network(x, y, y)[0])


def test_an_encoder_layer_of_torch_takes_attention_with_fewer_heads() -> None:
    """In evaluation without gradients it would pass the code of its attention by, and read its weights itself."""
    network = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True).eval()
    inner = network.self_attn
    head = _without_head(inner, 1).model_copy(update={"module": "self_attn"})
    columns = [[at, at + 1] for at in range(8) if at // 2 != 1]
    found = _edited(network, head, Narrow(module="self_attn.out_proj", kept={"weight": [None, columns]}))
    with torch.no_grad():
        inner.out_proj.weight[:, 2:4] = 0
        x = torch.randn(2, 5, 8)
        torch.testing.assert_close(found(x), network(x))


def test_pictures_are_brought_to_the_size_before_anything_else() -> None:
    network = nn.Flatten()
    found = _edited(network, Resolution(module="", size=4))
    assert found(torch.zeros(2, 3, 8, 8)).shape == (2, 48)
    same = torch.randn(2, 3, 4, 4)
    assert torch.equal(found(same), same.flatten(1))


def test_a_module_that_is_gone_gives_what_it_is_given() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    x = torch.randn(2, 3)
    assert torch.equal(_edited(network, Remove(module="0"))(x), x.relu())

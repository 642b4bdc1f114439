"""Gradients of scores by inputs: those of networks whose gradients are known."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from dualprune.stages.saliency.inputs import found
from dualprune.stages.saliency.maps import maps
from tests.stages.saliency.common import MOTIF, Finder, Reader, aimed, linear, sequences


def test_a_linear_network_of_pictures() -> None:
    """The gradient of a class is its row of weights, whatever the picture."""
    network, objective = linear(2 * 4 * 4), aimed(inputs=["image"])
    batch = {"image": torch.randn(5, 2, 4, 4), "label": torch.zeros(5, dtype=torch.long)}
    of = found(network, objective, batch)
    assert (of.field, of.kind, of.axis, of.looked_up) == ("image", "picture", 1, False)
    classes = torch.tensor([0, 1, 2, 0, 1])
    made = maps(network, objective, batch, of, classes)
    rows = network[1].weight[classes].view(5, 2, 4, 4)  # type: ignore[index, union-attr]
    assert torch.allclose(made.gradient, rows)
    assert torch.allclose(made.product, (rows * batch["image"]).sum(1))
    assert torch.allclose(made.strength, rows.abs().amax(1))
    assert torch.allclose(made.scores, network(batch["image"]))
    # Gradient x input of a linear network adds up to the score without its bias.
    scores = made.scores.gather(1, classes[:, None])[:, 0] - network[1].bias[classes]  # type: ignore[index, union-attr]
    assert torch.allclose(made.product.sum((1, 2)), scores, atol=1e-6)
    assert all(weight.grad is None for weight in network.parameters())


def test_letters_that_the_network_makes_itself() -> None:
    """Numbers of bases have no gradient; `one_hot` of them has: the planted motif has all of the map."""
    bases, places = sequences()
    network, objective = Finder(), aimed(classes=2)
    batch = {"x": bases, "label": torch.ones(len(bases), dtype=torch.long)}
    of = found(network, objective, batch)
    assert (of.field, of.kind, of.axis, of.looked_up, of.table) == ("x", "sequence", 2, True, None)
    made = maps(network, objective, batch, of, torch.ones(len(bases), dtype=torch.long))
    for row, place in enumerate(places):
        wanted = torch.zeros(bases.shape[1])
        wanted[place : place + len(MOTIF)] = 1
        assert torch.equal(made.product[row], wanted)
        assert torch.equal(made.gradient[row, place : place + len(MOTIF)], F.one_hot(torch.tensor(MOTIF), 4).float())


def test_letters_that_are_given() -> None:
    """The same sequences as letters [n, 4, t] have the same maps."""
    bases, _ = sequences()
    label = torch.ones(len(bases), dtype=torch.long)
    letters = F.one_hot(bases, 4).float().transpose(1, 2)
    made = []
    for network, x in ((Finder(), bases), (Finder(letters=False), letters)):
        batch, objective = {"x": x, "label": label}, aimed(classes=2)
        made.append(maps(network, objective, batch, found(network, objective, batch), label))
    assert torch.equal(made[0].product, made[1].product)
    assert torch.equal(made[0].strength, made[1].strength)


def test_an_embedding() -> None:
    """Gradient by what tokens are looked up as: as a hook on the layer finds it."""
    network, objective = Reader().eval(), aimed()
    tokens = torch.randint(0, 7, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = {"x": tokens, "label": torch.zeros(4, dtype=torch.long)}
    of = found(network, objective, batch)
    assert (of.kind, of.axis, of.looked_up) == ("tokens", 2, True)
    assert of.table is not None
    assert of.table.shape == (7, 5)
    classes = torch.tensor([0, 1, 2, 1])
    made = maps(network, objective, batch, of, classes)
    kept = []
    network.table.register_forward_hook(lambda _, __, output: kept.append(output.detach().requires_grad_()) or kept[0])
    scores = network(tokens)
    assert torch.allclose(made.scores, scores)
    (wanted,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), kept[0])
    assert torch.allclose(made.gradient, wanted, atol=1e-6)
    assert torch.allclose(made.product, (wanted * kept[0]).sum(2), atol=1e-6)


def test_a_network_that_changes_its_input_in_place() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3, bias=False)).eval()
    batch = {"image": torch.randn(2, 1, 4, 4), "label": torch.zeros(2, dtype=torch.long)}
    before = batch["image"].clone()
    objective = aimed(inputs=["image"])
    of = found(network, objective, batch)
    made = maps(network, objective, batch, of, torch.tensor([0, 2]))
    wanted = network[2].weight[[0, 2]].view(2, 1, 4, 4) * (before > 0)  # type: ignore[index]
    assert torch.allclose(made.gradient, wanted)
    assert torch.equal(batch["image"], before)
    assert torch.equal(made.input, before)

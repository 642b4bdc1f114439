"""Veils of what is closed, on networks, against the same networks cut."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dualprune.stages.coupling.cut import cut
from dualprune.stages.engine.veil import veil
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.edits import EDITS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import Pattern, every
from dualprune.stages.solver.searching import factors, plain
from tests.stages.solver.test_closing import INPUTS


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("training", [False, True])
def test_a_veiled_network_computes_what_one_that_is_cut_does(name: str, training: bool) -> None:
    """Also with statistics of the batch."""
    torch.manual_seed(0)
    network, x = MODELS[name](10).train(training), torch.randn(16, *INPUTS[name][1:])
    for module in network.modules():
        if isinstance(module, nn.Dropout):  # draws other numbers for other widths
            module.eval()
    given = ((torch.zeros(INPUTS[name]),), {})
    of = plain([every(Pattern(tensors="*"))], copy.deepcopy(network).eval(), given, "macs", ())
    draw = np.random.default_rng(0)
    vector = of.begin(0.8) * draw.uniform(0.4, 1.0, len(of.most()))
    vector[len(of.closing.spaces) :] = 0.8
    closed = of.closed(of.shape(vector))
    small = copy.deepcopy(network)
    for edit in cut(copy.deepcopy(network).eval(), *given).edits({n: ~gone for n, gone in closed.gone.items()}):
        EDITS[edit.edit].apply(edit, small)
    veil(network, factors(closed, torch.device("cpu")))
    out = network(x).detach()
    assert torch.allclose(out, small(x), atol=1e-4 * float(out.abs().max()))


def test_a_closed_block_passes_on_its_input() -> None:
    """Whatever else is closed in it."""
    torch.manual_seed(0)
    network, x = MODELS["resnet20"](10).eval(), torch.randn(INPUTS["resnet20"])
    of = plain([every(Pattern(tensors="*"))], network, ((torch.zeros_like(x),), {}), "macs", ())
    vector = of.begin(0.8)
    vector[len(of.closing.spaces)] = 0.0
    shape = of.shape(vector)
    (path,) = shape.shut
    veil(network, factors(of.closed(shape), torch.device("cpu")))
    seen: list[bool] = []
    block = network.get_submodule(path)
    block.register_forward_hook(lambda _, given, out: seen.append(torch.equal(given[0], out)))
    network(x)
    assert seen == [True]


def test_sizes_of_pictures_are_of_networks_that_are_given_square_ones() -> None:
    constraints = [every(Pattern(tensors="*"))]
    wide = ((torch.zeros(2, 3, 32, 48),), {})
    with pytest.raises(SpecError, match=r"^resolutions: pictures of 32 x 48 are not square"):
        plain(constraints, MODELS["resnet20"](10).eval(), wide, "macs", [24])
    plain(constraints, MODELS["resnet20"](10).eval(), wide, "macs", ())

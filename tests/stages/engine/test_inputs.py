"""Mean squares of layers' inputs: against torch, over steps, micro-batches, passes and ZeRO stages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.engine.inputs import Inputs, NeverCalled, refusal
from dualprune.stages.engine.weighing import DECAY
from tests.stages.conftest import PLACES, MakeEngine, step

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "linear of sequences": (nn.Linear(6, 4), (5, 3, 6)),
    "linear of one sample": (nn.Linear(6, 4), (6,)),
    "padded": (nn.Conv2d(3, 4, 3, padding=1), (5, 3, 7, 8)),
    "strided, dilated": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), dilation=(1, 2), padding=(1, 0)), (5, 3, 9, 8)),
    "in groups": (nn.Conv2d(4, 6, 3, groups=2), (5, 4, 7, 8)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), (5, 4, 7, 8)),
    "same": (nn.Conv2d(3, 4, (4, 3), padding="same"), (5, 3, 7, 8)),
    "circular": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), (5, 3, 7, 8)),
    "reflected": (nn.Conv1d(3, 4, 3, padding=1, padding_mode="reflect"), (5, 3, 7)),
    "one side": (nn.Conv1d(3, 4, 3, stride=2), (5, 3, 8)),
    "three sides": (nn.Conv3d(2, 4, (2, 3, 1), padding=1), (5, 2, 4, 5, 3)),
    "one picture": (nn.Conv2d(3, 4, 3), (3, 7, 8)),
}


def inputs(layer: nn.Module, world: int = 1) -> Inputs:
    """What looks at one layer, `w`, at each step."""
    found = Inputs({"w": layer}, world, torch.device("cpu"))
    found.following = True
    return found


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
def test_they_are_what_each_weight_is_multiplied_by(one_rank: None, name: str) -> None:
    """The gradient of the sum of what a layer makes of squares is, for each weight, the sum of its inputs' squares. The
    order of pictures in memory is of no account."""
    layer, shape = LAYERS[name]
    of, x = inputs(layer), torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    with of.looking(True):
        layer(input=x)
        if x.ndim == 4:
            layer(x.to(memory_format=torch.channels_last))
    of.close()
    (expected,) = torch.autograd.grad(layer(x**2).sum(), layer.weight)
    outputs = layer(x)
    rows = outputs.numel() / layer.weight.shape[0]
    torch.testing.assert_close(of.squares("w", layer.weight.shape), expected / rows)
    assert refusal(layer) is None


def test_they_are_a_running_average_of_what_counts(one_rank: None) -> None:
    """Steps are weighed by how long ago they are, micro-batches of one alike; nothing else is looked at."""
    layer, generator = nn.Linear(6, 4), torch.Generator().manual_seed(0)
    of, ranks, steps = inputs(layer), [inputs(nn.Linear(6, 4), world=2) for _ in range(2)], []
    for _ in range(4):
        x = torch.randn(8, 6, generator=generator)
        steps.append(x.square().mean(0))
        for part in x.split(3):
            with of.looking(True):
                layer(part)
            with of.looking(False):
                layer(100 * part)
            layer(100 * part)
        for one, part in zip(ranks, x.split(5), strict=True):
            with one.looking(True):
                one.layers["w"](part)
        for one in (of, *ranks):
            one.close_step()
    of.following = False
    with of.looking(True):
        layer(x)
    of.close_step()
    expected = sum(DECAY ** (3 - n) * x for n, x in enumerate(steps)) / sum(DECAY**n for n in range(4))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(of.squares("w", torch.Size([4, 6])), expected.expand(4, 6))
    torch.testing.assert_close((ranks[0].sums["w"] + ranks[1].sums["w"]) / 2, of.sums["w"])


def test_padding_counts_nowhere(one_rank: None) -> None:
    layer, where = nn.Linear(6, 4), torch.tensor([[True, True, False], [True, False, False]])
    of, x = inputs(layer), torch.ones(2, 3, 6)
    x[~where] = 1000.0
    with of.looking(True, where):
        layer(x)
    assert torch.equal(of.squares("w", torch.Size([4, 6])), torch.ones(4, 6))


def test_layers_that_have_no_input_for_each_weight() -> None:
    attention = nn.MultiheadAttention(4, 2)
    assert "never calls it" in str(refusal(attention.out_proj))
    for layer in (attention, nn.Embedding(3, 4), nn.ConvTranspose2d(3, 4, 3), nn.LSTM(3, 4), nn.Bilinear(2, 3, 4)):
        assert refusal(layer) == f"type {type(layer).__name__}"


def test_a_layer_that_was_never_called_is_told(one_rank: None) -> None:
    with pytest.raises(NeverCalled, match=r"^w: its layer was never called in training"):
        inputs(nn.Linear(6, 4)).squares("w", torch.Size([4, 6]))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("zero", "offload"), PLACES)
def test_of_an_engine(make_engine: MakeEngine, zero: int, offload: bool, precision: str) -> None:
    """Wherever its state is: they are a rank's own, and are what came into its layers."""
    engine = make_engine(weighed="activation", zero=zero, offload=offload, precision=precision, accumulate=2)
    engine.weigh(True)
    seen: list[Tensor] = []
    engine.module.get_submodule("3").register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().float()))
    engine.module.train()
    for number in range(2):
        with engine.inputs.looking(True):
            step(engine, number)
    expected = DECAY * torch.cat(seen[:2]).square().sum(0) + torch.cat(seen[2:]).square().sum(0)
    found = engine.get("3.weight", "activation")
    torch.testing.assert_close(found, (expected / (12 * (1 + DECAY))).expand(3, 5))
    x = [torch.randn(12, 6, generator=torch.Generator().manual_seed(number)).square().sum(0) for number in range(2)]
    torch.testing.assert_close(engine.get("0.weight", "activation")[1], (DECAY * x[0] + x[1]) / (12 * (1 + DECAY)))
    assert engine.kept("3.weight") == ["target", "marks"]
    assert {"inputs/0.weight", "inputs/3.weight"} <= set(engine.own)
    assert not any(name.startswith("inputs") for name, _ in engine.tensors())

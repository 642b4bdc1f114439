"""The engine: whole fp32 tensors in and out by name, and the same training under every ZeRO stage."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dualprune.stages.engine.engine import Engine, emulates_bf16, parameter_groups
from dualprune.stages.objectives.fields import channels_last
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.training import Optimizer
from tests.stages.conftest import PLACES, MakeEngine, small_net, step

ZERO = pytest.mark.parametrize("zero", [0, 1, 2, 3])
SHAPES = {name: p.shape for name, p in small_net().named_parameters()}
OPTIMIZERS = {
    "sgd": Optimizer(name="sgd", momentum=0.9, weight_decay=0.01),
    "adam": Optimizer(name="adam", weight_decay=0.01),
    "adamw": Optimizer(name="adamw", weight_decay=0.01, clip=0.5),
}


class Odd(nn.Module):
    """A network with a parameter that is a number alone, and with others that lie otherwise than row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.first = nn.Conv2d(1, 4, (2, 3)).to(memory_format=torch.channels_last)
        self.last = nn.Linear(4, 3)
        self.last.weight = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).t())

    def forward(self, x: Tensor) -> Tensor:
        """Of [n, 6]."""
        found: Tensor = self.scale * self.last(self.first(x.view(-1, 1, 2, 3)).flatten(1))
        return found


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_parameters_of_any_layout_and_of_no_dimension_are_trained(make_engine: MakeEngine, zero: int) -> None:
    """And all of their state comes out by name."""
    network = Odd()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    engine = make_engine(network, {"first.weight", "last.weight"}, zero=zero, optimizer=OPTIMIZERS["adam"])
    assert all(torch.equal(engine.get(name), value) for name, value in before.items())
    step(engine, 0)
    assert not any(torch.equal(engine.get(name), value) for name, value in before.items())
    assert engine.inner_states() == ["exp_avg", "exp_avg_sq"]
    assert all(engine.get(name, "exp_avg").shape == value.shape for name, value in before.items())


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_a_parameter_of_no_dimension_is_clipped_with_the_rest(make_engine: MakeEngine, zero: int) -> None:
    moved = {}
    for clip in (0.5, 0.25):
        torch.manual_seed(0)
        engine = make_engine(Odd(), set(), zero=zero, optimizer=Optimizer(name="sgd", momentum=0.0, clip=clip))
        before = {name: engine.get(name) for name in engine.parameters}
        step(engine, 0, lr=1.0)
        moved[clip] = {name: engine.get(name) - value for name, value in before.items()}
        norm = torch.stack([value.norm() for value in moved[clip].values()]).norm()
        assert float(norm) == pytest.approx(clip, rel=1e-4)
    for name, value in moved[0.5].items():
        torch.testing.assert_close(value, 2 * moved[0.25][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_an_engine_that_is_closed_does_nothing_more(one_rank: None, zero: int) -> None:
    """However late Python collects it: DeepSpeed's would spoil a trace of the next stage's network."""
    engine = Engine(small_net(), {"0.weight"}, set(), Optimizer(), "fp32", EngineSettings(zero=zero))
    engine.close()
    met: list[str] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            met.append(str(func))
            return func(*args, **(kwargs or {}))

    gone = weakref.ref(engine.engine)
    del engine
    with Watching():
        gc.collect()
    assert gone() is None
    assert not met


def test_what_cannot_be_shared_out_is_told(make_engine: MakeEngine) -> None:
    with pytest.raises(
        SpecError, match=r"engine.zero: ZeRO 3 can't share out .* a number alone: scale; take `zero: 2`"
    ):
        make_engine(Odd(), {"first.weight"}, zero=3)


def values(name: str, seed: int) -> Tensor:
    """Random values of a parameter's shape."""
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))


def trained(engine: Engine, steps: int = 6) -> dict[str, Tensor]:
    """Everything that an engine holds after steps under a penalty and then under masks; what they freeze stays put."""
    for seed, name in enumerate(sorted(engine.masked)):
        engine.set(name, values(name, seed), "target")
        engine.set(name, (values(name, 10 + seed) > 0).float(), "mask")
    engine.optimizer.rho = 0.3
    before: dict[str, Tensor] = {}
    for number in range(steps):
        if number == steps // 2:
            engine.optimizer.masking = True
            engine.optimizer.reset_inner()
            before = {name: engine.get(name) for name in engine.masked}
        step(engine, number)
    for name, was in before.items():
        assert torch.equal(engine.get(name) == was, engine.get(name, "mask") == 0), name
    state = dict(engine.tensors())
    for key in engine.inner_states():
        state |= {f"{key}/{name}": engine.get(name, key) for name in engine.parameters}
    return state


@ZERO
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parameters_round_trip(make_engine: MakeEngine, zero: int, precision: str) -> None:
    """In fp32 to the bit, whatever forward and backward are in, and what comes out is a copy."""
    engine = make_engine(zero=zero, precision=precision)
    given = {name: values(name, seed) for seed, name in enumerate(SHAPES)}
    for name, value in given.items():
        engine.set(name, value)
    for name, value in given.items():
        got = engine.get(name)
        assert got.dtype == torch.float32
        assert torch.equal(got, value), name
        got.zero_()
        assert torch.equal(engine.get(name), value)


@ZERO
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_set_parameter_is_the_one_that_computes(make_engine: MakeEngine, zero: int, precision: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Identity(), torch.nn.Linear(5, 3))
    engine = make_engine(net, zero=zero, precision=precision)
    engine.set("3.weight", torch.zeros(3, 5))
    engine.set("3.bias", torch.tensor([1.0, 2.0, -3.0]))
    engine.module.eval()
    with torch.no_grad():
        out = engine.forward(torch.randn(4, 6))
    assert torch.equal(out.float(), torch.tensor([[1.0, 2.0, -3.0]]).expand(4, 3))


@ZERO
def test_bf16_computes_in_bf16_and_steps_in_fp32(make_engine: MakeEngine, zero: int) -> None:
    """Also with batch normalisation, whose statistics stay in fp32."""
    engines = [make_engine(precision=precision, zero=zero) for precision in ("fp32", "bf16")]
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    outs = [engine.forward(x).detach().float() for engine in engines]
    assert not torch.equal(outs[0], outs[1])
    torch.testing.assert_close(outs[0], outs[1], rtol=0.05, atol=0.05)
    for number in range(3):
        step(engines[1], number)
    after = engines[1].get("0.weight")
    assert not torch.equal(after, after.bfloat16().float())
    assert engines[1].module[1].running_var.dtype == torch.float32


@ZERO
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_round_trip(make_engine: MakeEngine, zero: int, name: str) -> None:
    engine = make_engine(zero=zero, optimizer=OPTIMIZERS[name], penalised={"3.weight"}, masked={"0.weight"})
    inner = engine.inner_states()
    assert inner == (["momentum_buffer"] if name == "sgd" else ["exp_avg", "exp_avg_sq"])
    places = [(p, key) for key in inner for p in SHAPES] + [("3.weight", "target"), ("3.weight", "dual")]
    for parameter, key in [*places, ("0.weight", "mask"), ("3.weight", "mask")]:
        assert torch.equal(engine.get(parameter, key), torch.zeros(SHAPES[parameter]))
    for seed, (parameter, key) in enumerate(places):
        engine.set(parameter, values(parameter, seed), key)
        if key in inner:  # a mask is put in between others, which it leaves alone
            for each, which in (("0.weight", "mask"), ("3.weight", "mask")):
                engine.set(each, values(each, 50) > 0, which)
    for seed, (parameter, key) in enumerate(places):
        assert torch.equal(engine.get(parameter, key), values(parameter, seed)), (parameter, key)
    for parameter in ("0.weight", "3.weight"):
        assert torch.equal(engine.get(parameter, "mask"), (values(parameter, 50) > 0).float())
    for parameter in SHAPES:
        assert torch.equal(engine.get(parameter), dict(small_net().named_parameters())[parameter])


@ZERO
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_the_same_under_every_zero_stage(make_engine: MakeEngine, zero: int, name: str) -> None:
    """Momentum, decay, clipping, penalty and masks included."""
    expected = trained(make_engine(optimizer=OPTIMIZERS[name], zero=0))
    got = trained(make_engine(optimizer=OPTIMIZERS[name], zero=zero))
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


def test_steps_are_those_of_a_plain_torch_loop(make_engine: MakeEngine) -> None:
    """Without penalty and mask, and with decay on weights alone."""
    engine = make_engine(optimizer=OPTIMIZERS["adam"])
    model = small_net()
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.Adam([{"params": weights, "weight_decay": 0.01}, {"params": others}], lr=0.05)
    for number in range(5):
        step(engine, number)
        generator = torch.Generator().manual_seed(number)
        x, y = torch.randn(12, 6, generator=generator), torch.randint(0, 3, (12,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(dict(engine.tensors())[name], value, rtol=1e-4, atol=1e-5)


@ZERO
def test_two_micro_batches_are_one_step(make_engine: MakeEngine, zero: int) -> None:
    """On a network without batch statistics, which do see micro-batches. The penalty counts once."""
    results = []
    for accumulate in (1, 2):
        net = torch.nn.Sequential(
            torch.nn.Linear(6, 5, bias=False), torch.nn.Tanh(), torch.nn.Identity(), small_net()[3]
        )
        net.load_state_dict({k: v for k, v in small_net().state_dict().items() if k[0] in "03"})
        engine = make_engine(net, optimizer=OPTIMIZERS["sgd"], zero=zero, accumulate=accumulate)
        results.append(trained(engine))
        assert engine.engine.global_steps == 6
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@ZERO
def test_inner_steps_count_optimizer_steps_and_can_be_put_back(make_engine: MakeEngine, zero: int) -> None:
    engine = make_engine(zero=zero, accumulate=2)
    assert engine.inner_steps() == 0
    for number in range(3):
        step(engine, number)
    assert engine.inner_steps() == 3
    engine.set_inner_steps(41)
    step(engine, 3)
    assert engine.inner_steps() == 42
    engine.optimizer.reset_inner()
    assert engine.inner_steps() == 0


def test_an_optimizer_without_step_counts_has_none(make_engine: MakeEngine) -> None:
    engine = make_engine(optimizer=OPTIMIZERS["sgd"])
    step(engine, 0)
    assert engine.inner_steps() == 0
    engine.set_inner_steps(3)
    assert engine.inner_steps() == 0


@ZERO
def test_load_puts_back_what_tensors_gave(make_engine: MakeEngine, zero: int) -> None:
    engine = make_engine(zero=zero)
    step(engine, 0)
    taken = dict(engine.tensors())
    assert list(taken) == [*SHAPES, "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert {name: taken[name].shape for name in SHAPES} == SHAPES
    copies = {name: t.clone() for name, t in taken.items()}
    step(engine, 1)
    assert all(torch.equal(taken[name], copies[name]) for name in taken)
    assert not torch.equal(engine.get("0.weight"), taken["0.weight"])
    for name, tensor in taken.items():
        engine.put(name, tensor)
    for name, tensor in engine.tensors():
        assert torch.equal(tensor, taken[name]), name
    with pytest.raises(KeyError, match="nowhere"):
        engine.put("nowhere", torch.zeros(1))


@ZERO
def test_the_loss_gradient_is_clipped_and_the_penalty_is_not(make_engine: MakeEngine, zero: int) -> None:
    """A huge penalty moves W by lr rho |W - target|, whatever `clip` is."""
    engine = make_engine(optimizer=Optimizer(name="sgd", momentum=0.0, clip=1e-6), penalised={"0.weight"}, zero=zero)
    before = engine.get("0.weight")
    engine.set("0.weight", before + 1.0, "target")
    engine.optimizer.rho = 10.0
    step(engine, 0, lr=0.05)
    torch.testing.assert_close(engine.get("0.weight"), before + 0.5, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_see_the_order_of_pictures(channels: int) -> None:
    """Also of grey ones, whose two orders are the same memory."""
    pictures = torch.randn(5, channels, 9, 7)
    ordered = channels_last(pictures)
    assert torch.equal(ordered, pictures)
    outputs = torch.nn.Conv2d(channels, 4, 3)(ordered)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    flat = torch.randn(5, 7)
    assert channels_last(flat) is flat


def test_which_devices_emulate_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        found.append([emulates_bf16(torch.device(name)) for name in ("cpu", "cuda")])
    assert found == [[True, False], [False, False]]


def test_groups_say_what_is_done_to_each_parameter() -> None:
    model = small_net()
    by_id = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, {"3.weight"}, {"0.weight", "3.weight"}, 0.01)
    found = {(g["penalised"], g["masked"], g["weight_decay"]): [by_id[id(p)] for p in g["params"]] for g in groups}
    assert found == {
        (True, True, 0.01): ["3.weight"],
        (False, True, 0.01): ["0.weight"],
        (False, False, 0.0): ["1.weight", "1.bias", "3.bias"],
    }
    free = parameter_groups(model, set(), set(), 0.01)
    assert [[by_id[id(p)] for p in g["params"]] for g in free if g["weight_decay"]] == [["0.weight", "3.weight"]]


@pytest.mark.parametrize(("zero", "offload"), PLACES)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_moves_nothing(
    make_engine: MakeEngine, zero: int, offload: bool, bad: float
) -> None:
    """The step is refused and says so; all parameters are as they were."""
    engine = make_engine(zero=zero, offload=offload)
    step(engine, 0)
    before = {name: engine.get(name) for name in engine.parameters}
    logits = engine.forward(torch.randn(4, 6))
    logits.register_hook(lambda gradient: gradient * bad)
    engine.backward(logits.square().mean())
    assert engine.step(0.1) is False
    for name, value in before.items():
        assert torch.equal(engine.get(name), value)

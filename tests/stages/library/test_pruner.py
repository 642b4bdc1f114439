"""The pruner in a plain loop: what is pruned stays, a loop that was cut ends with the same bits, errors say why."""

from __future__ import annotations

import inspect
import io
from typing import Any

import pytest
import torch
from torch import nn

import dualprune
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.library.pruner import Pruner
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import SETS
from tests.stages.library.loops import Make, batch, network, prune, train

INNER: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}
GLOBAL = [dualprune.cardinality("*", rate=5, scope="global")]


def made(constraints: Any = None, inner: str = "adam", **settings: Any) -> tuple[nn.Module, Pruner, Any]:
    """A network, its pruner, and its optimizer, wrapped."""
    model = network()
    pruner = Pruner(model, constraints or GLOBAL, rho=0.1, **settings)
    return model, pruner, pruner.wrap(INNER[inner](model.parameters()))


@pytest.mark.parametrize("inner", INNER)
def test_what_is_pruned_stays_zero(inner: str) -> None:
    """Exactly the budget is left, and the rest goes on training, whatever decay and momentum the optimizer has."""
    model, pruner, optimizer = made(inner=inner)
    prune(model, pruner, optimizer, range(15))
    masks, before = pruner.masks, {name: p.detach().clone() for name, p in model.named_parameters()}
    prune(model, pruner, optimizer, range(15, 25))
    assert sum(int(mask.sum()) for mask in masks.values()) == (7 * 13 + 13 * 8 + 8 * 3) // 5
    assert pruner.rate == pytest.approx(219 / 43)
    for name, p in model.named_parameters():
        mask = masks.get(name, torch.ones_like(p).bool())
        assert torch.equal(p != 0, mask)
        assert bool((p != before[name])[mask].any())
    shares = {name: 1 - float(mask.float().mean()) for name, mask in masks.items()}
    assert pruner.sparsity() == pytest.approx(shares)


@pytest.mark.parametrize("growth", [{}, {"rho_growth": 1.5}, {"rho_balance": True}])
def test_the_penalty_is_that_of_a_term_in_the_loss(growth: dict[str, Any]) -> None:
    """Updates by hand, of one tensor, as the papers have them."""
    constraint = dualprune.cardinality("2.weight", rate=4)
    model, pruner, optimizer = made([constraint], "sgd", **growth)
    theirs = network()
    reference = INNER["sgd"](theirs.parameters())
    w = theirs.get_parameter("2.weight")

    def project(v: torch.Tensor) -> torch.Tensor:
        return torch.where(v.abs() >= v.abs().flatten().sort().values[-26], v, 0.0)

    z, u, rho = project(w.detach()), torch.zeros_like(w), 0.1
    for number in range(20):
        train(model, optimizer, range(number, number + 1))
        reference.zero_grad()
        x, y = batch(number)
        (nn.functional.cross_entropy(theirs(x), y) + rho / 2 * (w - z + u).square().sum()).backward()
        reference.step()
        torch.testing.assert_close(model.get_parameter("2.weight"), w, rtol=1e-4, atol=1e-5)
        if number % 5 == 4:
            residual, now = pruner.update(), w.detach().clone()
            new = project(now + u)
            change, z = float((new - z).norm() / now.norm()), new
            u = u + now - z
            assert residual.total == pytest.approx(float((now - z).norm() / now.norm()), rel=1e-3)
            assert residual.change == pytest.approx(change, rel=1e-3, abs=1e-5)
            factor = pruner.rho / rho
            assert factor == pytest.approx(growth.get("rho_growth", factor if growth else 1.0))
            u, rho = u / factor, pruner.rho


def saved(*parts: Any) -> list[Any]:
    """Their states as a file would give them back."""
    file = io.BytesIO()
    torch.save([part.state_dict() for part in parts], file)
    file.seek(0)
    return list(torch.load(file, weights_only=True))


@pytest.mark.parametrize("cut", [3, 7, 10, 15, 18])
@pytest.mark.parametrize("first", ["wrap", "load"])
@pytest.mark.parametrize(
    "constraints",
    [
        GLOBAL,
        [dualprune.lowrank("[02].weight", energy=0.4), dualprune.levels("4.weight", levels="equidistant", bits=2)],
    ],
    ids=["weights", "ranks and levels"],
)
def test_a_loop_that_was_cut_ends_with_the_same_bits(cut: int, first: str, constraints: Any) -> None:
    """Wherever it was cut; state may be loaded before or after the optimizer is wrapped."""
    model, pruner, optimizer = made(constraints, "sgd", rho_growth=1.3)
    prune(model, pruner, optimizer, range(cut))
    states = saved(model, optimizer, pruner)
    prune(model, pruner, optimizer, range(cut, 25))

    again = network(seed=1)
    other = INNER["sgd"](again.parameters())
    again.load_state_dict(states[0])
    resumed = Pruner(again, constraints, rho=0.1, rho_growth=1.3)
    if first == "wrap":
        resumed.wrap(other)
    resumed.load_state_dict(states[2])
    if first == "load":
        resumed.wrap(other)
    other.load_state_dict(states[1])
    prune(again, resumed, other, range(cut, 25))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert (resumed.rho, resumed.phase, resumed.updates) == (pruner.rho, "retrain", 3)
    assert all(torch.equal(mask, pruner.masks[name]) for name, mask in resumed.masks.items())
    ends = [one.state_dict()["tensors"] for one in (resumed, pruner)]
    for name, values in ends[0].items():
        assert all(torch.equal(value, ends[1][name][key]) for key, value in values.items())


@pytest.mark.parametrize("inner", INNER)
def test_shared_values_and_ranks_stay_as_they_are(inner: str) -> None:
    """A projection on them fixes the tensor; others train on. Their zeros are the mask of a tensor that was pruned."""
    sets = [
        dualprune.cardinality("2.weight", rate=2),
        dualprune.levels("2.weight", levels="equidistant", bits=3),
        dualprune.lowrank("0.weight", rank=2),
    ]
    model, pruner, optimizer = made(sets, inner)
    prune(model, pruner, optimizer, range(15))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    prune(model, pruner, optimizer, range(15, 20))
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["0.bias", "2.bias", "4.weight", "4.bias"]
    assert set(pruner.masks) == {"2.weight"}
    assert int(pruner.masks["2.weight"].sum()) == 13 * 8 // 2
    assert int(torch.linalg.matrix_rank(model.get_parameter("0.weight"))) == 2
    assert Levels("equidistant", 3).contains(model.get_parameter("2.weight"))


def test_a_prune_goes_on_from_masks() -> None:
    """Those of an earlier pruner hold from the first step on, and what comes after lies within them."""
    model, pruner, optimizer = made([dualprune.cardinality("*", rate=2)])
    prune(model, pruner, optimizer, range(20))
    first = pruner.masks
    further = Pruner(model, [dualprune.cardinality("[02].weight", rate=6)], rho=0.1, masks=first)
    optimizer = further.wrap(INNER["sgd"](model.parameters()))
    assert set(further.masks) == set(first)
    for steps in (range(2), range(2, 25)):
        prune(model, further, optimizer, steps)
        assert all(bool(first[name][model.get_parameter(name) != 0].all()) for name in first)
    assert [int(mask.sum()) for mask in further.masks.values()] == [91 // 6, 104 // 6, 12]
    assert torch.equal(further.masks["4.weight"], first["4.weight"])


class Tied(nn.Module):
    """An embedding that is the output too, in the way of language models, and a layer that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 8)
        self.body = nn.Linear(8, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 6, bias=False)
        self.head.weight = self.words.weight

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Scores of the next word."""
        out: torch.Tensor = self.head(self.frozen(self.body(self.words(words)).tanh()))
        return out


@pytest.mark.parametrize(
    ("constraint", "names"),
    [
        (dualprune.cardinality("*", rate=2), ["body.weight"]),
        (dualprune.cardinality(layers="Linear", rate=2), ["body.weight"]),
        (dualprune.cardinality(layers=["Embedding", "Linear"], rate=2), ["words.weight", "body.weight"]),
        (dualprune.cardinality(["*", "head.weight", "!body*"], rate=2), ["words.weight"]),
    ],
    ids=["all", "type", "types", "patterns"],
)
def test_constraints_are_for_the_tensors_that_a_configuration_means(constraint: Any, names: list[str]) -> None:
    """Types of layers, lists of patterns; tied tensors under any of their names; nothing that is not trained."""
    torch.manual_seed(0)
    model = Tied()
    pruner = Pruner(model, [constraint], rho=0.1)
    optimizer = pruner.wrap(torch.optim.Adam(model.parameters(), lr=0.01))
    words = torch.randint(0, 6, (32,), generator=torch.Generator().manual_seed(1))
    for number in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(words[:-1]), words[1:]).backward()
        optimizer.step()
        if number in (3, 7):
            pruner.update()
        if number == 7:
            pruner.project()
    assert list(pruner.sparsity()) == names
    for name in names:
        assert int(model.get_parameter(name).count_nonzero()) == model.get_parameter(name).numel() // 2
    assert model.head.weight is model.words.weight
    assert bool(model.frozen.weight.all())


def test_project_alone_is_magnitude_pruning() -> None:
    """Before any optimizer is wrapped, too."""
    model = network()
    w = model.get_parameter("2.weight").detach().clone()
    pruner = Pruner(model, [dualprune.cardinality("2.weight", count=20)], rho=1.0)
    residual = pruner.project()
    kept = w.abs() >= w.abs().flatten().sort().values[-20]
    assert torch.equal(model.get_parameter("2.weight"), w * kept)
    assert residual.tensors["2.weight"] == pytest.approx(float((w * ~kept).norm() / w.norm()))
    prune(model, pruner, pruner.wrap(INNER["adamw"](model.parameters())), range(5))
    assert torch.equal(model.get_parameter("2.weight") != 0, kept)


def test_a_step_with_a_closure_is_the_same_step() -> None:
    """Given by place or by name."""
    ends = []
    for way in ("none", "place", "name"):
        model, pruner, optimizer = made(inner="adamw")
        for number in range(12):

            def closure(model: nn.Module = model, optimizer: Any = optimizer, number: int = number) -> torch.Tensor:
                optimizer.zero_grad()
                x, y = batch(number)
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            if way == "none":
                closure()
                optimizer.step()
            else:
                assert optimizer.step(closure) if way == "place" else optimizer.step(closure=closure)
            if number == 4:
                pruner.update()
            if number == 9:
                pruner.project()
        ends.append([p.detach() for p in model.parameters()])
    for end in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(end, ends[0], strict=True))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_the_penalty_falls_where_an_optimizer_goes_up(kind: Any) -> None:
    """`maximize` of the loss with its sign changed is the same training; a group may have it alone."""
    ends = []
    for rising in (False, True):
        model = network()
        pruner = Pruner(model, GLOBAL, rho=0.1)
        first, *others = model.parameters()
        groups = [{"params": [first], "maximize": rising}, {"params": others}]
        optimizer = pruner.wrap(kind(groups, lr=0.02))
        for number in range(15):
            optimizer.zero_grad()
            x, y = batch(number)
            nn.functional.cross_entropy(model(x), y).backward()
            if rising:
                assert first.grad is not None
                first.grad.neg_()
            optimizer.step()
            if number == 4:
                pruner.update()
        ends.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("inner", ["adam", "fused"])
def test_scaled_gradients_get_the_penalty_once(inner: str) -> None:
    """A gradient scaler unscales before the step, or lets a fused optimizer do it within."""
    ends = []
    for scale in (1.0, 1024.0):
        model, pruner, optimizer = made(inner=inner)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for number in range(10):
            optimizer.zero_grad()
            x, y = batch(number)
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        pruner.update()
        ends.append([p.detach() for p in model.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_wrapped_networks_and_half_precision_work() -> None:
    """`torch.compile`'s wrapper has other names for tensors, and bf16 weights have Z and U in fp32."""
    model = network().bfloat16()
    wrapper = torch.compile(model, backend="eager")
    pruner = Pruner(wrapper, GLOBAL, rho=0.1)
    optimizer = pruner.wrap(torch.optim.SGD(wrapper.parameters(), lr=0.01))
    for number in range(4):
        optimizer.zero_grad()
        x, y = batch(number)
        nn.functional.cross_entropy(model(x.bfloat16()), y).backward()
        optimizer.step()
        pruner.update()
    pruner.project()
    assert pruner.rate == pytest.approx(219 / 43)
    assert {v.dtype for v in pruner.state_dict()["tensors"]["0.weight"].values()} == {torch.float32, torch.uint8}
    assert pruner.module is model


def test_a_schedule_made_of_the_wrapped_optimizer_is_torchs() -> None:
    model, pruner, optimizer = made()
    assert isinstance(optimizer, torch.optim.Adam)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.1)
    for number in range(10):
        train(model, optimizer, range(number, number + 1))
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert pruner.update().total > 0


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no amount": (lambda: dualprune.cardinality("*"), ValueError, "^give exactly one of `rate`, `keep` and `count`$"),
    "a word": (lambda: dualprune.cardinality("*", rte=2), ValueError, "^rte: unknown setting$"),
    "a type": (lambda: dualprune.nm("*", n="2", m=4), ValueError, "^n: must be a valid integer, not '2'$"),
    "left out": (lambda: dualprune.nm("*", n=2), ValueError, "^m: is missing$"),
    "no tensor": (
        lambda: Pruner(network(), [dualprune.nm("x", n=2, m=4)], rho=1.0),
        SpecError,
        r"^constraints\.0\.tensors: 'x' matches no tensor of Sequential; its weights are 0\.weight \(Linear\), 2\.w",
    ),
    "no fit": (
        lambda: Pruner(network(), [dualprune.nm("0.weight", n=2, m=4)], rho=1.0),
        SpecError,
        "^constraints.0: 0.weight of shape .13, 7.: its 7 inputs don't divide into runs of 4; leave this tensor out$",
    ),
    "none": (lambda: Pruner(network(), [], rho=1.0), ValueError, "^constraints: at least one is needed$"),
    "no set": (lambda: Pruner(network(), ["*"], rho=1.0), ValueError, "^constraints: '[*]' is none; make them by"),
    "rho": (lambda: Pruner(network(), GLOBAL, rho=0.0), ValueError, "^rho: must be greater than 0, not 0.0$"),
    "rules": (lambda: Pruner(network(), GLOBAL, rho=1.0, rho_growth=2.0, rho_balance=True), ValueError, "use one of"),
    "masks": (
        lambda: Pruner(network(), GLOBAL, rho=1.0, masks={"0.weight": torch.ones(2)}),
        ValueError,
        r"^masks: 0\.weight is of shape \(13, 7\); the mask is of shape \(2,\)$",
    ),
    "other optimizer": (
        lambda: Pruner(network(), GLOBAL, rho=1.0).wrap(INNER["sgd"](network().parameters())),
        ValueError,
        "^the optimizer trains none of the constrained tensors",
    ),
    "lbfgs": (
        lambda: Pruner(model := network(), GLOBAL, rho=1.0).wrap(torch.optim.LBFGS(model.parameters())),
        ValueError,
        "^LBFGS searches",
    ),
    "no optimizer": (lambda: Pruner(network(), GLOBAL, rho=1.0).wrap(network()), ValueError, "^Sequential is no torch"),
    "too early": (lambda: Pruner(network(), GLOBAL, rho=1.0).update(), RuntimeError, "no optimizer is wrapped yet"),
    "other state": (
        lambda: made()[1].load_state_dict(made([dualprune.cardinality("*", rate=2)])[1].state_dict()),
        ValueError,
        "^the state is of other constraints",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_is_told(case: str) -> None:
    call, error, text = WRONG[case]
    with pytest.raises(error, match=text):
        call()


def test_wrong_order_is_told() -> None:
    """Twice the same optimizer, an update after the projection, and a second projection."""
    model, pruner, optimizer = made()
    with pytest.raises(ValueError, match="trained by an optimizer that was wrapped before"):
        pruner.wrap(optimizer)
    pruner.project()
    for again, text in ((pruner.update, "nothing to update"), (pruner.project, "another Pruner with `masks`")):
        with pytest.raises(RuntimeError, match=text):
            again()
    some = Pruner(model, GLOBAL, rho=1.0)
    some.wrap(INNER["sgd"]([model.get_parameter("0.weight")]))
    with pytest.raises(ValueError, match=r"in no optimizer that is wrapped: 2\.weight, 4\.weight; wrap each"):
        some.update()
    some.wrap(INNER["sgd"]([model.get_parameter("2.weight"), model.get_parameter("4.weight")]))
    some.update()


def test_weights_that_are_nan_are_named() -> None:
    model, pruner, _ = made()
    with torch.no_grad():
        model.get_parameter("2.weight")[0, 0] = torch.nan
    for call in (pruner.update, pruner.project):
        with pytest.raises(ValueError, match=r"^2\.weight: holds NaN"):
            call()


@pytest.mark.parametrize("name", SETS)
def test_each_set_has_a_function(name: str) -> None:
    """With the settings that it has in a file, and their words."""
    make = getattr(dualprune, name)
    needed = {"head": {"heads": 2}, "block": {"p": 1, "q": 1}, "nm": {"n": 1, "m": 2}, "lowrank": {"rank": 1}}
    given: dict[str, Any] = {"rate": 2} if "rate" in SETS[name].model_fields else {}
    given |= {"levels": {"levels": "binary"}, "clusters": {"count": 4}}.get(name, {}) | needed.get(name, {})
    assert make("*", **given) == SETS[name].model_validate({"set": name, "tensors": "*", **given})
    assert next(iter(inspect.signature(make).parameters)) == "tensors"
    assert set(inspect.signature(make).parameters) == set(SETS[name].model_fields) - {"set"}
    assert (SETS[name].__doc__ or "?") in make.__doc__
    assert name in dir(dualprune)

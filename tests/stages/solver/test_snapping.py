"""Weights take their shared values: which are snapped first, what stays put after, and what it takes to store them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dualprune.stages.constraints import Constraint
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.clusters import Clusters
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.constraints.nm import NM
from dualprune.stages.engine.engine import Engine
from dualprune.stages.settings.training import Optimizer
from dualprune.stages.solver import snapping as quantize
from dualprune.stages.solver.targets import Targets
from tests.stages.conftest import MakeEngine, held_to, step

NAMES = ("0.weight", "3.weight")
SGD = Optimizer(name="sgd", momentum=0.9, weight_decay=0.05)
ADAM = Optimizer(name="adam", weight_decay=0.05)
ADAMW = Optimizer(name="adamw", weight_decay=0.05)
OPTIMIZERS = pytest.mark.parametrize("optimizer", [SGD, ADAM, ADAMW], ids=["sgd", "adam", "adamw"])
ZERO = pytest.mark.parametrize("zero", [0, 1, 2, 3])


def free(engine: Engine) -> None:
    """Every weight may move."""
    for name in sorted(engine.masked):
        engine.set(name, torch.ones(engine.shape(name)), "mask")


def train(engine: Engine, first: int, steps: int = 3) -> None:
    """Masks take force, as between phases of training; then some steps."""
    engine.optimizer.masking = True
    engine.optimizer.reset_inner()
    for number in range(first, first + steps):
        step(engine, number)


def test_of_each_level_the_nearest_share_is_snapped(make_engine: MakeEngine) -> None:
    """Levels -1, 1, 3; a third of each level's members rounded up, nearest first, the first of equally near ones."""
    engine = make_engine()
    free(engine)
    w = torch.tensor([[1.125, 0.75, 1.25, 3.5, 2.875, 1.375], [-1.5, -0.5, -0.875, -0.875, 1.5, 1.25]])
    engine.set("0.weight", torch.cat([w, torch.zeros(3, 6)]))
    quantize.snap(engine, {"0.weight": [-1.0, 1.0, 3.0]}, 1 / 3)
    expected = torch.tensor([[1.0, 1.0, 1.25, 3.5, 3.0, 1.375], [-1.5, -0.5, -1.0, -1.0, 1.5, 1.25]])
    assert torch.equal(engine.get("0.weight")[:2], expected)
    assert torch.equal(engine.get("0.weight", "mask")[:2] == 0, expected != w)
    assert int(engine.get("0.weight")[2:].count_nonzero()) == 0


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_every_round_snaps_the_closest_first_and_at_least_one(make_engine: MakeEngine, share: float) -> None:
    engine = make_engine()
    free(engine)
    levels = [-0.3, -0.1, 0.1, 0.3]
    before, mask = engine.get("0.weight"), engine.get("0.weight", "mask")
    for _ in range(3):
        quantize.snap(engine, {"0.weight": levels}, share)
        after, now = engine.get("0.weight"), engine.get("0.weight", "mask")
        assert torch.equal(after[mask == 0], before[mask == 0])
        near = quantize.nearest(torch.tensor(levels), before)
        for level in levels:
            members = (near == torch.tensor(level)) & (mask != 0)
            snapped = members & (now == 0)
            assert int(snapped.sum()) == math.ceil(share * int(members.sum()))
            assert bool((after[snapped] == level).all())
            left = members & ~snapped
            assert torch.equal(after[left], before[left])
            if bool(left.any()) and bool(snapped.any()):
                distance = (before - level).abs()
                assert float(distance[snapped].max()) <= float(distance[left].min())
        before, mask = after, now
    quantize.snap(engine, {"0.weight": levels}, None)
    assert int(engine.get("0.weight", "mask").sum()) == 0
    assert set(torch.unique(engine.get("0.weight")).tolist()) <= set(torch.tensor(levels).tolist())


@ZERO
@OPTIMIZERS
def test_snapped_weights_stay_through_later_training(make_engine: MakeEngine, zero: int, optimizer: Optimizer) -> None:
    """To the bit, under momentum and weight decay, while the others move; and pruned ones stay zero."""
    engine = make_engine(optimizer=optimizer, zero=zero)
    free(engine)
    pruned = torch.arange(30).view(5, 6) % 3 == 0
    engine.set("0.weight", torch.where(pruned, torch.zeros(()), engine.get("0.weight")))
    engine.set("0.weight", (~pruned).float(), "mask")
    engine.optimizer.masking = True
    for number in range(3):
        step(engine, number)
    targets = held_to({name: Levels("equidistant", 2) for name in NAMES})
    values = quantize.fit(engine, targets)
    for round_, share in enumerate((0.4, 0.4, None)):
        quantize.snap(engine, values, share)
        before = {name: engine.get(name) for name in NAMES}
        frozen = {name: engine.get(name, "mask") == 0 for name in NAMES}
        assert bool(frozen["0.weight"][pruned].all())
        train(engine, 3 + 3 * round_)
        for name in NAMES:
            assert torch.equal(engine.get(name) == before[name], frozen[name])
        assert int(engine.get("0.weight")[pruned].count_nonzero()) == 0
    for name in NAMES:
        assert bool(frozen[name].all())
        used = set(torch.unique(engine.get(name)).tolist()) - {0.0}
        assert used <= set(torch.tensor(values[name]).tolist())


@ZERO
@OPTIMIZERS
def test_members_of_a_cluster_stay_equal_and_pruned_weights_zero(
    make_engine: MakeEngine, zero: int, optimizer: Optimizer
) -> None:
    engine = make_engine(optimizer=optimizer, zero=zero)
    free(engine)
    mask = (torch.arange(30).view(5, 6) % 4 != 0).float()
    engine.set("0.weight", engine.get("0.weight") * mask)
    engine.set("0.weight", mask, "mask")
    targets = held_to({"0.weight": Clusters(4), "3.weight": Clusters(3)})
    values = quantize.fit(engine, targets)
    engine.optimizer.tied = quantize.tie_values(engine, values)
    assert engine.optimizer.tied == 7
    codes = {name: engine.get(name, "target") for name in NAMES}
    assert set(codes["0.weight"].flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert set(codes["3.weight"].flatten().tolist()) == {5.0, 6.0, 7.0}
    start = {name: engine.get(name) for name in NAMES}
    train(engine, 0, steps=6)
    for name in NAMES:
        w = engine.get(name)
        for code in torch.unique(codes[name]).tolist():
            members = w[codes[name] == code]
            assert bool((members == members[0]).all())
            assert bool((members == 0).all()) == (code == 0)
        assert torch.equal(w != start[name], codes[name] != 0)
        assert torch.equal(engine.get(name, "target"), codes[name])
        assert torch.equal(engine.get(name, "mask"), (codes[name] != 0).float())


@pytest.mark.parametrize("how", ["levels", "clusters"])
def test_a_tensor_of_zeros_stays_zero(make_engine: MakeEngine, how: str) -> None:
    """It has no values to take, and is no member of another tensor's cluster."""
    engine = make_engine(optimizer=SGD)
    free(engine)
    engine.set("3.weight", torch.zeros(engine.shape("3.weight")))
    constraint = Levels("binary") if how == "levels" else Clusters(2)
    values = quantize.fit(engine, held_to(dict.fromkeys(NAMES, constraint)))
    assert values["3.weight"] == []
    if how == "levels":
        quantize.snap(engine, values, 0.3)
    else:
        engine.optimizer.tied = quantize.tie_values(engine, values)
    train(engine, 0)
    assert int(engine.get("3.weight").count_nonzero()) == 0
    assert int(engine.get("3.weight", "mask").count_nonzero()) == 0


def test_a_shared_value_moves_by_the_mean_gradient(make_engine: MakeEngine) -> None:
    """Of its members: the step's projection onto what may move. Against a plain step, averaged by hand."""
    plain = Optimizer(name="sgd", momentum=0.0)
    engine, other = (make_engine(optimizer=plain, zero=z) for z in (1, 0))
    free(engine)
    values = quantize.fit(engine, held_to({name: Clusters(3) for name in NAMES}))
    engine.optimizer.tied = quantize.tie_values(engine, values)
    engine.optimizer.masking = True
    shared = {name: engine.get(name) for name in NAMES}
    for name in NAMES:
        other.set(name, shared[name])
    for each in (engine, other):
        step(each, 5)
    for name in NAMES:
        moved = other.get(name) - shared[name]
        expected = shared[name].clone()
        for value in torch.unique(shared[name]):
            members = shared[name] == value
            expected[members] = value + moved[members].mean()
        torch.testing.assert_close(engine.get(name), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("structure", [NM(1, 2), Cardinality(11)], ids=["nm", "cardinality"])
def test_fitting_prunes_first_and_fits_the_rest(make_engine: MakeEngine, structure: Constraint) -> None:
    engine = make_engine(penalised={"0.weight"})
    free(engine)
    w = engine.get("0.weight")
    levels = Levels("ternary") if isinstance(structure, NM) else Levels("binary")
    values = quantize.fit(engine, held_to({"0.weight": Combined((structure, levels))}))
    inside = structure.project(w)
    assert torch.equal(engine.get("0.weight"), inside)
    assert torch.equal(engine.get("0.weight", "mask"), structure.mask(inside))
    assert values["0.weight"] == pytest.approx(levels.values(inside).tolist())
    quantize.snap(engine, values, None)
    torch.testing.assert_close(engine.get("0.weight"), levels.project(inside))
    assert Combined((structure, levels)).contains(engine.get("0.weight"))


def quantised(size: int, nonzeros: int, values: int, first: int = 0) -> Tensor:
    """A flat tensor with so many non-zeros side by side from `first` on, which take so many values."""
    w = torch.zeros(size)
    w[first : first + nonzeros] = (torch.arange(nonzeros) % values + 1).float()
    return w


def test_storage_of_the_167x_table_is_7140_bits() -> None:
    """The bits of Ye et al. 2018b: 100 x 5 + 1330 x 3 + 800 x 2 + 350 x 3."""
    table = {"conv1": (500, 100, 5), "conv2": (25_000, 1330, 3), "fc1": (400_000, 800, 2), "fc2": (5_000, 350, 3)}
    network = {name: quantised(size, kept, 2**bits) for name, (size, kept, bits) in table.items()}
    found = quantize.storage(network, {name: ["levels"] for name in table})
    assert found["data_bits"] == 7140
    assert found["data_rate"] == pytest.approx(430_500 * 32 / 7140)
    assert {name: entry["bits"] for name, entry in found["tensors"].items()} == {n: b for n, (*_, b) in table.items()}
    assert found["total_bits"] == sum(entry["total_bits"] for entry in found["tensors"].values()) > 7140


@pytest.mark.parametrize(
    ("w", "bits", "width", "total"),
    [
        # Gaps of no zeros: the narrowest index.
        (quantised(8, 4, 2), 1, 1, 4 * 2),
        # One at the end of eight: seven zeros before it take four bits, or an index of 7 and one of 0.
        (quantised(8, 1, 1, first=7), 1, 4, 1 * 5),
        # A gap of 20: with 1, 2, 3, 4 bits 20, 6, 2, 1 indices more, so 4 x 2 + 20, 4 x 3 + 12, 4 x 4 + 6, 4 x 5 + 4.
        (torch.cat([torch.ones(3), torch.zeros(20), torch.ones(1)]), 1, 3, 22),
        # All there: no places are needed.
        (quantised(8, 8, 4), 2, 0, 16),
        # A single value still takes a bit.
        (torch.full((4,), 0.5), 1, 0, 4),
        # Three values take two bits; gaps of 1: an index of 1 and one of 0 each, or two bits.
        (torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, 3.0]), 2, 1, 3 * 4),
    ],
)
def test_storage_by_hand(w: Tensor, bits: int, width: int, total: int) -> None:
    found = quantize.storage({"w": w}, {"w": ["levels"]})
    kept = int(w.count_nonzero())
    assert found["tensors"] == {
        "w": {"bits": bits, "data_bits": kept * bits, "index_width": width, "total_bits": total}
    }
    assert found["data_rate"] == 32 * len(w) / (kept * bits)
    assert found["total_rate"] == 32 * len(w) / total


def encoded(w: Tensor, width: int, bits: int) -> str:
    """Indices of `width` bits and codes of `bits` bits, as zeros and ones."""
    codes = {value: code for code, value in enumerate(sorted({value for value in w.tolist() if value}))}
    text, gap, most = "", 0, 2**width - 1
    for value in w.tolist():
        if value:
            text += f"{gap:0{width}b}{codes[value]:0{bits}b}"
            gap = 0
        elif gap == most - 1:
            text += f"{most:0{width}b}"
            gap = 0
        else:
            gap += 1
    return text


def decoded(text: str, width: int, bits: int, levels: list[float], size: int) -> Tensor:
    """What was encoded."""
    w, place, at, most = torch.zeros(size), 0, 0, 2**width - 1
    while at < len(text):
        gap, at = int(text[at : at + width], 2), at + width
        place += gap
        if gap < most:
            w[place] = levels[int(text[at : at + bits], 2)]
            place, at = place + 1, at + bits
    return w


@pytest.mark.parametrize("seed", range(5))
def test_as_many_bits_are_counted_as_it_takes_to_write_them_and_read_them_back(seed: int) -> None:
    """At the width that takes the fewest; zeros after the last weight need no index."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randint(1, 5, (400,), generator=generator) * (torch.rand(400, generator=generator) < 0.02 * (seed + 1))
    w = w.float()
    w[-1], levels = 1.0, sorted(set(w.tolist()) - {0.0})
    entry = quantize.storage({"w": w}, {"w": ["levels"]})["tensors"]["w"]
    texts = {width: encoded(w, width, entry["bits"]) for width in range(1, 17)}
    for width, text in texts.items():
        assert torch.equal(decoded(text, width, entry["bits"], levels, 400), w)
    assert entry["total_bits"] == min(map(len, texts.values())) == len(texts[entry["index_width"]])


def test_weights_that_share_no_values_take_32_bits() -> None:
    """Though a small tensor has few different ones: nobody said that it has a code book."""
    network = {"few": quantised(500, 100, 100), "global": quantised(50, 9, 9), "low": torch.ones(2, 2)}
    targets = Targets(
        {"few": Cardinality(100)}, (), {"few": ("cardinality",), "global": ("cardinality",), "low": ("lowrank",)}
    )
    found = quantize.storage(network, targets.kinds)
    assert {entry["bits"] for entry in found["tensors"].values()} == {32}
    assert found["data_bits"] == 32 * (100 + 9 + 4)


def test_an_empty_tensor_takes_nothing() -> None:
    found = quantize.storage({"w": torch.zeros(4)}, {"w": ["levels"]})
    assert found["data_bits"] == found["total_bits"] == 0
    assert found["data_rate"] is None
    assert found["total_rate"] is None


def test_a_whole_network_is_counted_with_what_no_stage_constrains() -> None:
    """By hand: of two weight tensors one is a quarter full, and everything else is stored as it is."""
    pruned = torch.zeros(8, 8)
    pruned.view(-1)[::4] = 1.5
    network = {"0.weight": pruned, "0.bias": torch.zeros(8), "1.weight": torch.ones(4), "2.weight": torch.ones(10, 8)}
    network |= {"1.num_batches_tracked": torch.tensor(3)}
    weights = ["0.weight", "2.weight"]
    found = quantize.whole(network, weights, {"0.weight": ("cardinality",)})
    assert found["network_weights"] == 64 + 80
    assert found["network_nonzeros"] == 16 + 80
    assert found["network_rate"] == 1.5
    beside = 8 * 4 + 4 * 4 + 8
    sparse = quantize.storage(network, {"0.weight": ("cardinality",)})["total_bits"]
    assert found["bytes"] == -(-sparse // 8) + 80 * 4 + beside
    assert 16 * 4 < -(-sparse // 8) <= 16 * 4 + 16
    assert found["dense_bytes"] == (64 + 80) * 4 + beside
    assert quantize.whole(network, weights, {}) == found  # zeros that an earlier stage left count as well
    shared = quantize.whole(network, weights, {"2.weight": ("levels",)})
    assert shared["bytes"] == found["bytes"] - 80 * 4 + 10  # one value, a bit each


def test_where_zeros_are_few_nothing_is_gained_by_places() -> None:
    """A tensor takes no more than it does as it is."""
    w = torch.ones(100, 100)
    w[0, 0] = 0
    found = quantize.whole({"weight": w}, ["weight"], {"weight": ("cardinality",)})
    assert found["bytes"] == found["dense_bytes"] == 40_000
    empty = quantize.whole({"weight": torch.zeros(4, 4)}, ["weight"], {"weight": ("cardinality",)})
    assert (empty["network_rate"], empty["network_nonzeros"], empty["bytes"]) == (None, 0, 0)

"""Patterns meet parameters: each constrained tensor gets its set, and what can't work is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.kinds.constrained import check, targets_of
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.quantize import QuantizeSpec
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.builtin import MODELS, CifarBlock
from dualprune.stages.networks.parameters import Parameter, parameters, weights
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model
from dualprune.stages.solver.targets import targets

DATA = {"source": "digits"}
LENET = {"0.weight": (20, 1, 5, 5), "2.weight": (50, 20, 5, 5), "5.weight": (500, 800), "7.weight": (10, 500)}


def prune(*sets: dict[str, Any], model: str = "lenet5") -> PruneSpec:
    """A prune of LeNet-5 with the given constraints."""
    return PruneSpec.model_validate(
        {
            "kind": "prune",
            "model": {"name": model},
            "data": DATA,
            "constraints": [{"set": "cardinality"} | each for each in sets],
            "admm": {"updates": 1, "lr": 0.1, "rho": 0.1},
            "retrain": {"epochs": 1, "lr": 0.1},
        }
    )


def quantize(*sets: dict[str, Any], **change: Any) -> QuantizeSpec:
    """A quantize stage of LeNet-5 with the given constraints."""
    return QuantizeSpec.model_validate(
        {
            "kind": "quantize",
            "model": {"name": "lenet5"},
            "data": DATA,
            "constraints": list(sets),
            "admm": {"updates": 1, "lr": 0.1, "rho": 0.1},
        }
        | change
    )


def problems(spec: PruneSpec | QuantizeSpec) -> list[tuple[tuple[str | int, ...], str]]:
    """What `check` has to say."""
    with pytest.raises(SpecError) as caught:
        check(spec)
    return caught.value.problems


def test_the_layer_table_of_the_167x_lenet() -> None:
    keep = {"0.weight": 0.2, "2.weight": 0.053, "5.weight": 0.002, "7.weight": 0.07}
    spec = prune(*({"tensors": name, "keep": share} for name, share in keep.items()))
    assert check(spec).tensors == {"0.weight": 100, "2.weight": 1325, "5.weight": 800, "7.weight": 350}


def test_a_star_is_all_weights_and_no_bias() -> None:
    assert check(prune({"tensors": "*", "rate": 10.0})).tensors == {
        "0.weight": 50,
        "2.weight": 2500,
        "5.weight": 40_000,
        "7.weight": 500,
    }


def test_only_what_is_matched_is_constrained() -> None:
    there = {
        name: Parameter(torch.Size(shape), True, (name,), ()) for name, shape in (LENET | {"0.bias": (20,)}).items()
    }
    found = targets_of(prune({"tensors": "[57].weight", "count": 9}), there)
    assert found.sets == {
        "5.weight": Cardinality(9),
        "7.weight": Cardinality(9),
    }
    plain = {"kind": "train", "model": {"name": "lenet5"}, "data": DATA, "train": {"epochs": 1, "lr": 0.1}}
    assert found.names == ["5.weight", "7.weight"]
    assert targets_of(TrainSpec.model_validate(plain), there).names == []


def test_normalisation_is_never_constrained() -> None:
    found = check(prune({"tensors": "*", "rate": 2.0}, model="resnet18")).tensors
    assert found["conv1.weight"] == 64 * 3 * 7 * 7 // 2
    assert "fc.weight" in found
    assert not [name for name in found if "bn" in name or name.endswith("bias") or "downsample.1" in name]


def test_an_unknown_model() -> None:
    ((at, text),) = problems(prune({"tensors": "*", "rate": 2.0}, model="lenet6"))
    assert at == ("model", "name")
    assert "'lenet6'" in text
    assert "lenet5" in text


def test_a_pattern_that_matches_nothing() -> None:
    ((at, text),) = problems(prune({"tensors": "*", "rate": 2.0}, {"tensors": "fc*", "rate": 2.0}))
    assert at == ("constraints", 1, "tensors")
    assert "'fc*' matches no tensor of lenet5" in text
    assert "5.weight" in text


def test_a_pattern_that_matches_only_biases() -> None:
    ((at, text),) = problems(prune({"tensors": "*.bias", "rate": 2.0}))
    assert at == ("constraints", 0, "tensors")
    assert "nothing that can be constrained (0.bias (20,), 2.bias (50,), 5.bias (500,), 7.bias (10,))" in text


def test_overlapping_patterns() -> None:
    ((at, text),) = problems(prune({"tensors": "[05].weight", "rate": 2.0}, {"tensors": "[57].weight", "rate": 3.0}))
    assert at == ("constraints", 1)
    assert "5.weight of shape (500, 800): `cardinality` and `cardinality` contradict each other" in text


def test_a_count_that_is_too_large_and_a_rate_that_leaves_nothing() -> None:
    found = problems(prune({"tensors": "0.weight", "count": 501}, {"tensors": "7.weight", "rate": 5001.0}))
    assert [at for at, _ in found] == [("constraints", 0), ("constraints", 1)]
    assert "0.weight of shape (20, 1, 5, 5): asks for 501 weights, but the tensor has 500" in found[0][1]
    assert "7.weight of shape (10, 500): leaves 0 of 5000" in found[1][1]


def test_all_that_is_wrong_is_said_at_once() -> None:
    spec = prune(
        {"tensors": "nothing", "rate": 2.0}, {"tensors": "*.bias", "rate": 2.0}, {"tensors": "0*", "count": 501}
    )
    with pytest.raises(SpecError, match=r"constraints\.0\.tensors: .*; constraints\.1\.tensors: .*; constraints\.2: "):
        check(spec)


PROMISED = {
    "digits_cnn": 71_568,
    "lenet5": 430_500,
    "resnet20": 268_336,
    "resnet32": 461_872,
    "resnet56": 848_944,
    "resnet18": 11_172_032,
    "resnet50": 23_475_392,
    "alexnet": 57_035_456,
    "mobilenet_v2": 2_202_560,
    "squeezenet1_1": 724_672,
    "vgg16": 134_289_088,
    "vgg16_bn": 134_289_088,
    "vit_b_16": 85_532_160,
}
"""Weights of each network at ten classes: of what has two or more dimensions."""


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet20", "resnet18", "resnet50", "squeezenet1_1"])
def test_models_have_as_many_outputs_as_asked_and_the_weights_they_promise(name: str) -> None:
    shape = {"digits_cnn": (2, 1, 8, 8), "lenet5": (2, 1, 28, 28)}.get(name, (2, 3, 32, 32))
    model = build_model(Model(name=name, classes=7)).eval()
    assert model(torch.zeros(shape)).shape == (2, 7)


@pytest.mark.parametrize("name", PROMISED)
def test_models_have_the_weights_they_promise(name: str) -> None:
    """And are built without memory for them."""
    ten = build_model(Model(name=name), device="meta")
    assert all(p.is_meta for p in ten.parameters())
    assert sum(one.shape.numel() for one in weights(parameters(ten)).values()) == PROMISED[name]


def test_every_model_is_promised() -> None:
    assert set(PROMISED) == set(MODELS)


def test_a_residual_block_adds_its_input_as_option_a_says() -> None:
    """With convolutions that give nothing: every second pixel, channels of zeros around them, and no negatives."""
    block = CifarBlock(16, 32).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    want = torch.zeros(2, 32, 4, 4)
    for channel in range(16):
        for row in range(4):
            for column in range(4):
                want[:, 8 + channel, row, column] = x[:, channel, 2 * row, 2 * column].clamp(min=0)
    assert torch.equal(block(x), want)
    same = CifarBlock(16, 16).eval()
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x), x.clamp(min=0))


CONV, LINEAR = "2.weight of shape (50, 20, 5, 5): ", "5.weight of shape (500, 800): "
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no weight": ({"set": "cardinality", "tensors": "5.*", "rate": 400_001.0}, LINEAR + "leaves 0 of 400000 weights"),
    "no filter": ({"set": "filter", "tensors": "2.*", "rate": 51.0}, CONV + "leaves 0 of 50 filters"),
    "no channel": ({"set": "channel", "tensors": "2.*", "keep": 0.04}, CONV + "leaves 0 of 20 channels"),
    "no column": ({"set": "column", "tensors": "2.*", "rate": 501.0}, CONV + "leaves 0 of 500 columns"),
    "no row": ({"set": "row", "tensors": "5.*", "rate": 501.0}, LINEAR + "leaves 0 of 500 rows"),
    "too many filters": (
        {"set": "filter", "tensors": "2.*", "count": 51},
        CONV + "asks for 51 filters, but the tensor has 50",
    ),
    "rows of a convolution": ({"set": "row", "tensors": "2.*", "count": 5}, CONV + "rows are of linear layers"),
    "no head": (
        {"set": "head", "tensors": "5.*", "heads": 10, "rate": 11.0},
        LINEAR + "leaves 0 of 10 heads",
    ),
    "heads that don't divide": (
        {"set": "head", "tensors": "5.*", "heads": 8, "parts": 3, "count": 2},
        LINEAR + "500 rows don't divide into 8 heads in 3 parts",
    ),
    "tiles that don't divide": (
        {"set": "block", "tensors": "5.*", "p": 8, "q": 8, "count": 2},
        LINEAR + "a matrix of 500 x 800 doesn't divide into tiles of 8 x 8",
    ),
    "no tile": ({"set": "block", "tensors": "5.*", "p": 4, "q": 4, "rate": 3e4}, LINEAR + "leaves 0 of 25000 tiles"),
    "m that doesn't divide": (
        {"set": "nm", "tensors": "2.*", "n": 2, "m": 16},
        CONV + "its 20 inputs don't divide into runs of 16; leave this tensor out",
    ),
    "a rank above full": (
        {"set": "lowrank", "tensors": "2.*", "rank": 51},
        CONV + "rank 51 is above full: its matrix has rank 50 at most",
    ),
    "a rank above full of the other view": (
        {"set": "lowrank", "tensors": "2.*", "rank": 101, "view": "spatial"},
        CONV + "rank 101 is above full: its matrix has rank 100 at most",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_a_tensor_is_refused_with_its_name_and_shape(what: str) -> None:
    settings, words = REFUSED[what]
    ((at, text),) = problems(prune(settings))
    assert at == ("constraints", 0)
    assert text.startswith(words)


@pytest.mark.parametrize("settings", [{"set": "nm", "n": 2, "m": 4}, {"set": "filter", "rate": 2}])
def test_outputs_are_those_of_weights_that_lie_turned(settings: dict[str, Any]) -> None:
    """As transformers' Conv1D has them, and not torch's layers of sequences."""
    turned = nn.Sequential(pytest.importorskip("transformers.pytorch_utils").Conv1D(6, 8), nn.Linear(8, 6))
    there = parameters(turned)
    assert [one.turned for one in there.values() if len(one.shape) > 1] == [True, False]
    assert not parameters(nn.Conv1d(2, 2, 1))["weight"].turned
    found, problems = targets(prune(settings | {"tensors": "*"}).constraints, there, "turned")
    assert not problems
    w = torch.randn(6, 8)
    z, mask = (found.sets["1.weight"].project(w), found.sets["1.weight"].mask(w))
    one = found.sets["0.weight"]
    assert torch.equal(one.project(w.T), z.T)
    assert torch.equal(one.mask(w.T), mask.T)
    assert one.contains(z.T)
    assert not one.contains(w.T)
    assert one.most((8, 6)) == found.sets["1.weight"].most((6, 8))


def test_the_largest_that_fits_is_taken() -> None:
    """The other side of the borders above."""
    for settings in (
        {"set": "cardinality", "tensors": "5.*", "rate": 400_000.0},
        {"set": "filter", "tensors": "2.*", "rate": 50.0},
        {"set": "nm", "tensors": "2.*", "n": 9, "m": 10},
        {"set": "lowrank", "tensors": "2.*", "rank": 50},
        {"set": "lowrank", "tensors": "2.*", "rank": 100, "view": "spatial"},
        {"set": "block", "tensors": "5.*", "p": 4, "q": 4, "rate": 25_000.0},
    ):
        check(prune(settings))
    check(quantize({"set": "clusters", "tensors": "0.*", "count": 500}))


def test_more_clusters_than_weights() -> None:
    ((at, text),) = problems(quantize({"set": "clusters", "tensors": "0.*", "count": 501}))
    assert at == ("constraints", 0)
    assert text == "0.weight of shape (20, 1, 5, 5): asks for 501 clusters of 500 weights"
    few = {"set": "cardinality", "tensors": "0.*", "count": 3}
    ((at, text),) = problems(quantize(few, {"set": "clusters", "tensors": "0.*", "count": 4}))
    assert at == ("constraints", 1)
    assert text == "0.weight of shape (20, 1, 5, 5): asks for 4 clusters of the 3 weights that are left"
    check(quantize(few, {"set": "clusters", "tensors": "0.*", "count": 3}))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"set": "levels", "bits": 0}, "greater than or equal to 1"),
        ({"set": "levels", "bits": 9}, "less than or equal to 8"),
        ({"set": "levels"}, "need it"),
        ({"set": "levels", "levels": "power"}, "need it"),
        ({"set": "levels", "levels": "ternary", "bits": 2}, "`bits` belongs to"),
        ({"set": "levels", "levels": "binary", "bits": 1}, "`bits` belongs to"),
        ({"set": "clusters", "count": 0}, "greater than or equal to 1"),
        ({"set": "nm", "n": 4, "m": 4}, "4 of 4 prunes nothing"),
        ({"set": "nm", "n": 0, "m": 4}, "greater than or equal to 1"),
        ({"set": "lowrank"}, "either `rank` or `energy`"),
        ({"set": "lowrank", "rank": 3, "energy": 0.1}, "either `rank` or `energy`"),
        ({"set": "lowrank", "energy": 1.0}, "less than 1"),
        ({"set": "block", "p": 0, "q": 2, "count": 1}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_set_are_refused_without_a_tensor(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        quantize({"tensors": "*"} | settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"set": "nm", "n": 2, "m": 4},
        {"set": "filter", "rate": 2.0},
        {"set": "lowrank", "rank": 2},
        {"set": "cardinality", "rate": 2.0, "scope": "global"},
    ],
)
def test_any_set_on_biases_is_refused(settings: dict[str, Any]) -> None:
    ((at, text),) = problems(prune(settings | {"tensors": "*.bias"}))
    assert at == ("constraints", 0, "tensors")
    assert "nothing that can be constrained (0.bias (20,), 2.bias (50,), 5.bias (500,), 7.bias (10,))" in text


CARD = {"set": "cardinality", "tensors": "5.*", "rate": 2.0}
HALF = {"set": "nm", "tensors": "5.*", "n": 2, "m": 4}
ROWS = {"set": "row", "tensors": "5.*", "rate": 2.0}
LOW = {"set": "lowrank", "tensors": "5.*", "rank": 3}
ALL = CARD | {"scope": "global", "tensors": "*"}
LEVELS = {"set": "levels", "tensors": "5.*", "bits": 3}
SHARED = {"set": "clusters", "tensors": "5.*", "count": 3}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (CARD, HALF, "`cardinality` and `nm` contradict each other"),
        (ROWS, ROWS | {"set": "column"}, "`row` and `column` contradict each other"),
        (LEVELS, SHARED, "`levels` and `clusters` contradict each other"),
        (CARD, ROWS, "`row` must come before `cardinality`"),
        (LEVELS, HALF, "`nm` must come before `levels`"),
        (LOW, CARD, "`lowrank` can't be combined"),
        (ROWS, LOW, "`lowrank` can't be combined"),
        (LOW, LEVELS, "`lowrank` can't be combined"),
        (ALL, ROWS, "a global budget can't be combined"),
        (ROWS, ALL, "a global budget can't be combined"),
        (ALL, ALL, "a global budget can't be combined"),
        (ALL, LEVELS, "a global budget can't be combined"),
    ],
)
def test_sets_that_make_no_sense_together_are_refused(
    first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    found = problems(quantize(first, second))
    assert any(at == ("constraints", 1) and text.startswith(LINEAR) and words in text for at, text in found), found


def test_sets_that_make_sense_together_are_combined() -> None:
    """In all orders that are allowed; the bound is the least of theirs."""
    assert check(prune(ROWS, CARD)).tensors == {"5.weight": 200_000}
    assert check(prune(ROWS | {"rate": 5.0}, HALF)).tensors == {"5.weight": 80_000}
    assert check(prune(ROWS, CARD)).exact == frozenset()
    assert check(prune(CARD)).exact == {"5.weight"}
    assert check(quantize(ROWS, HALF, LEVELS)).tensors == {"5.weight": 200_000}
    assert check(quantize(CARD, SHARED)).tensors == {"5.weight": 200_000}
    names = ("0.weight", "2.weight", "5.weight", "7.weight")
    assert check(prune(ALL | {"rate": 246.0})).budgets == ((names, 1750),)
    assert check(prune(ALL | {"rate": 246.0})).tensors == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 430_501.0}, "asks for 0 of 430500 weights"),
        ({"count": 430_501, "rate": None}, "asks for 430501 of 430500 weights"),
        ({"rate": 1000.0, "floor": 108}, "asks for 430 of 430500 weights, with at least 432 for the floor of 108"),
    ],
)
def test_budgets_that_cannot_be_spent_are_refused(change: dict[str, Any], words: str) -> None:
    ((at, text),) = problems(prune(ALL | change))
    assert at == ("constraints", 0)
    assert words in text
    assert "in each of 4 tensors" in text


@pytest.mark.parametrize(
    ("sets", "change", "at", "words"),
    [
        ([CARD], {}, "constraints", "5.weight (500, 800): a quantize stage needs `levels` or `clusters`"),
        ([LEVELS, HALF | {"tensors": "7.*"}], {}, "constraints", "7.weight (10, 500): a quantize stage needs"),
        ([LEVELS, SHARED | {"tensors": "7.*"}], {}, "constraints", "levels and clusters need a stage each"),
        ([SHARED], {"snap": {"rounds": 1, "lr": 0.1}}, "snap", "`snap` is for `set: levels`"),
        ([LEVELS], {"centroids": {"epochs": 1, "lr": 0.1}}, "centroids", "`centroids` is for `set: clusters`"),
    ],
)
def test_a_quantize_stage_needs_values_and_their_training(
    sets: list[dict[str, Any]], change: dict[str, Any], at: str, words: str
) -> None:
    ((where, text),) = problems(quantize(*sets, **change))
    assert where == (at,)
    assert words in text


@pytest.mark.parametrize("settings", [LEVELS, SHARED])
def test_a_prune_takes_no_values(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        prune(settings)


def test_two_rules_for_rho_are_refused() -> None:
    with pytest.raises(ValidationError, match="use one of them"):
        quantize(LEVELS, admm={"updates": 1, "lr": 0.1, "rho": 0.1, "rho_balance": True, "rho_growth": 1.5})

"""Patterns meet parameters: each constrained tensor gets its set, and what can't work is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stages.constraints.cardinality import Cardinality
from stages.models import MODELS
from stages.spec import Model, PruneSpec, SpecError, TrainSpec
from stages.targets import build_model, check, constraints

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


def problems(spec: PruneSpec) -> list[tuple[tuple[str | int, ...], str]]:
    """What `check` has to say."""
    with pytest.raises(SpecError) as caught:
        check(spec)
    return caught.value.problems


def test_the_layer_table_of_the_167x_lenet() -> None:
    keep = {"0.weight": 0.2, "2.weight": 0.053, "5.weight": 0.002, "7.weight": 0.07}
    spec = prune(*({"tensors": name, "keep": share} for name, share in keep.items()))
    assert check(spec) == {"0.weight": 100, "2.weight": 1325, "5.weight": 800, "7.weight": 350}


def test_a_star_is_all_weights_and_no_bias() -> None:
    assert check(prune({"tensors": "*", "rate": 10.0})) == {
        "0.weight": 50,
        "2.weight": 2500,
        "5.weight": 40_000,
        "7.weight": 500,
    }


def test_only_what_is_matched_is_constrained() -> None:
    shapes = {name: torch.Size(shape) for name, shape in LENET.items()} | {"0.bias": torch.Size([20])}
    assert constraints(prune({"tensors": "[57].weight", "count": 9}), shapes) == {
        "5.weight": Cardinality(9),
        "7.weight": Cardinality(9),
    }
    plain = {"kind": "train", "model": {"name": "lenet5"}, "data": DATA, "train": {"epochs": 1, "lr": 0.1}}
    assert constraints(TrainSpec.model_validate(plain), shapes) == {}


def test_normalisation_is_never_constrained() -> None:
    found = check(prune({"tensors": "*", "rate": 2.0}, model="resnet18"))
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
    assert "only biases or normalisation (0.bias, 2.bias, 5.bias, 7.bias)" in text


def test_overlapping_patterns() -> None:
    ((at, text),) = problems(prune({"tensors": "[05].weight", "rate": 2.0}, {"tensors": "[57].weight", "rate": 3.0}))
    assert at == ("constraints", 1, "tensors")
    assert "5.weight is constrained by constraints[0] already" in text


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


@pytest.mark.parametrize("name", ["digits_cnn", "lenet5", "resnet18"])
def test_models_have_as_many_outputs_as_asked_and_the_weights_they_promise(name: str) -> None:
    shape = {"digits_cnn": (2, 1, 8, 8), "lenet5": (2, 1, 28, 28), "resnet18": (2, 3, 32, 32)}[name]
    model = build_model(Model(name=name, classes=7)).eval()
    assert model(torch.zeros(shape)).shape == (2, 7)
    ten = build_model(Model(name=name), device="meta")
    assert all(p.is_meta for p in ten.parameters())
    weights = sum(p.numel() for p in ten.parameters() if p.ndim > 1)
    assert weights == {"digits_cnn": 71_568, "lenet5": 430_500, "resnet18": 11_172_032}[name]
    assert name in MODELS

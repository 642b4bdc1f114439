"""Rates, ADMM and models: what contradicts itself, or would change nothing, is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.training import Admm, Model, Optimizer, Training


@pytest.mark.parametrize("kind", [Training, Admm])
@pytest.mark.parametrize("given", [{"schedule": "step"}, {"every": 3}, {"schedule": "cosine", "every": 3}])
def test_every_and_steps_belong_together(kind: type[Training | Admm], given: dict[str, Any]) -> None:
    rest = {"epochs": 6, "lr": 0.1} | ({"updates": 2, "rho": 0.1} if kind is Admm else {})
    assert kind.model_validate(rest | {"schedule": "step", "every": 3.5}).every == 3.5
    with pytest.raises(ValidationError, match="`every` belongs to `schedule: step`"):
        kind.model_validate(rest | given)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Optimizer, {"momentum": 0.5}, "`momentum` belongs to `name: sgd`, and this is adam"),
        (Optimizer, {"name": "adamw", "momentum": 0.0}, "and this is adamw"),
        (Training, {"factor": 0.5}, "`factor` belongs to `schedule: step`, and this is cosine"),
        (Admm, {"factor": 0.5}, "`factor` belongs to `schedule: step`, and this is constant"),
        (Admm, {"lr_restart": False}, "`lr_restart: false` is for rates that fall"),
        (Admm, {"ramp": 0.5}, "`ramp` belongs to `rate_from`, which is not given"),
    ],
)
def test_what_would_change_nothing_is_refused(kind: type[Settings], given: dict[str, Any], message: str) -> None:
    """Its default is not: settings are dumped in full and read again."""
    rest = {Optimizer: {}, Training: {"epochs": 1, "lr": 0.1}, Admm: {"updates": 2, "lr": 0.1, "rho": 0.1}}[kind]
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(rest | given)
    used = {
        "momentum": {"name": "sgd"},
        "factor": {"schedule": "step", "every": 3},
        "lr_restart": {"schedule": "cosine"},
        "ramp": {"rate_from": 2.0},
    }
    for one in (kind.model_validate(rest), kind.model_validate(rest | given | used[[*given][-1]])):
        assert kind.model_validate_json(one.model_dump_json()) == one


def test_a_hash_is_of_weights() -> None:
    with pytest.raises(ValidationError, match="`sha256` is of `weights`, and there are none"):
        Model(name="lenet5", sha256="a" * 64)
    given = (None, "torchvision", "torchvision:V2", "s3://x")
    assert [Model(name="lenet5", weights=one).file for one in given] == [None, None, None, "s3://x"]


def test_weights_that_are_partly_taken_are_refused_in_our_words() -> None:
    with pytest.raises(ValidationError, match="file: must be a valid string, not 3; skip: is missing; more: unknown"):
        Model.model_validate({"name": "lenet5", "weights": {"file": 3, "more": 1}})


@pytest.mark.parametrize("given", [{"rho_growth": 1.5}, {"rho_balance": True}])
def test_one_setting_says_what_rho_is(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="all set rho: use one of them"):
        Admm.model_validate({"updates": 2, "lr": 0.1, "rho": 0.1, "rho_schedule": "cosine"} | given)


@pytest.mark.parametrize("given", [{"sam": {"radius": -0.1}}, {"ema": 1.0}, {"ema": 0.0}])
def test_radii_and_decays_that_say_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Training.model_validate({"epochs": 1, "lr": 0.1} | given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (True, "hidden\n.*a number above 0 is needed, or {weight, modules, layers}, not True"),
        ("1", "not '1'; put no number in quotes"),
        ({"modules": []}, "`modules` is empty, which is not all of them"),
        ({"layers": []}, "`layers` is empty, which is not all of them"),
    ],
)
def test_what_is_no_place_in_a_network_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Distill.model_validate({"weight": 0.5, "hidden": given})

"""Settings: frozen, strict, and amounts that mean the same number of weights everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.kinds.job import StageJob, key_material
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.engine import Engine
from dualprune.stages.settings.sets import Cardinality
from dualprune.stages.settings.training import Admm, Model, Optimizer, Training

PRUNE: dict[str, Any] = {
    "kind": "prune",
    "model": {"name": "lenet5"},
    "data": {"source": "digits"},
    "constraints": [{"set": "cardinality", "tensors": "*", "rate": 4.0}],
    "admm": {"updates": 2, "lr": 0.1, "rho": 0.01},
    "retrain": {"epochs": 1, "lr": 0.1},
}


def cardinality(**amount: Any) -> Cardinality:
    """Settings of a cardinality constraint on every tensor."""
    return Cardinality.model_validate({"set": "cardinality", "tensors": "*"} | amount)


@pytest.mark.parametrize(
    ("amount", "size", "k"),
    [
        ({"keep": 0.2}, 500, 100),
        ({"keep": 0.053}, 25_000, 1325),
        ({"keep": 0.002}, 400_000, 800),
        ({"keep": 0.07}, 5_000, 350),
        ({"rate": 4.0}, 10, 2),
        ({"rate": 4.0}, 7, 1),
        ({"rate": 3.0}, 9, 3),
        ({"rate": 49.0}, 49, 1),
        ({"rate": 1.0}, 12, 12),
        ({"keep": 1.0}, 12, 12),
        ({"keep": 0.29}, 100, 29),
        ({"keep": 0.999}, 1000, 999),
        ({"keep": 0.1999}, 10, 1),
        ({"rate": 11.0}, 10, 0),
        ({"count": 5}, 3, 5),
    ],
)
def test_entries(amount: dict[str, Any], size: int, k: int) -> None:
    """The first four are the layer table of the 167x LeNet-5."""
    assert cardinality(**amount).entries(size) == k


def test_whole_rates_and_percentages_are_floored_without_rounding_error() -> None:
    """Against division of whole numbers."""
    for rate in range(1, 200):
        for size in (rate, 7 * rate, 7 * rate - 1, 430_500, 11_678_912):
            assert cardinality(rate=float(rate)).entries(size) == size // rate, (size, rate)
    for percent in range(1, 101):
        for size in (100, 500, 1234, 400_000):
            assert cardinality(keep=percent / 100).entries(size) == size * percent // 100, (size, percent)


@pytest.mark.parametrize(
    "amount",
    [{}, {"rate": 2.0, "keep": 0.5}, {"rate": 2.0, "count": 3}, {"rate": 2.0, "keep": 0.5, "count": 3}],
)
def test_exactly_one_amount(amount: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of"):
        cardinality(**amount)


@pytest.mark.parametrize("amount", [{"rate": 0.5}, {"keep": 0.0}, {"keep": 1.5}, {"count": 0}, {"rate": "4"}])
def test_impossible_amounts_are_refused(amount: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cardinality(**amount)


@pytest.mark.parametrize(
    "settings",
    [
        Optimizer(),
        Training(epochs=1, lr=0.1),
        Admm(updates=1, lr=0.1, rho=0.1),
        Data(source="digits"),
        Engine(),
        cardinality(rate=2.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frozen_and_no_unknown_keys(settings: Any) -> None:
    field = next(iter(type(settings).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, field, getattr(settings, field))
    given = settings.model_dump(exclude_none=True)
    assert type(settings).model_validate(given) == settings
    with pytest.raises(ValidationError, match=r"surprise\s+Extra inputs are not permitted"):
        type(settings).model_validate(given | {"surprise": 1})


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
    }
    for one in (kind.model_validate(rest), kind.model_validate(rest | given | used[[*given][-1]])):
        assert kind.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize("given", [{"regrow": True}, {"duals": "carry"}])
def test_what_only_admm_does_is_refused_without_it(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="changes nothing without ADMM"):
        PruneSpec.model_validate(PRUNE | {"admm": None} | given)
    assert PruneSpec.model_validate(PRUNE | {"admm": None}).admm is None


def test_an_unknown_key_is_refused_at_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        PruneSpec.model_validate(PRUNE | {"admm": PRUNE["admm"] | {"roh": 1.0}})
    assert [error["loc"] for error in caught.value.errors()] == [("admm", "roh")]


@pytest.mark.parametrize("kind", ["train", "prune"])
def test_the_kind_decides_the_class(kind: str) -> None:
    given = PRUNE if kind == "prune" else {**{k: PRUNE[k] for k in ("model", "data")}, "kind": "train"}
    given = given if kind == "prune" else given | {"train": {"epochs": 1, "lr": 0.1}}
    assert isinstance(parse(given), PruneSpec if kind == "prune" else TrainSpec)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "either `source`"),
        ({"source": "digits", "shards": "x"}, "either `source`"),
        ({"source": "digits", "folder": "x"}, "`folder` belongs to"),
        ({"source": "digits", "mean": [0.1, 0.2]}, "2 values and `std` has 1"),
        ({"source": "digits", "std": [0.0]}, "greater than 0"),
    ],
)
def test_data_settings_that_contradict_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Data.model_validate(data)


def test_what_zero_3_gathers_can_not_be_compiled() -> None:
    assert Engine(compile=True, zero=2).compile
    with pytest.raises(ValidationError, match="`compile` can't follow weights that ZeRO 3 gathers"):
        Engine(compile=True, zero=3)


@pytest.mark.parametrize(
    ("settings", "alone", "together"),
    [({}, 0, 1), ({"offload": True}, 1, 1), ({"zero": 0}, 0, 0), ({"zero": 1}, 1, 1), ({"zero": 3}, 3, 3)],
)
def test_one_worker_shards_nothing_unless_it_is_told(settings: dict[str, Any], alone: int, together: int) -> None:
    engine = Engine.model_validate(settings)
    assert [engine.stage(ranks) for ranks in (1, 2, 8)] == [alone, together, together]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_only_what_is_sharded_can_be_offloaded(zero: int) -> None:
    assert Engine.model_validate({"zero": zero}).offload is False
    if zero:
        assert Engine.model_validate({"zero": zero, "offload": True}).offload is True
        return
    with pytest.raises(ValidationError, match="`offload` moves what ZeRO shards: it needs `zero` 1, 2 or 3"):
        Engine.model_validate({"zero": zero, "offload": True})


def test_a_task_survives_json() -> None:
    task = StageJob.model_validate(
        {
            "name": "n",
            "key": "k",
            "store": "s",
            "spec": PRUNE,
            "parents": [{"name": "p", "key": "q"}],
            "shards": "x",
            "data_digest": "d",
            "engine": {"zero": 3},
        }
    )
    assert StageJob.model_validate_json(task.model_dump_json()) == task


def test_the_key_knows_results_and_not_places() -> None:
    def key(**change: Any) -> dict[str, Any]:
        return key_material(PruneSpec.model_validate(PRUNE | change), "digest", ["parent"])

    assert key() == key(data={"shards": "/elsewhere"}) == key(data={"source": "mnist", "folder": "x"})
    same = {"name": "lenet5"}
    assert key() == key(model=same | {"weights": None, "sha256": None}) == key(data={"source": "digits", "limit": None})
    pretrained = same | {"weights": "a.pth", "sha256": "a" * 64}
    assert key(model=pretrained) == key(model=pretrained | {"weights": "b.pth"}) != key()
    assert key(model=pretrained) != key(model=pretrained | {"sha256": "b" * 64})
    for change in ({"data": {"source": "digits", "flip": True}}, {"data": {"source": "digits", "limit": 9}}):
        assert key(**change) != key()
    assert key() == key(data={"source": "digits", "workers": 8, "cache": 10**9, "bad": 0.5})
    data = [{"source": "digits", **own} for own in ({"shift": 1}, {"crop": 96}, {"window": 4}, {"flip": True})]
    for change in ({"seed": 1}, {"batch": 32}, {"duals": "carry"}, {"smoothing": 0.1}, *({"data": d} for d in data)):
        assert key(**change) != key()
    assert key_material(PruneSpec.model_validate(PRUNE), "other", ["parent"]) != key()
    assert key_material(PruneSpec.model_validate(PRUNE), "digest", ["other"]) != key()


def test_keys_of_old_settings_stay() -> None:
    """Of stages from before there were weights from elsewhere, mirrored pictures and limits: artefacts stay what they
    were. The material is written down here as it was then."""
    assert key_material(PruneSpec.model_validate(PRUNE), "digest", ["parent"]) == {
        "spec": {
            "model": {"name": "lenet5"},
            "data": {},
            "kind": "prune",
            "constraints": [{"tensors": "*", "rate": 4.0, "set": "cardinality"}],
            "admm": {"updates": 2, "lr": 0.1, "rho": 0.01},
            "retrain": {"epochs": 1, "lr": 0.1},
        },
        "method": KINDS["prune"].version,
        "data": "digest",
        "parents": ["parent"],
    }


def test_a_hash_is_of_weights() -> None:
    with pytest.raises(ValidationError, match="`sha256` is of `weights`, and there are none"):
        Model(name="lenet5", sha256="a" * 64)
    given = (None, "torchvision", "torchvision:V2", "s3://x")
    assert [Model(name="lenet5", weights=one).file for one in given] == [None, None, None, "s3://x"]


@pytest.mark.parametrize(
    ("mean", "std", "divided"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"),
        (
            [123.675, 116.28, 103.53],
            [1.0, 1.0, 1.0],
            "mean: [0.485, 0.456, 0.406], std: [0.003922, 0.003922, 0.003922]",
        ),
        ([33.3], [78.6], "mean: [0.1306], std: [0.3082]"),
        ([0.0], [255.0], "mean: [0], std: [1]"),
        ([123.675], [0.229], "mean: [0.485], std: [0.229]"),
        ([0.485, 0.456, 0.406], [58.395, 57.12, 57.375], "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"),
        ([0.485, 123.675, 0.4], [0.229, 58.395, 0.225], "mean: [0.485, 0.485, 0.4], std: [0.229, 0.229, 0.225]"),
        ([485.0], [229.0], ""),
        ([-0.485], [0.229], ""),
    ],
)
def test_mean_and_deviation_of_bytes_are_refused(mean: list[float], std: list[float], divided: str) -> None:
    """They train to chance without a word. What they are of pixels in [0, 1] is said, where that can be told."""
    with pytest.raises(ValidationError, match="pixels are numbers from 0 to 1 here") as caught:
        Data(source="digits", mean=mean, std=std)
    assert ("divide them by 255" in str(caught.value)) == bool(divided)
    assert divided in str(caught.value)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), ([0.485], [1 / 255]), ([1.0], [1.0]), ([0.0], [1.0])])
def test_mean_and_deviation_of_pixels_are_taken(mean: list[float], std: list[float]) -> None:
    assert Data(source="digits", mean=mean, std=std).mean == mean


@pytest.mark.parametrize("zero", [True, 1.0, "1", 4, -1])
def test_a_zero_stage_is_a_number(zero: Any) -> None:
    with pytest.raises(ValidationError):
        Engine(zero=zero)

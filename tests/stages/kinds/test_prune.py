"""Settings of a prune: what only ADMM does, and unknown ones."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from dualprune.stages.kinds import schedules
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.job import key_material
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Admm
from tests.stages.kinds.test_job import PRUNE

COUPLED = {"set": "filter", "tensors": "*", "rate": 4.0, "coupled": True}


@pytest.mark.parametrize("given", [{"regrow": True}, {"duals": "carry"}])
def test_what_only_admm_does_is_refused_without_it(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="changes nothing without ADMM"):
        PruneSpec.model_validate(PRUNE | {"admm": None} | given)
    assert PruneSpec.model_validate(PRUNE | {"admm": None}).admm is None


def test_an_unknown_key_is_refused_at_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        PruneSpec.model_validate(PRUNE | {"admm": PRUNE["admm"] | {"roh": 1.0}})
    assert [error["loc"] for error in caught.value.errors()] == [("admm", "roh")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"admm": {"rho_schedule": "cosine"}, "duals": "carry"}, "`duals: carry` keeps rho U"),
        ({"admm": {"rate_from": 20.0}}, "no constraint's `rate` or `keep` is beyond a rate of 20"),
        (
            {
                "admm": {"rate_from": 2.0},
                "constraints": [{"set": "filter", "tensors": "*", "rate": 4.0, "coupled": True}],
            },
            "`rate_from` can't be had of `coupled` constraints",
        ),
        (
            {"admm": {"weigh": "fisher"}, "constraints": [{"set": "lowrank", "tensors": "*", "rank": 2}]},
            "`weigh` says which entries stay, and `lowrank` is not of that",
        ),
    ],
)
def test_what_schedules_of_admm_do_not_go_with_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PruneSpec.model_validate(PRUNE | given | {"admm": PRUNE["admm"] | given["admm"]})


@pytest.mark.parametrize("kind", ["gates", "joint", "scores", "partial", "trp"])
@pytest.mark.parametrize("given", [{"sam": {"radius": 0.1}}, {"ema": 0.9}])
def test_kinds_with_steps_of_their_own_take_no_such_training(kind: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        KINDS[kind].settings.model_validate({"kind": kind, "train": {"epochs": 1, "lr": 0.1} | given})
    assert ("train", *given) in [error["loc"] for error in caught.value.errors()]


def test_statistics_of_a_network_without_any_are_refused_by_a_plan() -> None:
    with pytest.raises(SpecError, match="recalibrate: lenet5 has no batch normalisation"):
        check(parse(PRUNE | {"model": {"name": "lenet5"}, "recalibrate": 100}))


class Tokens(nn.Module):
    """An embedding, attention, and a layer that is tied to the first."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(classes, 8), nn.MultiheadAttention(8, 2)
        self.last, self.middle = nn.Linear(8, classes), nn.Linear(8, 8)
        self.last.weight = self.embedding.weight


def test_tensors_that_have_no_input_for_each_entry_are_refused_by_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "tokens", Tokens)
    spec = PRUNE | {"model": {"name": "tokens"}, "admm": PRUNE["admm"] | {"weigh": "activation"}}
    constraint = {"set": "cardinality", "tensors": ["*", "embedding.weight"], "rate": 2.0}
    with pytest.raises(SpecError) as caught:
        check(parse(spec | {"constraints": [constraint]}))
    assert {place for place, _ in caught.value.problems} == {("admm", "weigh")}
    said = [text.partition(":")[0] for _, text in caught.value.problems]
    assert said == [
        "embedding.weight is of type Embedding",
        "attention.in_proj_weight is of type MultiheadAttention",
        "attention.out_proj.weight is of a part of MultiheadAttention, which uses its weight and never calls it",
    ]
    check(parse(spec | {"constraints": [constraint | {"tensors": "middle.weight"}]}))
    check(parse(spec | {"model": {"name": "lenet5"}}))


def test_settings_that_are_left_out_change_no_key() -> None:
    """Nor do they where they are given as what they are by default."""
    none = {"rho_schedule": None, "rate_from": None, "ramp": 0.75, "sam": None, "sg": False, "weigh": None}
    given = PRUNE | {
        "admm": PRUNE["admm"] | none,
        "retrain": PRUNE["retrain"] | {"sam": None, "ema": None},
        "recalibrate": None,
    }
    one, other = (key_material(parse(spec), "data", []) for spec in (PRUNE, given))
    assert one == other
    assert {"sam", "ema", "recalibrate", "weigh"}.isdisjoint(str(one))


def test_what_is_kept_falls_as_a_cubic() -> None:
    settings = Admm.model_validate({"updates": 2, "lr": 0.1, "rho": 0.1, "rate_from": 2.0, "ramp": 0.5})
    found = [schedules.share(settings, 0.1, done) for done in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.5, 0.1 + 0.4 / 8, 0.1, 0.1])
    assert schedules.share(settings, 0.8, 0.0) == 0.8

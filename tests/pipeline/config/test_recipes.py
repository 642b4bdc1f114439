"""Ladders and beams written out: names, parents, values for each target. What is wrong is in test_entries.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.recipes import expand

ENTRY: dict[str, Any] = {
    "name": "small",
    "kind": "prune",
    "parent": "dense",
    "constraints": [{"set": "cardinality", "tensors": "*"}],
    "admm": {"updates": 1, "lr": 1e-3, "rho": 1e-3},
    "retrain": {"epochs": 1, "lr": 1e-3},
}
LADDER: dict[str, Any] = {**ENTRY, "ladder": [4, 10, 25]}
BEAM: dict[str, Any] = {**ENTRY, "beam": {"pool": [15, 18, 21], "targets": [24, 27, 30]}}


def written_out(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry's stages; the last one's name was told right."""
    problems = Problems("file", {}, {})
    expanded = expand(entry, ("stages", 0), problems)
    assert expanded is not None, problems.found
    assert expanded.last == expanded.entries[-1]["name"]
    return expanded.entries


def refused(entry: dict[str, Any]) -> list[str]:
    """What is wrong with an entry."""
    problems = Problems("file", {}, {})
    assert expand(entry, ("stages", 0), problems) is None
    return problems.found


def test_a_ladder_of_coupled_sets() -> None:
    """Its targets are rates, unless a list says multiply-accumulates."""
    coupled = {"set": "filter", "tensors": "*", "coupled": True}
    stages = written_out(LADDER | {"constraints": [coupled]})
    assert [one["constraints"][0]["rate"] for one in stages] == [4, 10, 25]
    stages = written_out(LADDER | {"constraints": [coupled | {"macs": [0.5, 0.4, 0.3]}]})
    assert [one["constraints"] for one in stages] == [[coupled | {"macs": macs}] for macs in (0.5, 0.4, 0.3)]


def test_a_ladder_goes_from_target_to_target() -> None:
    """Each from the one before, the first from the entry's parent; all else is the entry's."""
    stages = written_out(LADDER)
    assert [(one["name"], one["parent"]) for one in stages] == [
        ("small-4x", "dense"),
        ("small-10x", "small-4x"),
        ("small-25x", "small-10x"),
    ]
    assert [one["constraints"][0]["rate"] for one in stages] == [4, 10, 25]
    for one in stages:
        assert set(one) == set(ENTRY)
        assert {key: one[key] for key in ("kind", "admm", "retrain")} == {
            key: ENTRY[key] for key in ("kind", "admm", "retrain")
        }


def test_an_entry_is_left_as_it_was() -> None:
    """Writing out changes no value of the file."""
    before = copy.deepcopy(BEAM)
    written_out(BEAM)
    assert before == BEAM


def test_the_beam_is_the_papers() -> None:
    """A.4, drawn by hand for a pool of two and two targets: 3 trained from dense, 4 candidates, 2 choices, 2 places."""
    stages = written_out({**ENTRY, "beam": {"pool": [2, 3], "targets": [4, 5]}})
    drawn = {
        "small-2x": ["dense"],
        "small-3x": ["dense"],
        "small-4x-a": ["small-2x"],
        "small-4x-b": ["small-3x"],
        "small-4x": ["small-4x-a", "small-4x-b"],
        "small-4x-pool-a": ["small-2x", "small-4x-a", "small-4x-b"],
        "small-4x-pool-b": ["small-3x", "small-4x-a", "small-4x-b"],
        "small-5x-a": ["small-4x-pool-a"],
        "small-5x-b": ["small-4x-pool-b"],
        "small-5x": ["small-5x-a", "small-5x-b"],
    }
    assert {one["name"]: one["parents"] if "parents" in one else [one["parent"]] for one in stages} == drawn
    kinds = {one["name"]: one["kind"] for one in stages}
    assert {name for name, kind in kinds.items() if kind == "select"} == {"small-4x", "small-5x"}
    assert {name for name, kind in kinds.items() if kind == "replace"} == {"small-4x-pool-a", "small-4x-pool-b"}
    assert [one["candidate"] for one in stages if one["kind"] == "replace"] == [0, 1]


@pytest.mark.parametrize(("pool", "targets"), [(2, 1), (3, 3), (5, 4), (26, 2)])
def test_a_beam_trains_pool_times_rounds_plus_one(pool: int, targets: int) -> None:
    """Every target from every member; the rest is choices, and the pool needs no new places after the last round."""
    beam = {"pool": [2 + n / 100 for n in range(pool)], "targets": [3.0 + n for n in range(targets)]}
    stages = written_out({**ENTRY, "beam": beam})
    kinds = [one["kind"] for one in stages]
    assert kinds.count("prune") == pool * (1 + targets)
    assert kinds.count("select") == targets
    assert kinds.count("replace") == pool * (targets - 1)
    assert len({one["name"] for one in stages}) == len(stages)


@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss"])
def test_a_beams_metric_is_that_of_all_its_choices(metric: str) -> None:
    """The best target and the pool's places are chosen by one measure."""
    stages = written_out({**ENTRY, "beam": {**BEAM["beam"], "metric": metric}})
    assert {one["metric"] for one in stages if one["kind"] in ("select", "replace")} == {metric}


def test_a_list_has_a_value_for_each_target() -> None:
    """In constraints and in the training's settings, at any depth; what is no list is all targets'.

    Which tensors a constraint is for is a list itself.
    """
    stages = written_out(
        {
            **LADDER,
            "constraints": [
                {"set": "cardinality", "tensors": "0.*", "rate": [1.5, 2, 3]},
                {"set": "cardinality", "tensors": ["*", "!0.*", "!8.*"], "layers": ["Linear", "LSTM", "Conv2d"]},
            ],
            "admm": {"updates": [4, 5, 6], "lr": 1e-3, "rho": 1e-3},
            "distill": {"weight": [0.1, 0.2, 0.3]},
            "regrow": [True, True, False],
            "duals": ["reset", "carry", "carry"],
        }
    )
    assert [[c["rate"] for c in one["constraints"]] for one in stages] == [[1.5, 4], [2, 10], [3, 25]]
    assert [one["constraints"][1]["tensors"] for one in stages] == [["*", "!0.*", "!8.*"]] * 3
    assert [one["constraints"][1]["layers"] for one in stages] == [["Linear", "LSTM", "Conv2d"]] * 3
    assert [one["admm"]["updates"] for one in stages] == [4, 5, 6]
    assert [one["distill"]["weight"] for one in stages] == [0.1, 0.2, 0.3]
    assert [(one["regrow"], one["duals"]) for one in stages] == [(True, "reset"), (True, "carry"), (False, "carry")]
    assert {one["admm"]["rho"] for one in stages} == {1e-3}


def test_a_list_may_stand_for_a_whole_mapping() -> None:
    """Of mappings and null: the first target by magnitude alone, say."""
    admm, distill = [None, {"updates": 2}, {"updates": 3}], [{"weight": 0.5}, {"weight": 0.2}, None]
    stages = written_out({**LADDER, "admm": admm, "distill": distill})
    assert [one["admm"] for one in stages] == admm
    assert [one["distill"] for one in stages] == distill


def test_in_a_beam_the_pools_values_come_first() -> None:
    """And a target's value is that of all its candidates."""
    stages = written_out({**BEAM, "retrain": {"epochs": [1, 2, 3, 4, 5, 6], "lr": 1e-3}})
    epochs = {one["name"]: one["retrain"]["epochs"] for one in stages if one["kind"] == "prune"}
    assert [epochs[f"small-{rate}x"] for rate in (15, 18, 21)] == [1, 2, 3]
    assert [{epochs[f"small-{rate}x-{place}"] for place in "abc"} for rate in (24, 27, 30)] == [{4}, {5}, {6}]


@pytest.mark.parametrize("amount", ["rate", "keep", "count"])
def test_an_amount_of_its_own_is_kept(amount: str) -> None:
    """The target is the rate of those constraints only that say no amount."""
    own = {"set": "cardinality", "tensors": "0.*", amount: 1}
    stages = written_out({**LADDER, "constraints": [own]})
    assert all(one["constraints"] == [own] for one in stages)


def test_sets_without_an_amount_get_none() -> None:
    """A ladder of bits gives them as a list."""
    entry = {**LADDER, "kind": "quantize", "constraints": [{"set": "levels", "tensors": "*", "bits": [4, 3, 2]}]}
    assert [one["constraints"][0] for one in written_out(entry)] == [
        {"set": "levels", "tensors": "*", "bits": bits} for bits in (4, 3, 2)
    ]


def test_targets_need_not_be_whole() -> None:
    """Their names have their digits."""
    assert [one["name"] for one in written_out({**ENTRY, "ladder": [1.5, 2.25]})] == ["small-1.5x", "small-2.25x"]


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({**LADDER, **BEAM}, "stages[0]: an entry has one of `ladder`, `beam`, `search` and `threed`"),
        ({**LADDER, "search": {}}, "stages[0]: an entry has one of `ladder`, `beam`, `search` and `threed`"),
        ({**BEAM, "search": {}}, "stages[0]: an entry has one of `ladder`, `beam`, `search` and `threed`"),
        (
            {**LADDER, "kind": "train"},
            "stages[0].kind: a ladder or a beam is of prune, shrink, quantize, partial, gates, joint or scores stages, "
            "not 'train'",
        ),
        (
            {**BEAM, "kind": "select"},
            "stages[0].kind: a ladder or a beam is of prune, shrink, quantize, partial, gates, joint or scores stages, "
            "not 'select'",
        ),
        ({**LADDER, "ladder": []}, "stages[0].ladder: List must have at least 1 item, not 0"),
        ({**LADDER, "ladder": 4}, "stages[0].ladder: a list is needed, not 4; write [4]"),
        ({**LADDER, "ladder": [4, "ten"]}, "stages[0].ladder[1]: must be a valid number, not 'ten'"),
        ({**LADDER, "ladder": [4, -10]}, "stages[0].ladder[1]: must be greater than 0, not -10"),
        ({**LADDER, "ladder": [4, 4.0]}, "stages[0].ladder: two of its targets are the same: small-4x, small-4x"),
        (
            {**BEAM, "beam": {"pool": [2, 3], "targets": [3]}},
            "stages[0].beam: two of its targets are the same: small-2x, small-3x, small-3x",
        ),
        (
            {**BEAM, "beam": {"pool": [2], "targets": [3]}},
            "stages[0].beam.pool: List must have at least 2 items, not 1",
        ),
        (
            {**BEAM, "beam": {"pool": [2, 3], "targets": []}},
            "stages[0].beam.targets: List must have at least 1 item, not 0",
        ),
        ({**BEAM, "beam": {"pool": [2, 3]}}, "stages[0].beam.targets: is missing"),
        (
            {**BEAM, "beam": {"pool": [2, 3], "targets": [4], "width": 3}},
            "stages[0].beam.width: unknown setting; there are pool, targets, metric",
        ),
        (
            {**BEAM, "beam": [2, 3]},
            "stages[0].beam: a mapping is needed, such as {pool: [15, 18], targets: [24, 30]}",
        ),
        (
            {**LADDER, "admm": {"updates": [1, 2], "lr": 1e-3}},
            "stages[0].admm.updates: has 2 values for 3 targets; give one value, or one for each",
        ),
        (
            {**LADDER, "admm": [None, {"updates": 1, "lr": 1e-3}]},
            "stages[0].admm: has 2 values for 3 targets; give one value, or one for each",
        ),
        (
            {**BEAM, "constraints": [{"set": "cardinality", "tensors": "*", "rate": [2, 3, 4]}]},
            "stages[0].constraints[0].rate: has 3 values for 6 targets; give one value, or one for each",
        ),
    ],
)
def test_what_makes_no_recipe_is_refused(entry: dict[str, Any], found: str) -> None:
    """With its place."""
    assert refused(entry) == [found]


def test_nothing_is_chosen_on_test() -> None:
    """A beam can't be told to."""
    (found,) = refused({**ENTRY, "beam": {**BEAM["beam"], "metric": "test_accuracy"}})
    assert found.startswith("stages[0].beam.metric: must be rate, nonzeros, total_bits, macs, or `val_` and ")
    assert found.endswith("not 'test_accuracy'")

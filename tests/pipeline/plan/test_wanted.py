"""What a run is asked for beyond its file: `--force`, `--from`, `--only`; and a search's trials in a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dualprune.pipeline.choices.search import Search, shrunk
from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.node import trial
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan import selection
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.store.store import Store
from tests.pipeline.common import artefact, extended, loaded

SEARCH = """\
- name: least
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*", rate: 2.25}]
  admm: *admm
  retrain: *retrain
  search: {tolerance: 1, trials: 4, most: 16}
- name: twin
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*", rate: 2.25}]
  admm: *admm
  retrain: *retrain
- name: after
  kind: prune
  parent: least
  constraints: [{set: nm, tensors: "6.*", n: 1, m: 4}]
  admm: *admm
  retrain: *retrain
"""
"""A search from `dense`, a stage that is its first trial, and a stage after it."""


def plain(folder: Path, *done: str) -> list[Planned]:
    """CONFIG's plan, some of its stages done."""
    for _ in range(2):
        store, plan = planning.make(*loaded(folder))
        for planned in plan:
            if planned.node.name in done:
                artefact(store.url, planned.node.key)
    return plan


def searching(folder: Path, accuracies: dict[str, float]) -> tuple[Store, dict[str, Planned]]:
    """The plan with SEARCH, trials and stages done as far as their validation accuracies are given, in order."""
    store, plan = planning.make(*load(str(extended(folder, SEARCH))))
    for name, accuracy in accuracies.items():
        by_name = {planned.node.name: planned for planned in plan}
        keys = {name: planned.node.key for name, planned in by_name.items()}
        if name not in keys:
            search, trials = by_name["least"], [p.node for p in plan if p.search]
            held = [t for t in trials if accuracies[t.name] >= accuracies["dense"] - 1]
            factor = float(name.partition("@")[2])
            assert isinstance(search.node.spec, Search)
            spec = shrunk(search.node.spec.stage, factor)
            keys[name] = trial(search.node, f"{factor:g}", spec, [held[-1] if held else by_name["dense"].node]).key
        artefact(store.url, keys[name], name.encode(), val_accuracy=accuracy)
        store, plan = planning.make(*load(str(extended(folder, SEARCH))))
    return store, {planned.node.name: planned for planned in plan}


TRIED = {"dense": 97.0, "least@1": 96.5, "least@16": 80.0, "least@4": 96.25}


def test_without_options_all_is_wanted(tmp_path: Path) -> None:
    """What is done too; the driver looks at that."""
    plan = plain(tmp_path, "dense")
    assert selection.wanted(plan, None, []) == {planned.node.name for planned in plan}


@pytest.mark.parametrize(
    ("start", "names"),
    [
        ("dense", {"dense", "half", "v1.5-quarter", "other"}),
        ("half", {"half", "v1.5-quarter"}),
        ("other", {"other"}),
    ],
)
def test_from_is_a_stage_and_all_after_it(tmp_path: Path, start: str, names: set[str]) -> None:
    """At any distance."""
    assert selection.wanted(plain(tmp_path, "dense"), start, []) == names


def test_only_is_just_those(tmp_path: Path) -> None:
    """Whatever comes after them."""
    plan = plain(tmp_path, "dense", "half")
    assert selection.wanted(plan, None, ["other"]) == {"other"}
    assert selection.wanted(plan, None, ["half", "v1.5-quarter"]) == {"half", "v1.5-quarter"}


@pytest.mark.parametrize(
    ("done", "start", "only", "found"),
    [
        ((), "half", [], ["half needs dense, which is not done; run that first"]),
        (("dense",), None, ["v1.5-quarter"], ["v1.5-quarter needs half, which is not done; run that first"]),
        (
            (),
            None,
            ["other", "half"],
            [
                "half needs dense, which is not done; run that first",
                "other needs dense, which is not done; run that first",
            ],
        ),
    ],
)
def test_what_comes_before_must_be_done(
    tmp_path: Path, done: Sequence[str], start: str | None, only: list[str], found: list[str]
) -> None:
    """Or be among what is wanted itself."""
    with pytest.raises(ConfigError) as caught:
        selection.wanted(plain(tmp_path, *done), start, only)
    assert caught.value.problems == found


@pytest.mark.parametrize("option", ["--from", "--only", "--force"])
def test_unknown_names_are_told_with_what_was_meant(tmp_path: Path, option: str) -> None:
    """And with the option."""
    plan = plain(tmp_path)
    ask: dict[str, Callable[[], object]] = {
        "--from": lambda: selection.wanted(plan, "hafl", []),
        "--only": lambda: selection.wanted(plan, None, ["hafl"]),
        "--force": lambda: selection.forced(plan, ["hafl"]),
    }
    with pytest.raises(ConfigError) as caught:
        ask[option]()
    assert str(caught.value).startswith(f"{option}: 1 problem")
    assert caught.value.problems == ["there is no stage 'hafl'; did you mean 'half'?"]


def test_a_forced_stage_is_to_run_though_it_is_done(tmp_path: Path) -> None:
    """Its artefact has to go, which forcing does not do itself; others stay as they are."""
    before = plain(tmp_path, "dense", "half", "v1.5-quarter", "other")
    plan, keys = selection.forced(before, ["half"])
    states = {planned.node.name: (planned.state, planned.why) for planned in plan}
    assert states.pop("half") == ("run", "asked for by --force")
    assert set(states.values()) == {("cached", "done")}
    assert next(planned.manifest for planned in plan if planned.node.name == "half") is None
    assert keys == {planned.node.key for planned in plan if planned.node.name == "half"}
    assert plain(tmp_path) == before


def test_forcing_what_will_not_run_is_refused(tmp_path: Path) -> None:
    """Its artefact would be lost for nothing; and what needs it can't begin."""
    plan, _ = selection.forced(plain(tmp_path, "dense", "half"), ["half"])
    with pytest.raises(ConfigError) as caught:
        selection.wanted(plan, None, ["other"], ["half"])
    assert caught.value.problems == ["half is not among the stages to run, so --force can't run it"]
    with pytest.raises(ConfigError) as caught:
        selection.wanted(plan, "v1.5-quarter", [], [])
    assert caught.value.problems == ["v1.5-quarter needs half, which is not done; run that first"]


def test_all_that_is_wanted_can_be_forced(tmp_path: Path) -> None:
    """As a smoke run does the second time; a search's trials go with the search, whose name stands for them."""
    _, plan = searching(tmp_path, {**TRIED, "least@8": 90.0, "least": 96.25})
    names = selection.wanted(list(plan.values()), None, [])
    assert names == {name for name in plan if "@" not in name}
    after, keys = selection.forced(list(plan.values()), names, "--smoke")
    assert {(p.state, p.why) for p in after} == {("run", "asked for by --smoke")}
    assert keys == {planned.node.key for planned in plan.values()}
    assert selection.wanted(list(plan.values()), "least", []) == {"least", "after"}


def test_a_searchs_trials_are_shown_as_far_as_they_are_done(tmp_path: Path) -> None:
    """Before the search itself, which says how many there are."""
    _, plan = searching(tmp_path, TRIED)
    names = list(plan)
    assert names[names.index("least") - 3 : names.index("least") + 1] == ["least@1", "least@16", "least@4", "least"]
    assert {name for name in names if plan[name].search == "least"} == {"least@1", "least@16", "least@4"}
    assert {plan[name].state for name in ("least@1", "least@16", "least@4")} == {"cached"}
    assert (plan["least"].state, plan["least"].why) == ("run", "not run yet; 3 of at most 4 trials are done")
    assert plan["twin"].state == "cached"


def test_a_search_before_its_parent_is_done_has_no_trials(tmp_path: Path) -> None:
    """Its own key is known all the same."""
    _, plan = searching(tmp_path, {})
    assert [name for name in plan if "@" in name] == []
    assert plan["least"].why == "not run yet"


def test_a_search_that_failed_says_why(tmp_path: Path) -> None:
    """Its first trial lost too much."""
    _, plan = searching(tmp_path, {"dense": 97.0, "least@1": 90.0})
    assert plan["least"].state == "run"
    assert "lose 7.00 points already" in plan["least"].why


def test_a_finished_search_is_done_with_its_trials(tmp_path: Path) -> None:
    """And what comes after it is planned as of any stage."""
    _, plan = searching(tmp_path, {**TRIED, "least@8": 90.0, "least": 96.25})
    assert {planned.state for name, planned in plan.items() if name.startswith("least")} == {"cached"}
    assert len([name for name in plan if "@" in name]) == 4


def test_a_forced_search_runs_its_trials_again(tmp_path: Path) -> None:
    """They leave the plan; a stage that is the same as one of them goes with it."""
    _, plan = searching(tmp_path, {**TRIED, "least@8": 90.0, "least": 96.25})
    after, keys = selection.forced(list(plan.values()), ["least"])
    assert [p.node.name for p in after] == [name for name in plan if "@" not in name]
    assert keys == {planned.node.key for name, planned in plan.items() if name.startswith("least")}
    assert {p.node.name for p in after if p.why == "asked for by --force"} == {"least", "twin"}


def test_a_forced_stage_that_is_a_trial_too_leaves_the_search_to_look_again(tmp_path: Path) -> None:
    """Only that one artefact goes."""
    _, plan = searching(tmp_path, TRIED)
    after, keys = selection.forced(list(plan.values()), ["twin"])
    assert keys == {plan["twin"].node.key}
    assert [p.node.name for p in after if p.search] == []


def test_a_trial_can_not_be_asked_for_by_itself(tmp_path: Path) -> None:
    """It is its search's."""
    _, plan = searching(tmp_path, TRIED)
    with pytest.raises(ConfigError, match="there is no stage 'least@4'"):
        selection.forced(list(plan.values()), ["least@4"])


def test_sizes_are_of_what_is_trained(tmp_path: Path) -> None:
    """Epochs, steps and the rate that is asked for; of a search those of one trial; a choice has none."""
    entries = SEARCH + "- {name: best, kind: select, parents: [half, other]}\n"
    _, plan = planning.make(*load(str(extended(tmp_path, entries))))
    sizes = {planned.node.name: planned.size for planned in plan}
    # 100 samples in batches of 64 are one step an epoch; ADMM and retraining have one epoch each.
    dense, half, least = sizes["dense"], sizes["half"], sizes["least"]
    assert dense is not None
    assert half is not None
    assert (dense.epochs, dense.steps, dense.rate) == (2, 2, None)
    assert (half.epochs, half.steps) == (2, 2)
    assert half.rate == pytest.approx(2.0, rel=1e-3)
    assert least is not None
    assert (least.epochs, least.steps, least.rate) == (2, 2, pytest.approx(2.25, rel=1e-3))
    assert sizes["best"] is None

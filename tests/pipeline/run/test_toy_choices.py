"""Choices that are added from outside, each by a line in the table, and go through file, plan, smoke and driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from dualprune.pipeline.choices.base import (
    Choice,
    ChoiceSettings,
    Decision,
    Manifest,
    Refuse,
    Stored,
    Take,
    Trials,
    Tried,
    Try,
)
from dualprune.pipeline.choices.table import CHOICES
from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.smoke import smoke
from dualprune.pipeline.node import Node, trial
from dualprune.pipeline.plan import make as planning
from dualprune.stages.kinds.train import TrainSpec
from tests.pipeline.common import artefact, extended, problems
from tests.pipeline.plan.test_make import pretrained
from tests.pipeline.run.test_driver import ERROR
from tests.pipeline.run.test_driver_choices import Ran


class Lightest(ChoiceSettings):
    """The parent with the fewest weights."""

    kind: Literal["lightest"]
    most: int = 10**6
    """More weights than these are too many."""


def lightest(node: Node, parents: Sequence[Node], manifests: Mapping[str, Manifest], stored: Stored) -> Decision:
    """The first of the lightest."""
    assert isinstance(node.spec, Lightest)
    weights = {parent.name: manifests[parent.name]["metrics"]["nonzeros"] for parent in parents}
    best = min(weights, key=lambda name: weights[name])
    return Take(best) if weights[best] <= node.spec.most else Refuse(f"{weights[best]} weights are too many")


class Seeds(ChoiceSettings):
    """A stage with several seeds at once; the best is taken."""

    kind: Literal["seeds"]
    stage: TrainSpec
    count: int


def seeds(node: Node, parents: Sequence[Node], manifests: Mapping[str, Manifest], stored: Stored) -> Decision:
    """All that are not done are tried side by side."""
    assert isinstance(node.spec, Seeds)
    done, open_ = [], []
    for seed in range(node.spec.count):
        one = trial(node, str(seed), node.spec.stage.model_copy(update={"seed": seed}), parents)
        manifest = manifests.get(one.name) or stored.artefact(one.key)
        if manifest is None:
            open_.append(one)
        else:
            done.append(Tried(one, manifest))
    if open_:
        return Try(tuple(open_), tuple(done))
    return Take(max(done, key=lambda one: one.manifest["metrics"]["val_accuracy"]).node.name, tuple(done))


LIGHTEST = Choice(Lightest, version=3, decide=lightest)
SEEDS = Choice(
    Seeds,
    version=1,
    decide=seeds,
    small=lambda settings: settings.model_copy(update={"count": 2}),
    trials=Trials(
        kind="train",
        stage=lambda settings: settings.stage,
        most=lambda settings: settings.count,
        harshest=lambda settings: (settings.stage, "(with any seed)"),
    ),
)


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHOICES, "lightest", LIGHTEST)
    monkeypatch.setitem(CHOICES, "seeds", SEEDS)


LIGHT = """\
- name: light
  kind: lightest
  parents: [dense, half, other]
- name: after
  kind: train
  parent: light
  train: {epochs: 1, lr: 1e-3}
"""
SEVERAL = """\
- name: several
  kind: train
  parent: dense
  train: {epochs: 1, lr: 1e-3}
  seeds: {count: 3}
- name: after
  kind: train
  parent: several
  train: {epochs: 1, lr: 1e-3}
"""
BEST = {"dense": 97.0, "several@0": 95.0, "several@1": 96.0, "several@2": 94.0}


def weighing(folder: Path, **nonzeros: float) -> None:
    """Put the three parents into the store, so heavy."""
    store, plan = planning.make(*load(str(extended(folder, LIGHT))))
    for planned in plan:
        if planned.node.name in nonzeros:
            artefact(store.url, planned.node.key, planned.node.name.encode(), nonzeros=nonzeros[planned.node.name])


def test_a_choice_goes_from_file_to_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version is in its key; what it takes is what comes after it."""
    weighing(tmp_path, dense=300, half=100, other=200)
    run = Ran(tmp_path, monkeypatch, LIGHT)
    found = run.manifest("light")
    assert (found["kind"], found["chosen"]["name"]) == ("lightest", "half")
    assert run.row("light").chosen == "half"
    assert run.states["after"] == "done"
    assert run.lineage("after") == "half after"
    (node,) = [p.node for p in planning.make(*load(str(extended(tmp_path, LIGHT))))[1] if p.node.name == "light"]
    assert node.material["method"] == 3
    assert (node.shards, node.data_digest) != ("", "")


def test_a_choice_may_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its settings, in its words."""
    weighing(tmp_path, dense=300, half=100, other=200)
    entries = LIGHT.replace("parents: [dense, half, other]", "parents: [dense, half, other]\n  most: 99")
    run = Ran(tmp_path, monkeypatch, entries)
    assert (run.row("light").state, run.row("light").why) == ("failed", "100 weights are too many")
    assert run.row("after").state == "skipped"


def test_trials_of_any_choice_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, and the choice ends with the last of them; the next plan has them all."""
    run = Ran(tmp_path, monkeypatch, SEVERAL, BEST)
    assert [name for name in run.lanes.submitted if "@" in name] == ["several@0", "several@1", "several@2"]
    assert run.row("several").chosen == "several@1"
    assert run.lineage("after") == "dense several@1 after"
    assert set(run.states.values()) == {"done"}
    _, plan = planning.make(*load(str(extended(tmp_path, SEVERAL))))
    assert [p.node.name for p in plan if p.search == "several"] == ["several@0", "several@1", "several@2"]


def test_a_plan_says_how_far_any_choice_is(tmp_path: Path) -> None:
    """Trials that are done, those that come next, and the work of one."""
    for done in (["dense"], ["dense", "several@1"]):
        store, plan = planning.make(*load(str(extended(tmp_path, SEVERAL))))
        by_name = {p.node.name: p.node for p in plan} | {one.name: one for p in plan for one in p.trials}
        for name in done:
            artefact(store.url, by_name[name].key, name.encode())
    _, plan = planning.make(*load(str(extended(tmp_path, SEVERAL))))
    (several,) = [p for p in plan if p.node.name == "several"]
    assert [one.name for one in several.trials] == ["several@0", "several@2"]
    assert several.why.endswith("1 of at most 3 trials are done")
    assert several.size is not None
    assert several.size.epochs == 1


@pytest.mark.parametrize("keep_going", [False, True])
def test_trials_that_fail_fail_their_choice_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], keep_going: bool
) -> None:
    """Others of it end as they may; it is not asked again."""
    script = {"several@0": [ERROR], "several@2": [ERROR]}
    run = Ran(tmp_path, monkeypatch, SEVERAL, BEST, script, keep_going=keep_going)
    assert run.row("several").why == "its trial several@0 failed: ValueError: the tensor is gone"
    assert (run.states["several@1"], run.states["several@2"], run.states["after"]) == ("done", "failed", "skipped")
    assert capsys.readouterr().err.count("several failed: its trial") == 1


def test_a_small_run_has_both(tmp_path: Path) -> None:
    """Settings that a choice shortens itself, and a stage that is shortened as any other."""
    config, _ = load(str(extended(tmp_path, LIGHT + SEVERAL.split("- name: after")[0])))
    specs = {stage.name: stage.spec for stage in smoke(config).stages}
    assert specs["light"] == Lightest(kind="lightest")
    several: Any = specs["several"]
    assert (several.count, several.stage.data.limit is None) == (2, False)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (
            LIGHT.replace("lightest", "lihtest"),
            "kind: must be one of train, prune, shrink, quantize, partial, gates, joint, scores, select, lightest, not",
        ),
        (LIGHT.replace("kind: lightest", "kind: lightest\n  mist: 3"), "mist: unknown setting; did you mean 'most'?"),
        (LIGHT.replace("[dense, half, other]", "[half]"), "a list of two or more different stages to choose from"),
        (SEVERAL.replace("{count: 3}", "3"), "seeds: a mapping with `count` is needed, not 3"),
        (SEVERAL.replace("count: 3", "count: x"), "seeds.count: must be a valid integer"),
        (
            SEVERAL.replace("{count: 3}", "{count: 3}\n  search: {tolerance: 1, trials: 3, most: 4}"),
            "an entry has one of `search` and `seeds`",
        ),
        (
            SEVERAL.replace("{count: 3}", "{count: 3}\n  beam: {pool: [2, 3], targets: [4]}"),
            "an entry has one of `ladder`, `beam`, `search`, `threed` and `seeds`",
        ),
    ],
)
def test_what_is_wrong_with_either_is_said_in_the_file(tmp_path: Path, entries: str, said: str) -> None:
    """As of the choices that are there."""
    assert any(said in problem for problem in problems(extended(tmp_path, entries))), problems(
        extended(tmp_path, entries)
    )


def test_a_stage_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A choice says what it tries."""
    entry = SEVERAL.split("- name: after")[0].replace("kind: train", "kind: prune").replace("train: {", "retrain: {")
    entry += '  constraints: [{set: cardinality, tensors: "*", rate: 2}]\n  admm: *admm\n'
    assert any(
        "seeds: a seeds is of train stages, not of a prune" in one for one in problems(extended(tmp_path, entry))
    )


def test_trials_may_start_from_weights_of_elsewhere(tmp_path: Path) -> None:
    """A choice without a parent stays one, and what it tries has the weights' hash."""
    entry = SEVERAL.split("- name: after")[0].replace("  parent: dense\n", "")
    weights = ("name: digits_cnn", f"name: digits_cnn, weights: {pretrained(tmp_path)}")
    _, plan = planning.make(*load(str(extended(tmp_path, entry, weights))))
    (several,) = [p for p in plan if p.node.name == "several"]
    assert isinstance(several.node.spec, Seeds)
    assert several.node.spec.stage.model.sha256 is not None
    assert [one.parents for one in several.trials] == [()] * 3

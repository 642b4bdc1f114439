"""The DAG: keys, what is ready, what is blocked, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dualprune.pipeline import dag
from dualprune.pipeline.choices.search import Search, shrunk
from dualprune.pipeline.choices.table import CHOICES as TABLE
from dualprune.pipeline.config.load import load
from dualprune.pipeline.node import KEY_LENGTH, Node, trial
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.training import StageSpec
from tests.pipeline.common import config, extended, loaded

NAMES = ["dense", "half", "v1.5-quarter", "other"]


def data(_: StageSpec) -> tuple[str, str]:
    """Shards that need not be there."""
    return "shards", "digest"


def keys(folder: Path, *overrides: str) -> dict[str, str]:
    """Keys by name of CONFIG's stages."""
    return {node.name: node.key for node in dag.build(loaded(folder, overrides=list(overrides))[0].stages, data)}


def test_nodes_come_parents_first(tmp_path: Path) -> None:
    """In an order in which they can run, whatever the file's."""
    stages = loaded(tmp_path)[0].stages
    for given in (stages, stages[::-1]):
        names = [node.name for node in dag.build(given, data)]
        assert sorted(names) == sorted(NAMES)
        assert names.index("dense") < names.index("half") < names.index("v1.5-quarter")
        assert names.index("dense") < names.index("other")


def test_keys_are_short_hashes_and_differ(tmp_path: Path) -> None:
    """16 hex digits each."""
    found = keys(tmp_path)
    assert len(set(found.values())) == len(NAMES)
    assert all(len(key) == KEY_LENGTH and int(key, 16) >= 0 for key in found.values())


def test_keys_do_not_depend_on_the_order_of_a_file(tmp_path: Path) -> None:
    """Neither on the order of settings, nor of stages, nor on where a common setting is said."""
    before = keys(tmp_path)
    raw = yaml.safe_load(config(tmp_path).read_text().replace("e-3", ".0e-3"))

    def reversed_(value: object) -> object:
        if isinstance(value, dict):
            return {key: reversed_(entry) for key, entry in reversed(value.items())}
        return [reversed_(entry) for entry in value] if isinstance(value, list) else value

    other = reversed_(raw)
    assert isinstance(other, dict)
    batch = other.pop("batch")
    other["stages"] = [{**stage, "batch": batch} for stage in reversed(other["stages"])]
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(other, sort_keys=False))
    assert {node.name: node.key for node in dag.build(load(str(path))[0].stages, data)} == before


@pytest.mark.parametrize(
    "override",
    [
        "name=another",
        "store=elsewhere",
        "cluster={workers: 8, cpus: 0.5, gpus: 1, lanes: 2, address: auto}",
        "engine={zero: 3, accumulate: 2, checkpoint_steps: 5, threads: 1}",
        "retry={lost: 0, passing: 9}",
        "monitor={wandb: online, project: x}",
        "seed=0",
        "batch=64",
        "stages.half.constraints.0.rate=2.0",
        "data.shards=elsewhere",
    ],
)
def test_keys_do_not_depend_on_how_the_work_is_done(tmp_path: Path, override: str) -> None:
    """Machines, sharding, retries, monitoring, the place of the same data and defaults spelt out change nothing."""
    assert keys(tmp_path, override) == keys(tmp_path)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("seed=1", NAMES),
        ("batch=32", NAMES),
        ("precision=bf16", NAMES),
        ("optimizer.name=sgd", NAMES),
        ("data.shift=1", NAMES),
        ("model.classes=11", NAMES),
        ("stages.dense.train.lr=1e-3", NAMES),
        ("stages.half.admm.rho=0.5", ["half", "v1.5-quarter"]),
        ("stages.half.constraints.0.rate=3", ["half", "v1.5-quarter"]),
        ("stages.half.duals=carry", ["half", "v1.5-quarter"]),
        ("stages.v1.5-quarter.retrain.epochs=2", ["v1.5-quarter"]),
        ("stages.v1.5-quarter.parent=dense", ["v1.5-quarter"]),
        ("stages.other.regrow=true", ["other"]),
    ],
)
def test_a_setting_changes_its_stages_and_what_comes_after(
    tmp_path: Path, override: str, changed: Sequence[str]
) -> None:
    """The key of a stage and of its descendants; all others stay."""
    before, after = keys(tmp_path), keys(tmp_path, override)
    assert [name for name in NAMES if before[name] != after[name]] == changed


CHOICES = """\
- name: best
  kind: select
  parents: [half, other]
- name: least
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*", rate: 2}]
  admm: *admm
  retrain: *retrain
  search: {tolerance: 1, trials: 4, most: 8}
- name: after
  kind: train
  parent: best
  train: {epochs: 1, lr: 1e-3}
- name: beam
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*"}]
  admm: *admm
  retrain: *retrain
  beam: {pool: [2, 3], targets: [4, 5]}
"""


def choosing(folder: Path, *overrides: str) -> dict[str, Node]:
    """Nodes by name of CONFIG with a select, a search, a stage after the select, and a beam."""
    stages = load(str(extended(folder, CHOICES)), list(overrides))[0].stages
    return {node.name: node for node in dag.build(stages, data)}


def test_all_keys_of_choices_are_known_before_anything_runs(tmp_path: Path) -> None:
    """Those of the stages after them too: a key is made of what is chosen from, not of what is chosen.

    Work that is the same has the same key, whatever entry asks for it.
    """
    nodes = choosing(tmp_path)
    names: dict[str, set[str]] = {}
    for node in nodes.values():
        names.setdefault(node.key, set()).add(node.name)
    assert [of for of in names.values() if len(of) > 1] == [{"half", "beam-2x"}, {"v1.5-quarter", "beam-4x-a"}]
    assert {name: len(node.parents) for name, node in nodes.items()}["beam-4x-pool-a"] == 3
    assert nodes["after"].material["parents"] == [nodes["best"].key]
    assert (nodes["best"].shards, nodes["best"].data_digest) == ("shards", "digest")


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stages.best.metric=rate", {"best", "after"}),
        ("stages.best.budget={val_accuracy: 90}", {"best", "after"}),
        ("stages.best.parents=[other, half]", {"best", "after"}),
        ("stages.best.metric=val_accuracy", set()),
        ("stages.least.search.tolerance=2", {"least"}),
        ("stages.least.search.trials=5", {"least"}),
        ("stages.least.search.most=9", {"least"}),
        ("stages.least.retrain.epochs=2", {"least"}),
        ("data.shards=elsewhere", set()),
        ("stages.half.admm.rho=0.5", {"half", "v1.5-quarter", "best", "after"}),
        ("stages.beam.beam.metric=val_loss", {"beam-4x", "beam-5x", "beam-4x-pool-a", "beam-4x-pool-b"}),
    ],
)
def test_a_choices_key_is_made_of_its_settings_and_parents(tmp_path: Path, override: str, changed: set[str]) -> None:
    """And, of a search, of the stage that it tries; where the data lies is left aside here too."""
    before, after = choosing(tmp_path), choosing(tmp_path, override)
    if "beam" in override:
        changed = changed | {"beam-5x-a", "beam-5x-b"}
    assert {name for name in before if before[name].key != after[name].key} == changed


def test_a_new_version_of_choosing_changes_choices_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes after them; a search's stage has its own version too."""
    before = choosing(tmp_path)
    for name, choice in TABLE.items():
        monkeypatch.setitem(TABLE, name, replace(choice, version=choice.version + 1))
    chosen = {"best", "after", "least", "beam-4x", "beam-5x", "beam-4x-pool-a", "beam-4x-pool-b"}
    changed = {name for name, node in choosing(tmp_path).items() if node.key != before[name].key}
    assert changed == chosen | {"beam-5x-a", "beam-5x-b"}
    monkeypatch.undo()
    monkeypatch.setitem(KINDS, "prune", replace(KINDS["prune"], version=99))
    assert choosing(tmp_path)["least"].key != before["least"].key


def test_a_trial_is_a_stage_like_any_other(tmp_path: Path) -> None:
    """Its key is that of a prune with those amounts from that parent, wherever that one stands in a file."""
    nodes = choosing(tmp_path)
    search = nodes["least"]
    assert isinstance(search.spec, Search)
    first = trial(search, "1", search.spec.stage, [nodes["dense"]])
    assert first.key == nodes["half"].key
    assert (first.name, first.parents) == ("least@1", ("dense",))
    harsher = trial(search, "2.5", shrunk(search.spec.stage, 2.5), [first])
    assert isinstance(harsher.spec, PruneSpec)
    assert (harsher.name, harsher.parents, harsher.spec.constraints[0].rate) == ("least@2.5", ("least@1",), 5.0)
    assert harsher.material["parents"] == [first.key]
    assert (harsher.shards, harsher.data_digest) == (search.shards, search.data_digest)


@pytest.mark.parametrize(
    ("parents", "order"),
    [
        ({}, []),
        ({"b": (), "a": ()}, ["b", "a"]),
        ({"c": ("b",), "b": ("a",), "a": ()}, ["a", "b", "c"]),
        ({"d": ("b",), "a": (), "b": (), "c": ("a",)}, ["a", "b", "d", "c"]),
        ({"a": (), "z": ("a",), "b": (), "y": ("a", "b"), "c": ()}, ["a", "z", "b", "y", "c"]),
    ],
)
def test_parents_come_first_and_else_all_stays_in_order(parents: dict[str, tuple[str, ...]], order: list[str]) -> None:
    """So that a plan reads like its file."""
    assert list(dag.in_order(parents)) == order


def test_data_is_in_the_key_by_content(tmp_path: Path) -> None:
    """Another digest, another key, for all that reads it."""
    stages = loaded(tmp_path)[0].stages
    before = {node.key for node in dag.build(stages, data)}
    assert before.isdisjoint(node.key for node in dag.build(stages, lambda _: ("shards", "another digest")))


def test_a_new_version_of_a_method_changes_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of its kind of stage, and of what comes after."""
    before = keys(tmp_path)
    monkeypatch.setitem(KINDS, "prune", replace(KINDS["prune"], version=99))
    after = keys(tmp_path)
    assert [name for name in NAMES if before[name] != after[name]] == NAMES[1:]


@pytest.mark.parametrize(
    ("failed", "blocked"),
    [
        ([], []),
        (["dense"], ["half", "other", "v1.5-quarter"]),
        (["half"], ["v1.5-quarter"]),
        (["other"], []),
        (["half", "other"], ["v1.5-quarter"]),
    ],
)
def test_blocked_is_what_comes_after_a_failure(tmp_path: Path, failed: list[str], blocked: list[str]) -> None:
    """At any distance; a failed stage itself is not blocked."""
    nodes = dag.build(loaded(tmp_path)[0].stages, data)
    assert sorted(node.name for node in dag.blocked(nodes, failed)) == blocked


@pytest.mark.parametrize(
    ("parents", "names"),
    [
        ({"a": (), "b": ("a",), "c": ("a", "b")}, set()),
        ({"a": ("a",)}, {"a"}),
        ({"a": ("c",), "b": ("a",), "c": ("b",), "d": ("a",)}, {"a", "b", "c"}),
    ],
)
def test_a_cycle_is_found(parents: dict[str, tuple[str, ...]], names: set[str]) -> None:
    """Its members, the first one again at the end."""
    found = dag.cycle(parents)
    assert set(found) == names
    assert not found or (found[0] == found[-1] and len(found) == len(names) + 1)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["a.c: 2 -> 3"]),
        ({"a": 1}, {}, ["a: 1 -> None"]),
        ({}, {"a": {"b": 1}}, ["a: None -> {'b': 1}"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a: [1] -> [1, 2]"]),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a[1]: 2 -> 3"]),
        (
            {"a": [{"b": 1}, {"b": 4.75, "c": [{"d": 0}]}]},
            {"a": [{"b": 1}, {"b": 6, "c": None}]},
            ["a[1].b: 4.75 -> 6", "a[1].c: [{'d': 0}] -> None"],
        ),
        ({"s": {"a": [{"b": 1}, {"b": 2}]}}, {"s": {"a": [{"b": 1}]}}, ["s.a: 2 -> 1 of them"]),
        ({"a": 1, "b": {"c": {"d": 1}}}, {"b": {"c": {"d": 2}}, "a": 0}, ["a: 1 -> 0", "b.c.d: 1 -> 2"]),
    ],
)
def test_differences_name_place_and_values(old: dict[str, object], new: dict[str, object], found: list[str]) -> None:
    """Dotted paths, old and new value, for what differs only."""
    assert dag.differences(old, new) == found

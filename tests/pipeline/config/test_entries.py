"""Ladders, beams, searches and selects in a file: how they go together, and what is wrong with them, with its place."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from dualprune.pipeline.choices.search import Search
from dualprune.pipeline.choices.select import Select
from dualprune.pipeline.config.load import load
from tests.kinds import KINDS_SAID, listed
from tests.pipeline.common import extended, line, problems

ENTRIES = """\
- name: rungs  # the ladder
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*"}]  # rungs' amounts
  admm: *admm
  retrain: *retrain
  ladder: [3, 6]
- name: wide  # the beam
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*"}]  # pool's amounts
  admm: *admm
  retrain: *retrain
  beam: {pool: [2.5, 3.5], targets: [4.5, 5]}
- name: least  # the search
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*", rate: 2.25}]
  admm: *admm
  retrain: *retrain
  search: {tolerance: 0.5, trials: 5, most: 4}
- name: best  # the select
  kind: select
  parents: [rungs, wide, least, half]
  metric: rate
  budget: {val_accuracy: 90}
- name: tuned  # the last
  kind: train
  parent: best
  train: {epochs: 1, lr: 1e-3}
"""
"""Added to CONFIG: a ladder, a beam, a search, a select from all of them, and a stage after it."""


def test_an_entry_stands_for_its_last_stage(tmp_path: Path) -> None:
    """Children that name a ladder or a beam as their parent start from its end, wherever it stands in the file."""
    stages = {stage.name: stage for stage in load(str(extended(tmp_path, ENTRIES)))[0].stages}
    assert stages["best"].parents == ("rungs-6x", "wide-5x", "least", "half")
    assert "rungs" not in stages
    assert "wide" not in stages
    assert stages["rungs-3x"].parents == ("dense",)
    assert {stages[f"rungs-{rate}x"].number for rate in (3, 6)} == {4}
    best, least = stages["best"].spec, stages["least"].spec
    assert isinstance(best, Select)
    assert (best.metric, best.budget) == ("rate", {"val_accuracy": 90.0})
    assert isinstance(least, Search)
    assert (least.trials, least.stage.constraints[0].rate) == (5, 2.25)


def test_a_child_may_stand_before_its_ladder(tmp_path: Path) -> None:
    """And a ladder may go on from another one, from a beam, or from a select."""
    changes = (
        ("parent: half\n", "parent: rungs\n"),
        ("rate: 4}", "rate: 8}"),
        ("  # the ladder\n    kind: prune\n    parent: dense", "\n    kind: prune\n    parent: wide"),
        ("ladder: [3, 6]", "ladder: [6, 7]"),
        ("parents: [rungs, wide, least, half]", "parents: [least, half]"),
    )
    stages = {stage.name: stage for stage in load(str(extended(tmp_path, ENTRIES, *changes)))[0].stages}
    assert stages["v1.5-quarter"].parents == ("rungs-7x",)
    assert stages["rungs-6x"].parents == ("wide-5x",)


def test_a_teacher_may_be_a_ladder(tmp_path: Path) -> None:
    """All rungs of another entry learn from its end."""
    change = ("  # the beam\n    kind: prune\n", "\n    kind: prune\n    teacher: rungs\n    distill: {weight: 0.5}\n")
    stages = {stage.name: stage for stage in load(str(extended(tmp_path, ENTRIES, change)))[0].stages}
    assert stages["wide-2.5x"].parents == ("dense", "rungs-6x")
    assert stages["wide-4.5x-b"].parents == ("wide-3.5x", "rungs-6x")


class Bad(NamedTuple):
    """One mistake: a change to the file, text of the line at fault, the dotted path, and words of the message."""

    old: str
    new: str
    at: str
    path: str
    words: str


LADDER = "    ladder: [3, 6]\n"
BEAM = "{pool: [2.5, 3.5], targets: [4.5, 5]}"
SEARCH = "{tolerance: 0.5, trials: 5, most: 4}"
RATE = 'tensors: "*", rate: 2.25}]'
PARENTS = "parents: [rungs, wide, least, half]"
LAST = "  - name: tuned  # the last\n"
EXTRA = """\
  - name: {}  # an extra one
    kind: prune
    parent: dense
    constraints: [{{set: cardinality, tensors: "*"}}]
    admm: *admm
    retrain: *retrain
    ladder: [7, 9]
"""
BAD = {
    "lists of another length": Bad(
        LADDER,
        LADDER.replace("ladder", "regrow: false\n    distill: {weight: [0.1, 0.2, 0.3]}\n    ladder"),
        "distill",
        "stages[4].distill.weight",
        "has 3 values for 2 targets; give one value, or one for each",
    ),
    "two equal targets": Bad("[3, 6]", "[3, 3]", "[3, 3]", "stages[4].ladder", "the same: rungs-3x, rungs-3x"),
    "a target in pool and targets": Bad("[4.5, 5]", "[3.5, 5]", "beam: {", "stages[5].beam", "targets are the same"),
    "a pool of one": Bad("pool: [2.5, 3.5]", "pool: [2.5]", "beam: {", "stages[5].beam.pool", "at least 2 items"),
    "no targets": Bad("ladder: [3, 6]", "ladder: []", "ladder: []", "stages[4].ladder", "at least 1 item"),
    "a target that is no number": Bad("[3, 6]", "[3, six]", "six", "stages[4].ladder[1]", "a valid number, not 'six'"),
    "a target below 1": Bad(
        "[3, 6]", "[0.5, 6]", "rungs' amounts", "stages[4].constraints[0].rate", "or equal to 1, not 0.5"
    ),
    "an unknown setting of a beam": Bad(BEAM, BEAM[:-1] + ", widht: 3}", "widht", "stages[5].beam.widht", "unknown"),
    "a beam by test": Bad(
        BEAM, BEAM[:-1] + ", metric: test_accuracy}", "beam: {", "stages[5].beam.metric", "not 'test_accuracy'"
    ),
    "a ladder of training": Bad(
        "  # the ladder\n    kind: prune",
        "\n    kind: train",
        "kind: train  # here",
        "stages[4].kind",
        f"a ladder or a beam is of {listed('or')} stages, not 'train'",
    ),
    "a ladder whose kind is misspelt": Bad(
        "  # the ladder\n    kind: prune",
        "\n    knd: prune",
        "knd",
        "stages[4].knd",
        "unknown setting; did you mean 'kind'?",
    ),
    "a ladder that regrows": Bad(
        "ladder: [3, 6]",
        "ladder: [6, 3]",
        "rungs' amounts",
        "stages[4].constraints",
        "rungs-3x: asks for 48 weights in 0.weight, but rungs-6x leaves only 24",
    ),
    "beam and search": Bad(
        f"beam: {BEAM}",
        f"beam: {BEAM}\n    search: {SEARCH}",
        "the beam",
        "stages[5]",
        "one of `ladder`, `beam`, `search`",
    ),
    "ladder and beam": Bad(
        LADDER,
        LADDER + f"    beam: {BEAM}\n",
        "the ladder",
        "stages[4]",
        "has one of `ladder`, `beam`, `search`",
    ),
    "a ladder without a parent": Bad(
        "  # the ladder\n    kind: prune\n    parent: dense\n",
        "  # the ladder\n    kind: prune\n",
        "the ladder",
        "stages[4]",
        "a prune needs a `parent`",
    ),
    "a ladder of an unknown parent": Bad(
        "  # the ladder\n    kind: prune\n    parent: dense",
        "\n    kind: prune\n    parent: dnese",
        "dnese",
        "stages[4].parent",
        "there is no stage 'dnese'; did you mean 'dense'?",
    ),
    "a ladder from itself": Bad(
        "  # the ladder\n    kind: prune\n    parent: dense",
        "\n    kind: prune\n    parent: rungs",
        "parent: rungs",
        "stages[4].parent",
        "the stages form a cycle: ",
    ),
    "a ladder named as a stage before it": Bad(
        LAST,
        EXTRA.format("half") + LAST,
        "an extra one",
        "stages[8].name",
        "there is a stage 'half' already, stages[1]",
    ),
    "two ladders of one name": Bad(
        LAST, EXTRA.format("rungs") + LAST, "an extra one", "stages[8].name", "a stage 'rungs' already, stages[4]"
    ),
    "a stage named as a ladder before it": Bad(
        "name: tuned  # the last", "name: wide  # the last", "the last", "stages[8].name", "'wide' already, stages[5]"
    ),
    "a stage named as a rung": Bad(
        "name: tuned  # the last",
        "name: rungs-3x  # the last",
        "the last",
        "stages[8].name",
        "'rungs-3x' already, stages[4]",
    ),
    "a beam that regrows": Bad(
        "pool: [2.5, 3.5], targets: [4.5, 5]",
        "pool: [2.5, 4], targets: [3.5, 5]",
        "pool's amounts",
        "stages[5].constraints",
        "wide-3.5x-b: asks for 41 weights in 0.weight, but wide-4x leaves only",
    ),
    "a search without amounts": Bad(
        'set: cardinality, tensors: "*", rate: 2.25}]',
        'set: nm, tensors: "6.*", n: 2, m: 4}]',
        "search: {",
        "stages[6].search",
        "a search changes `rate`, `keep`, `count` or `macs`, and no constraint has one of them",
    ),
    "a search whose most leaves nothing": Bad(
        "most: 4}", "most: 1000}", "rate: 2.25", "stages[6].constraints[0]", "(at the search's factor 1000)"
    ),
    "a search of no mapping": Bad(
        SEARCH, "[0.5, 5, 4]", "search: [", "stages[6].search", "a mapping with `tolerance`, `trials` and `most`"
    ),
    "a search that lacks a setting": Bad(
        "tolerance: 0.5, ", "", "search: {", "stages[6].search.tolerance", "is missing"
    ),
    "a search with an unknown setting": Bad(
        SEARCH, SEARCH[:-1] + ", trails: 4}", "trails", "stages[6].search.trails", "did you mean 'trials'?"
    ),
    "a search of one trial": Bad(
        "trials: 5", "trials: 1", "search: {", "stages[6].search.trials", "or equal to 2, not 1"
    ),
    "a search up to 1": Bad("most: 4", "most: 1", "search: {", "stages[6].search.most", "greater than 1, not 1"),
    "a select of one": Bad(PARENTS, "parents: [half]", "[half]", "stages[7].parents", "two or more different stages"),
    "a select of the same": Bad(
        PARENTS, "parents: [half, half]", "[half, half]", "stages[7].parents", "two or more different stages"
    ),
    "a select of no list": Bad(PARENTS, "parents: half", "parents: half", "stages[7].parents", "not 'half'"),
    "a select with a parent": Bad(
        PARENTS, PARENTS + "\n    parent: half  # and", "# and", "stages[7].parent", "did you mean 'parents'?"
    ),
    "a select of a stage that is not there": Bad(
        PARENTS, "parents: [half, hafl]", "hafl", "stages[7].parents[1]", "no stage 'hafl'; did you mean 'half'?"
    ),
    "a select of itself": Bad(PARENTS, "parents: [half, best]", "the select", "stages[7].parent", "best -> best"),
    "a select by test": Bad(
        "metric: rate", "metric: test_accuracy", "metric", "stages[7].metric", "not 'test_accuracy'"
    ),
    "a select within a budget of test": Bad(
        "budget: {val_accuracy: 90}",
        "budget: {test_accuracy: 90}",
        "budget",
        "stages[7].budget.test_accuracy",
        "must be rate, nonzeros",
    ),
    "a select by nothing there is": Bad(
        "metric: rate", "metric: speed", "metric: speed", "stages[7].metric", "must be rate, nonzeros"
    ),
    "a select by a metric of another objective": Bad(
        "metric: rate", "metric: val_mse", "val_mse", "stages[7].metric", "must be 'val_accuracy', 'val_loss', "
    ),
    "a budget of a metric of another objective": Bad(
        "val_accuracy: 90", "val_mse: 9", "val_mse", "stages[7].budget.val_mse", "must be 'val_accuracy', 'val_loss', "
    ),
    "a beam by a metric of another objective": Bad(
        BEAM, BEAM[:-1] + ", metric: val_mse}", "beam: {", "stages[5].beam.metric", "or 'dense_bytes', not 'val_mse'"
    ),
    "a beam that nothing is timed for": Bad(
        BEAM, BEAM[:-1] + ", metric: milliseconds}", "beam: {", "stages[5].beam.metric", "dense_bytes, or `val_` and"
    ),
    "a search that allows more than all": Bad(
        "tolerance: 0.5", "tolerance: 101", "search: {", "stages[6].search.tolerance", "at most 100, in points"
    ),
    "a budget that is no number": Bad(
        "val_accuracy: 90", "val_accuracy: high", "high", "stages[7].budget.val_accuracy", "valid number, not 'high'"
    ),
    "a select that trains": Bad(
        "metric: rate", "metric: rate\n    seed: 1", "seed: 1", "stages[7].seed", "unknown setting"
    ),
    "a place in a pool that is no beam's": Bad(
        "kind: select",
        "kind: replace\n    candidate: 0",
        "kind: replace",
        "stages[7].kind",
        f"must be one of {KINDS_SAID}, not 'replace'",
    ),
    "a child of a select with another network": Bad(
        "parent: best\n", "parent: best\n    model: {name: lenet5}\n", "lenet5", "stages[8].model", "best has another"
    ),
    "a child that asks for more than any of them leaves": Bad(
        "    kind: train\n    parent: best\n    train: {epochs: 1, lr: 1e-3}\n",
        '    kind: prune\n    parent: best\n    constraints: [{set: cardinality, tensors: "*", rate: 1.5}]  # more\n'
        "    admm: *admm\n    retrain: *retrain\n",
        "# more",
        "stages[8].constraints",
        "but best leaves only",
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_its_place(tmp_path: Path, bad: Bad) -> None:
    """One mistake, messages about its place alone: `file.yaml:LINE: dotted.path: message`."""
    path = extended(tmp_path, ENTRIES, (bad.old, bad.new))
    found = problems(path)
    if "# here" in bad.at:
        assert f": {bad.path}: " in found[0]
    else:
        head = f"file.yaml:{line(path, bad.at)}: {bad.path}"
        assert any(problem.startswith(f"{head}: ") for problem in found), found
    assert any(bad.words in problem for problem in found), found
    assert all(f": {bad.path}" in problem for problem in found), found


@pytest.mark.parametrize("kind", ["train", "quantize"])
def test_a_search_is_of_prunes_alone(tmp_path: Path, kind: str) -> None:
    """Other kinds have nothing to shrink."""
    text = {
        "train": "  kind: train\n  train: {epochs: 1, lr: 1}\n",
        "quantize": '  kind: quantize\n  parent: half\n  constraints: [{set: levels, tensors: "*", bits: 2}]\n'
        "  admm: *admm\n",
    }[kind]
    found = problems(extended(tmp_path, f"- name: x\n{text}  search: {SEARCH}\n"))
    assert len(found) == 1
    assert found[0].endswith(f"stages[4].search: a search is of prune stages, not of a {kind}")


def test_a_choice_is_among_those_measured_on_the_same_data(tmp_path: Path) -> None:
    """Accuracies on different pictures can't be compared; how training pictures are shifted makes no difference."""
    own = (
        'parent: dense\n    constraints: [{set: cardinality, tensors: "*", rate: 2.25}]',
        'parent: dense\n    {}\n    constraints: [{{set: cardinality, tensors: "*", rate: 2.25}}]',
    )
    shards = tmp_path / "shards"
    other = "data: {shards: /elsewhere}"
    path = extended(tmp_path, ENTRIES, (own[0], own[1].format(other)))
    (found,) = problems(path)
    assert found.endswith("stages[7].parents: rungs-6x and least are measured on different data and can't be compared")
    shifted = f"data: {{shards: {shards}, shift: 1}}"
    assert load(str(extended(tmp_path, ENTRIES, (own[0], own[1].format(shifted)))))


def test_a_broken_ladder_is_no_trouble_of_its_children(tmp_path: Path) -> None:
    """They name it rightly; only the ladder is wrong."""
    found = problems(extended(tmp_path, ENTRIES, ("ladder: [3, 6]", "ladder: []")))
    assert len(found) == 1


def test_overrides_reach_recipes(tmp_path: Path) -> None:
    """By the entry's name; all its stages have what it says."""
    sets = ["stages.rungs.ladder=[7, 8]", "stages.wide.beam.targets=[9]", "stages.least.search.trials=3"]
    stages = {stage.name: stage for stage in load(str(extended(tmp_path, ENTRIES)), sets)[0].stages}
    assert {"rungs-7x", "rungs-8x", "wide-9x"} <= set(stages)
    least = stages["least"].spec
    assert isinstance(least, Search)
    assert least.trials == 3


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("rungs-3x", "ladder 'rungs'"), ("wide-2.5x", "beam 'wide'"), ("rungs-b-3x", "ladder 'rungs-b'")],
)
def test_an_override_of_one_rung_names_its_entry(tmp_path: Path, name: str, recipe: str) -> None:
    """The file has no entry of the rung's own."""
    path = extended(tmp_path, ENTRIES, (LAST, EXTRA.format("rungs-b") + LAST))
    (found,) = problems(path, f"stages.{name}.retrain.epochs=3")
    entry = recipe.split("'")[1]
    assert f"; those of the {recipe} are set by stages.{entry}, where a list gives each its own value" in found

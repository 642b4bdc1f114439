"""The board alone: no store, no lanes, no clock."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from dualprune.pipeline.node import Node
from dualprune.pipeline.run.board import BLOCKED, LEFT_OUT, STOPPED, Board
from tests.pipeline.choices.common import stage

DONE = {"metrics": {}}


def node(name: str, *parents: str, key: str | None = None) -> Node:
    """A stage whose key is its name, if no other is given."""
    return Node(name, parents, stage(), key or name, {}, "shards", "digest")


def board(*nodes: Node, done: tuple[str, ...] = (), left_out: tuple[str, ...] = (), keep_going: bool = False) -> Board:
    """Of these stages; all are wanted but those that are left out."""
    wanted = {one.name for one in nodes} - set(left_out)
    return Board(nodes, dict.fromkeys(done, DONE), wanted, keep_going)


def names(found: Iterable[Node]) -> list[str]:
    """Of nodes."""
    return [one.name for one in found]


def states(one: Board) -> dict[str, tuple[str, str | None]]:
    """State and why, by name."""
    return {row.node.name: (row.state, row.why) for row in one.rows()}


CHAIN = (node("a"), node("b", "a"), node("c", "b"), node("d", "a"))


def test_a_stage_is_ready_once_its_parents_are_done() -> None:
    """And given once."""
    one = board(*CHAIN)
    assert names(one.ready()) == ["a"]
    assert names(one.ready()) == []
    one.starts(CHAIN[0])
    assert one.active == {"a": CHAIN[0]}
    one.leaves(CHAIN[0])
    assert one.ends(CHAIN[0], DONE) == []
    assert names(one.ready()) == ["b", "d"]
    assert one.active == {}


def test_what_is_done_already_begins_what_comes_after() -> None:
    """At once, and it is `cached` in the end."""
    one = board(*CHAIN, done=("a", "b"))
    assert set(names(one.ready())) == {"c", "d"}
    one.ends(CHAIN[2], DONE)
    assert {name: state for name, (state, _) in states(one).items()} == {
        "a": "cached",
        "b": "cached",
        "c": "done",
        "d": "skipped",
    }


def test_what_is_not_wanted_never_begins() -> None:
    """Nor does what comes after it."""
    one = board(*CHAIN, done=("a",), left_out=("b", "c"))
    assert names(one.ready()) == ["d"]
    assert states(one)["b"] == states(one)["c"] == ("left out", LEFT_OUT)


@pytest.mark.parametrize(("keep_going", "begun"), [(False, []), (True, ["b", "d"])])
def test_after_a_failure(keep_going: bool, begun: list[str]) -> None:
    """Nothing new begins, or all that does not depend on it."""
    one = board(*CHAIN, node("x"), keep_going=keep_going)
    assert names(one.ready()) == ["a", "x"]
    assert one.fails(node("x"), "broke") == []
    assert one.stopping is not keep_going
    one.ends(CHAIN[0], DONE)
    assert names(one.ready()) == begun
    one.fails(CHAIN[1], "broke too")
    found = states(one)
    assert (found["x"], found["b"]) == (("failed", "broke"), ("failed", "broke too"))
    assert found["c"] == ("skipped", BLOCKED)
    assert found["d"] == ("skipped", STOPPED)


def test_a_failure_counts_for_those_that_are_ready_with_it() -> None:
    """Stages are given one by one: what fails as it begins stops the next."""
    one = board(node("a"), node("b"))
    begun = []
    for ready in one.ready():
        begun.append(ready.name)
        one.fails(ready, "broke")
    assert begun == ["a"]


def test_stages_of_one_key_end_together() -> None:
    """One is at work, here or in another run; the others wait for it."""
    first, second, child = node("a", key="k"), node("b", key="k"), node("c", "b")
    one = board(first, second, child)
    for ready in one.ready():
        if not one.waits(ready):
            one.starts(ready)
    assert names(one.active.values()) == ["a"]
    one.leaves(first)
    one.ends(first, DONE)
    assert names(one.ready()) == ["c"]
    assert states(one)["b"] == ("done", None)


def test_stages_of_one_key_fail_together() -> None:
    """For one reason."""
    first, second = node("a", key="k"), node("b", key="k")
    one = board(first, second)
    one.starts(first)
    assert one.waits(second)
    one.fails(first, "broke")
    assert states(one) == {"a": ("failed", "broke"), "b": ("failed", "broke")}


def test_a_stage_in_another_run_is_news_once() -> None:
    """Until that lets go of it and it starts here."""
    stage_ = node("a")
    one = board(stage_)
    assert [one.held(stage_), one.held(stage_)] == [True, False]
    assert one.waits(node("b", key="a"))
    one.starts(stage_)
    assert (one.elsewhere, one.active) == ({}, {"a": stage_})


CHOICE = node("least", "a")
TRIALS = [node("least@1", "a"), node("least@4", "least@1")]


def test_a_trial_that_ends_names_its_choice() -> None:
    """Its row stands before that of the choice; one that was done before is `cached`."""
    one = board(node("a"), CHOICE, node("z"), done=("a",))
    assert one.adds(CHOICE, TRIALS[0], DONE)
    assert not one.adds(CHOICE, TRIALS[0], DONE)
    assert one.adds(CHOICE, TRIALS[1])
    one.starts(TRIALS[1])
    assert one.ends(TRIALS[1], DONE) == [CHOICE]
    assert list(states(one)) == ["a", "least@1", "least@4", "least", "z"]
    assert [states(one)[name][0] for name in ("least@1", "least@4")] == ["cached", "done"]


def test_a_choice_with_two_trials_of_one_key_is_named_once() -> None:
    """It would be asked twice else."""
    one = board(node("a"), CHOICE, done=("a",))
    twins = [node("least@1", "a", key="k"), node("least@2", "a", key="k")]
    for trial in twins:
        one.adds(CHOICE, trial)
        if not one.waits(trial):
            one.starts(trial)
    assert one.ends(twins[0], DONE) == [CHOICE]


def test_a_trial_that_fails_names_its_choice_once() -> None:
    """With the trial; a choice that has failed already does not fail again."""
    one = board(node("a"), CHOICE, done=("a",))
    for trial in TRIALS:
        one.adds(CHOICE, trial)
        one.starts(trial)
    assert one.fails(TRIALS[0], "broke") == [(TRIALS[0], CHOICE)]
    one.fails(CHOICE, "its trial broke")
    assert one.fails(TRIALS[1], "broke") == []


def test_what_others_are_told() -> None:
    """Names and keys, as JSON has them; trials are not asked for by name."""
    one = board(node("a", key="ka"), node("b", "a", key="kb"), CHOICE)
    assert names(one.ready()) == ["a"]
    one.starts(node("a", key="ka"))
    one.adds(CHOICE, TRIALS[0])
    told = {"keys": {"a": "ka"}, "asked": None, "failed": [], "stopping": False, "done": []}
    assert one.account() == told
    one.leaves(one.nodes["a"])
    one.ends(one.nodes["a"], DONE)
    one.fails(one.nodes["b"], "broke")
    assert one.account() == {**told, "keys": {}, "failed": ["b"], "stopping": True, "done": ["ka"]}
    assert board(*CHAIN, left_out=("c",)).account()["asked"] == ["a", "b", "d"]

"""What there is to see of a run, from its rows and from what its stages tell."""

from __future__ import annotations

from pathlib import Path

from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run.board import Board
from dualprune.pipeline.run.picture import Doings, stages, tree
from dualprune.pipeline.run.results import Result
from dualprune.pipeline.run.sight import Sight
from dualprune.pipeline.run.work import Work
from dualprune.stages.objectives.measures import CLASSIFY, Measure, Measures
from tests.pipeline.common import loaded, manifest


def test_a_tree_has_each_stage_below_those_that_it_comes_from() -> None:
    """Branches stay together; one of several parents is below all of them."""
    parents = {"a": (), "b": ("a",), "c": ("a",), "b1": ("b",), "c1": ("c",), "pick": ("b1", "c1"), "own": ()}
    assert list(tree(parents).items()) == [
        ("a", 0), ("b", 1), ("b1", 2), ("c", 1), ("c1", 2), ("pick", 3), ("own", 0)
    ]  # fmt: skip
    assert tree({"b": ("gone",), "c": ("b", "b")}) == {"b": 0, "c": 1}
    assert tree({}) == {}


def row(name: str, state: str = "queued", **more: object) -> Result:
    """A stage's."""
    return Result(name, "prune", f"key of {name}", state, **more)  # type: ignore[arg-type]


def test_stages_are_compared_with_the_root_that_they_come_from() -> None:
    """Not with one that is measured by something else."""
    other = Measures("score", {"score": Measure("")})
    rows = [
        row("dense", "cached", val=98.0),
        row("half", "done", val=97.0),
        row("quarter", "running"),
        row("scored", "done", val=3.0, measures=other),
    ]
    parents = {"half": ["dense"], "quarter": ["half"], "scored": ["dense"]}
    works = {"quarter": Work(trains=True, value=96.0)}
    found = {stage.name: stage for stage in stages(rows, parents, Doings(works))}
    assert {name: (one.value, one.dense) for name, one in found.items()} == {
        "dense": (98.0, None),
        "half": (97.0, 98.0),
        "quarter": (96.0, 98.0),
        "scored": (3.0, None),
    }
    assert (found["quarter"].best, found["scored"].best) == (CLASSIFY.best, "score")


def test_states() -> None:
    """By rows, and by what those at work have told."""
    rows = [row(name, name) for name in ("done", "cached", "failed", "skipped", "left out", "run", "resume", "gone")]
    rows += [
        row("asked"),
        row("trains"),
        row("next", why="waits for trains"),
        row("theirs", "running", why="elsewhere"),
    ]
    works = {"asked": Work(), "trains": Work(trains=True)}
    found = {stage.name: stage for stage in stages(rows, {}, Doings(works, {"trains": ["lost"]}))}
    assert {name: one.state for name, one in found.items()} == {
        **{"done": "done", "cached": "done", "failed": "failed", "skipped": "skipped", "left out": "left out"},
        **dict.fromkeys(("run", "resume", "gone", "next"), "queued"),
        **{"asked": "waiting", "trains": "running", "theirs": "running"},
    }
    assert (found["next"].why, found["theirs"].why, found["trains"].retries) == (
        "waits for trains",
        "elsewhere",
        ("lost",),
    )


def test_a_searchs_trials_are_below_it() -> None:
    """Also those that are known by what they tell alone."""
    rows = [
        row("dense", "done", val=98.0),
        row("half", "running", why="its trial half@4: training"),
        row("half@2", "done"),
    ]
    found = stages(rows, {"half": ["dense"]}, Doings({"half@4": Work(trains=True), "stranger": Work()}))
    assert [(one.name, one.depth, one.state) for one in found] == [
        ("dense", 0, "done"),
        ("half", 1, "queued"),
        ("half@2", 2, "done"),
        ("half@4", 2, "running"),
    ]
    assert found[-1].dense == 98.0


def test_a_run_sees_its_own_board(tmp_path: Path) -> None:
    """From look to look, while stages begin, end and fail."""
    store, plan = planning.make(*loaded(tmp_path))
    nodes = [planned.node for planned in plan]
    board = Board(nodes, {}, {node.name for node in nodes}, keep_going=True)
    sight = Sight(board, store)

    def look(**works: Work) -> dict[str, str]:
        return {stage.name: stage.state for stage in sight(Doings(works))}

    assert look() == dict.fromkeys(("dense", "half", "v1.5-quarter", "other"), "queued")
    assert [node.name for node in board.ready()] == ["dense"]
    board.starts(nodes[0])
    assert look(dense=Work(trains=True))["dense"] == "running"
    board.leaves(nodes[0])
    board.ends(nodes[0], manifest())
    assert look()["dense"] == "done"
    whys = {stage.name: stage.why for stage in sight(Doings())}
    assert (whys["half"], whys["v1.5-quarter"]) == ("", "waits for half")
    board.fails(next(node for node in nodes if node.name == "half"), "broke")
    assert look() == {"dense": "done", "half": "failed", "v1.5-quarter": "skipped", "other": "queued"}


def test_what_is_not_begun_any_more_is_skipped(tmp_path: Path) -> None:
    """After a failure, without `--keep-going`; what was not asked for is left out."""
    store, plan = planning.make(*loaded(tmp_path))
    nodes = {planned.node.name: planned.node for planned in plan}
    board = Board(list(nodes.values()), {"dense": manifest()}, {"half", "other"})
    board.fails(nodes["half"], "broke")
    found = {stage.name: stage.state for stage in Sight(board, store)(Doings())}
    assert found == {"dense": "done", "half": "failed", "v1.5-quarter": "skipped", "other": "skipped"}

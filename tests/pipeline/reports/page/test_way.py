"""Which network a page is about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dualprune.pipeline.reports.page.facts import Stage
from dualprune.pipeline.reports.page.way import front, way
from dualprune.stages.objectives.measures import Measure, Measures


def stage(name: str, *parents: str, val: float | None = 99.0, size: int = 100, chosen: str | None = None) -> Stage:
    """A stage, done where it has a value."""
    metrics = {} if val is None else {"val_accuracy": val, "bytes": size}
    return Stage(name, name, "prune", parents, "done", metrics=metrics, chosen=chosen)


def found(*stages: Stage) -> tuple[str | None, tuple[str, ...]]:
    """The network, and the stages on the way to it."""
    one = way({stage.name: stage for stage in stages})
    return one.chosen, one.stages


def test_the_last_choice_says_it() -> None:
    stages = (
        stage("dense"),
        stage("a", "dense", size=10),
        stage("b", "dense", size=20),
        stage("best", "a", "b", chosen="b"),
    )
    assert found(*stages) == ("b", ("dense", "b"))


def test_stages_after_a_choice_go_on_from_what_it_took() -> None:
    stages = stage("dense"), stage("a", "dense"), stage("best", "a", "dense", chosen="a"), stage("more", "best")
    assert found(*stages) == ("more", ("dense", "a", "more"))


def test_without_a_choice_it_is_the_smallest_of_those_about_as_good_as_dense() -> None:
    stages = [stage("dense", size=1000), stage("a", "dense", size=100), stage("b", "dense", val=98.5, size=50)]
    assert found(*stages, stage("c", "dense", val=90, size=5)) == ("b", ("dense", "b"))
    assert found(stages[0], stage("c", "dense", val=90, size=5), stage("d", "dense", val=80, size=3)) == (
        "c",
        ("dense", "c"),
    )


def test_less_may_be_better() -> None:
    of = Measures("rmse", {"rmse": Measure("", higher=False)})
    made = {"dense": (50.0, 100), "a": (50.2, 20), "b": (60.0, 10)}
    stages = {
        name: Stage(
            name,
            name,
            "prune",
            () if name == "dense" else ("dense",),
            "done",
            metrics={"val_rmse": val, "bytes": size},
            measures=of,
        )
        for name, (val, size) in made.items()
    }
    assert way(stages).chosen == "a"


def test_what_is_not_done_does_not_count() -> None:
    stages = stage("dense"), stage("a", "dense"), stage("b", "a", val=None)
    assert found(*stages) == ("a", ("dense", "a"))
    assert found(stage("dense", val=None)) == (None, ())


def test_a_choice_whose_stage_is_unknown_is_its_own_network() -> None:
    assert found(stage("dense"), stage("best", "dense", chosen="best@2")) == ("best", ("dense", "best"))


def test_a_choice_of_itself_ends() -> None:
    one = replace(stage("a"), chosen="b")
    assert found(one, stage("b", "a", chosen="a"))[0] in ("a", "b")


@pytest.mark.parametrize(("higher", "names"), [(True, ["a", "c", "d"]), (False, ["b", "d"])])
def test_the_front(higher: bool, names: list[str]) -> None:
    points = [("a", 1.0, 99.0), ("b", 2.0, 97.0), ("c", 3.0, 98.0), ("d", 4.0, 97.5)]
    assert front(points, higher) == names

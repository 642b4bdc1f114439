"""Runs side by side: what goes together, what differs, which is better where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dualprune.pipeline.reports.page import versus_words
from dualprune.pipeline.reports.page.facts import Run, Stage, Way
from dualprune.pipeline.reports.page.figures.versus import figures
from dualprune.pipeline.reports.page.page import comparison
from dualprune.pipeline.reports.page.versus import Unlike, compare
from dualprune.stages.objectives.measures import Measure, Measures

Points = Sequence[tuple[float, float]]


def run(name: str, points: Points, seed: int = 0, samples: int = 10000, **spec: object) -> Run:
    """A run of stages one after the other, of these rates and values; the first is dense."""
    stages: dict[str, Stage] = {}
    for number, (rate, value) in enumerate(points):
        metrics = {
            "network_weights": 1000,
            "network_nonzeros": 1000 / rate,
            "test_accuracy": value,
            "bytes": 4000 / rate,
        }
        parents = tuple(stages)[-1:]
        of = {"seed": seed, "admm": {"rho": 0.1}, **spec}
        known = {"metrics": metrics | {"seconds": 10.0}, "spec": of, "samples": {"test": samples}}
        stages[f"s{number}"] = Stage(f"s{number}", f"{name}{number}", "prune", parents, "done", **known)  # type: ignore[arg-type]
    way = Way(list(stages)[-1], "s0", tuple(stages))
    return Run(name, "store", "finished", "has finished", stages, way)


A = run("a", [(1, 99.0), (10, 98.8), (20, 97.0)])


def test_which_is_better_where() -> None:
    b = run("b", [(1, 99.0), (10, 98.7), (20, 98.6)], batch=32)
    found = compare([A, b])
    assert [place.rate for place in found.places] == [1, 10, 20]
    assert [place.values for place in found.places] == [((99.0,), (99.0,)), ((98.8,), (98.7,)), ((97.0,), (98.6,))]
    assert [place.better for place in found.places] == [None, None, 1], "a tenth of a point says nothing"
    assert versus_words.verdict(found) == "Up to 10× the best are level, from 20× on b is better."


def test_with_more_examples_less_tells() -> None:
    b = run("b", [(1, 99.0), (10, 98.7), (20, 98.6)], samples=10**7, batch=32)
    a = run("a", [(1, 99.0), (10, 98.8), (20, 97.0)], samples=10**7)
    assert [place.better for place in compare([a, b]).places] == [None, 0, 1]


def test_who_goes_further_alone() -> None:
    found = compare([A, run("b", [(1, 99.0), (10, 98.8), (40, 95.0)], batch=32)])
    assert versus_words.verdict(found) == "Up to 10× the best are level, to 20× a is better, only b goes to 40×."


def test_runs_that_differ_by_their_seeds_are_one_group() -> None:
    more = [run(f"a{seed}", [(1, 99.0), (10, 98.8 + seed / 10), (20, 97.0 + seed / 10)], seed) for seed in (1, 2)]
    found = compare([A, *more, run("b", [(1, 99.0), (10, 98.9), (20, 96.0)], batch=32)])
    assert [(group.name, len(group.runs)) for group in found.groups] == [("a and 2 more seeds", 3), ("b", 1)]
    assert found.places[2].values == ((97.0, 97.1, 97.2), (96.0,))
    table = versus_words.seeds(found)
    assert table is not None
    assert table.rows == (("a and 2 more seeds", 3, "97.10", "0.10", "97.00", "97.20"),)
    spec = figures(found)[0].spec(900)
    assert [layer["mark"]["type"] for layer in spec["layer"]].count("area") == 1, "of the seeds"


def test_seeds_that_overlap_are_level() -> None:
    def several(name: str, values: Sequence[float], **spec: object) -> list[Run]:
        return [run(f"{name}{n}", [(1, 99.0), (10, value)], n, 10**7, **spec) for n, value in enumerate(values)]

    level = compare([*several("a", [98.0, 97.0]), *several("b", [97.5, 96.5], batch=32)])
    assert level.places[1].better is None
    apart = compare([*several("a", [98.0, 97.6]), *several("b", [97.5, 96.5], batch=32)])
    assert apart.places[1].better == 0
    assert versus_words.verdict(compare(several("a", [98.0, 97.0]))) == "The runs of a0 differ by their seeds alone."


def test_what_differs_in_their_configurations() -> None:
    b = run("b", [(1, 99.0), (10, 98.7)], 7, batch=32, constraints=[{"rate": 4}])
    c = run("c", [(1, 99.0), (10, 98.7)], 7, batch=64, constraints=[{"rate": 4}])
    found = compare([b, c])
    assert [(one.where, one.values) for one in found.differences] == [
        ("s0.batch", ("32", "64")),
        ("s1.batch", ("32", "64")),
    ]
    table = versus_words.differences(compare([A, c]))
    assert table is not None
    assert table.titles == ("setting", "a", "c")
    assert ("stage s2", "there", "not there") in table.rows
    assert ("s0.constraints[0].rate", "-", "4") in table.rows
    assert not any("seed" in str(row[0]) for row in table.rows)


def test_what_each_came_to() -> None:
    table = versus_words.came_to(compare([A, run("b", [(1, 99.0), (10, 98.7)], batch=32)]))
    assert table.rows[0][:6] == ("a", "s2", "20×", "97.00", "−2.00", "200 B")
    assert table.rows[1][:5] == ("b", "s1", "10×", "98.70", "−0.30")


def test_less_may_be_better() -> None:
    of = Measures("accuracy", {"accuracy": Measure("", higher=False)})

    def lower(name: str, points: Points, **spec: object) -> Run:
        made = run(name, points, **spec)  # type: ignore[arg-type]
        return replace(made, stages={key: replace(one, measures=of) for key, one in made.stages.items()})

    found = compare([lower("a", [(1, 5.0), (10, 6.0)]), lower("b", [(1, 5.0), (10, 5.5)], batch=32)])
    assert [place.better for place in found.places] == [None, 1]


def test_what_can_t_be_compared() -> None:
    other = Measures("rmse", {"rmse": Measure("", higher=False)})
    b = replace(A, name="b", stages={name: replace(one, measures=other) for name, one in A.stages.items()})
    with pytest.raises(Unlike, match="a is measured by accuracy, b by rmse"):
        compare([A, b])
    with pytest.raises(Unlike, match="c has no finished network"):
        compare([A, replace(A, name="c", way=Way())])
    with pytest.raises(Unlike, match="7 runs differ by more than their seeds"):
        compare([run(str(number), [(1, 99.0)], batch=number) for number in range(7)])


def test_the_page(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    evil = run("<b>evil</b>", [(1, 99.0), (12, 98.0), (20, 97.5)], batch=32)
    found = compare([A, replace(evil, missing=("<i>gone</i>",))])
    page = comparison(found)
    assert "<b>evil" not in page.replace('{"', "")
    assert "&lt;i&gt;gone" in page
    for figure in figures(found):
        assert f'<section id="{figure.name}">' in page
        assert figure.table.rows

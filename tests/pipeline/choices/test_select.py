"""Choices among parents as pure functions: the best of several, a beam's pool against the paper's rule."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import ChoiceError, Option, Stored, Take, Time, option
from dualprune.pipeline.choices.select import SELECT, Replace, Select, replace, select
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.recipes import expand
from dualprune.pipeline.node import Node
from tests.pipeline.choices.common import STAGE, stage
from tests.pipeline.choices.test_bisect import Given
from tests.pipeline.common import manifest, scored


def options(**metrics: Sequence[float | None]) -> list[Option]:
    """Options a, b, c, ... with the given values of each metric."""
    count = len(next(iter(metrics.values())))
    return [Option("abcdef"[n], {name: values[n] for name, values in metrics.items()}) for n in range(count)]


@pytest.mark.parametrize(
    ("metric", "values", "taken"),
    [
        ("val_accuracy", [90.0, 95.0, 94.0], 1),
        ("val_accuracy", [95.0, 90.0, 95.0], 0),
        ("rate", [2.0, 8.0, 4.0], 1),
        ("val_loss", [0.5, 0.25, 0.125], 2),
        ("nonzeros", [10, 30, 20], 0),
        ("total_bits", [None, 900, 800], 2),
        ("macs", [1e9, 5e8, 6e8], 1),
        ("rate", [None, 2.0], 1),
    ],
)
def test_the_best_is_taken(metric: str, values: list[float | None], taken: int) -> None:
    """More of accuracy and rate, less of the others; the first of equals; what has no such number comes last."""
    choice = Select.model_validate({"kind": "select", "metric": metric})
    assert select(choice, options(**{metric: values})) == taken


@pytest.mark.parametrize(
    ("budget", "taken"),
    [
        ({"val_accuracy": 94.0}, 1),
        ({"val_accuracy": 95.0}, 0),
        ({"nonzeros": 100}, 2),
        ({"nonzeros": 100, "rate": 4}, 2),
        ({"total_bits": 10**6}, 1),
        ({}, 2),
    ],
)
def test_a_budget_bounds_the_choice(budget: dict[str, float], taken: int) -> None:
    """Limits are allowed themselves; a parent that has no such number is beyond any."""
    of = options(
        rate=[2.0, 4.0, 8.0],
        val_accuracy=[95.0, 94.0, 93.0],
        nonzeros=[400, 200, 100],
        total_bits=[None, 10**6, None],
    )
    assert select(Select.model_validate({"kind": "select", "metric": "rate", "budget": budget}), of) == taken


def test_a_budget_that_nobody_keeps_is_told_with_all_figures() -> None:
    """What was wanted, and what each parent has."""
    of = options(val_accuracy=[95.0, 94.5], nonzeros=[400, 300])
    budget = {"val_accuracy": 99, "nonzeros": 350}
    with pytest.raises(ChoiceError) as caught:
        select(Select.model_validate({"kind": "select", "budget": budget}), of)
    assert str(caught.value) == (
        "no parent is within the budget (val_accuracy at least 99, nonzeros at most 350): "
        "a: val_accuracy 95.0, nonzeros 400; b: val_accuracy 94.5, nonzeros 300"
    )


def test_less_may_be_better() -> None:
    """Of what the parents' objective measures so: the least is taken, and a budget is the most that is allowed."""
    of = [option(name, scored(value)) for name, value in (("a", 0.5), ("b", 0.25), ("c", 0.75))]
    assert select(Select(kind="select", metric="val_score"), of) == 1
    assert select(Select(kind="select", metric="val_score", budget={"val_score": 0.25}), of) == 1
    with pytest.raises(
        ChoiceError, match=r"val_score at most 0\.125, nonzeros at most 1\): a: val_score 0\.5, nonzeros"
    ):
        select(Select(kind="select", metric="rate", budget={"val_score": 0.125, "nonzeros": 1}), of)
    assert [replace(Replace(kind="replace", candidate=n), [of[2], *of]) for n in range(3)] == [0, 2, 0]


def test_what_an_older_artefact_was_not_measured_by_comes_last() -> None:
    """And is beyond any budget."""
    of = [option("a", scored(0.5)), option("b", scored(0.5, val_share=1.0))]
    assert select(Select(kind="select", metric="val_share"), of) == 1
    assert select(Select(kind="select", metric="rate", budget={"val_share": 0.5}), of) == 1


def test_nothing_is_chosen_on_test() -> None:
    """Neither as the measure nor as a budget."""
    for settings in ({"metric": "test_accuracy"}, {"budget": {"test_accuracy": 90.0}}, {"metric": "test_loss"}):
        with pytest.raises(ValidationError):
            Select.model_validate({"kind": "select", **settings})


def test_an_option_has_its_metrics_and_its_bits() -> None:
    """Bits come from the storage that a quantize stage counts; others have none."""
    assert option("a", manifest()).metrics["total_bits"] is None
    one = option("a", {**manifest(), "storage": {"total_bits": 7140}})
    assert (one.metrics["total_bits"], one.metrics["val_accuracy"]) == (7140, 97.5)


@pytest.mark.parametrize(
    ("accuracies", "taken"),
    [([99.0, 91.0, 92.0], [0, 2]), ([99.0, 92.0, 91.0], [1, 0]), ([99.0, 92.0, 92.0], [1, 0])],
)
def test_a_place_takes_its_own_candidate_or_nothing(accuracies: list[float], taken: list[int]) -> None:
    """Only where it is the best of all candidates; what the place held does not compete."""
    of = options(val_accuracy=accuracies)
    choices = [Replace(kind="replace", metric="val_accuracy", candidate=place) for place in (0, 1)]
    assert [replace(choice, of) for choice in choices] == taken


def by_the_paper(pool: list[str], targets: list[str], accuracy: dict[str, float]) -> tuple[dict[str, str], list[str]]:
    """Ye et al. 2018, written from the paper: the member that each candidate starts from, and each round's best."""
    started, best_of_rounds = {}, []
    members = list(pool)
    for target in targets:
        candidates = [f"{target}-{'abc'[place]}" for place in range(len(members))]
        started |= dict(zip(candidates, members, strict=True))
        best = max(candidates, key=lambda name: accuracy[name])
        members[members.index(started[best])] = best
        best_of_rounds.append(best)
    return started, best_of_rounds


@given(st.lists(st.sampled_from([90.0, 91.0, 92.0, 93.0]), min_size=12, max_size=12))
def test_a_beams_choices_are_the_papers(accuracies: list[float]) -> None:
    """For any accuracies, ties among them: the written-out graph gives the paper's lineage and the paper's result."""
    entry = {**STAGE, "name": "s", "parent": "dense", "beam": {"pool": [15, 18, 21], "targets": [24, 27, 30]}}
    expanded = expand(entry, (), Problems("file", {}, {}))
    assert expanded is not None
    names = [one["name"] for one in expanded.entries if one["kind"] == "prune"]
    accuracy = dict(zip(names, accuracies, strict=True))
    stands_for: dict[str, str] = {}
    for one in expanded.entries:
        name = one["name"]
        if one["kind"] == "prune":
            stands_for[name] = name
            continue
        settings = {key: value for key, value in one.items() if key not in ("name", "parents")}
        of = [Option(parent, {"val_accuracy": accuracy[stands_for[parent]]}) for parent in one["parents"]]
        number = (
            select(Select.model_validate(settings), of)
            if one["kind"] == "select"
            else replace(Replace.model_validate(settings), of)
        )
        stands_for[name] = stands_for[one["parents"][number]]
    started, best = by_the_paper(["s-15x", "s-18x", "s-21x"], ["s-24x", "s-27x", "s-30x"], accuracy)
    trained_from = {
        one["name"]: stands_for[one["parent"]] for one in expanded.entries if one.get("parent") not in (None, "dense")
    }
    assert trained_from == started
    assert [stands_for[name] for name in ("s-24x", "s-27x", "s-30x")] == best
    assert stands_for[expanded.last] == best[-1]


AT = {"machine": "fast", "backend": "onnx", "device": "cpu", "batch": 8, "threads": 1}
RATES = {"mild": 2.0, "harsh": 4.0}


def nodes_of(spec: Select) -> tuple[Node, list[Node]]:
    """A choice among two stages."""
    given = [Given(name, stage({"set": "cardinality", "tensors": "*", "rate": rate})) for name, rate in RATES.items()]
    found = dag.build([*given, Given("best", spec, *RATES)], lambda spec: ("shards", "digest"))
    return found[-1], found[:-1]


def test_parents_are_timed_for_a_budget_in_milliseconds() -> None:
    """Side by side, all of them, where one was not timed there; then what a call takes bounds the choice."""
    spec = Select.model_validate({"kind": "select", "budget": {"milliseconds": 3.5}, "latency": AT})
    node, parents = nodes_of(spec)
    manifests = {one.name: manifest(val_accuracy=95.0 - n) for n, one in enumerate(parents)}
    rows = {one.key: [{**AT, "latency": {"middle": (4 - n) / 1000}}] for n, one in enumerate(parents)}
    elsewhere = {key: [{**row, "machine": "slow"} for row in of] for key, of in rows.items()}
    for there in ({}, elsewhere, {parents[0].key: rows[parents[0].key]}):
        stored = Stored(lambda key: None, lambda key, there=there: there.get(key, []))
        assert SELECT.decide(node, parents, manifests, stored) == Time(tuple(parents), spec.latency)
    found = SELECT.decide(node, parents, manifests, Stored(lambda key: None, rows.__getitem__))
    assert found == Take(parents[1].name)


def test_a_budget_in_milliseconds_says_where() -> None:
    for settings in ({"budget": {"milliseconds": 3}}, {"latency": AT}, {"metric": "milliseconds"}):
        with pytest.raises(ValidationError, match="go together"):
            Select.model_validate({"kind": "select", **settings})

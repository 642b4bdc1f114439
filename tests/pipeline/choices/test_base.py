"""Choices as pure functions: the best of several, a beam's pool against the paper's rule, bisection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dualprune.pipeline.choices.base import (
    CLOSE,
    ChoiceError,
    Option,
    Replace,
    Search,
    Select,
    best_factor,
    next_factor,
    option,
    replace,
    select,
    shrunk,
)
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.recipes import expand
from dualprune.stages.kinds.table import parse
from dualprune.stages.settings.spec import PruneSpec
from tests.pipeline.common import manifest

STAGE = {
    "kind": "prune",
    "model": {"name": "digits_cnn"},
    "data": {"source": "digits"},
    "constraints": [{"set": "cardinality", "tensors": "*", "rate": 2.0}],
    "admm": {"updates": 1, "lr": 1e-3, "rho": 1e-3},
    "retrain": {"epochs": 1, "lr": 1e-3},
}


def stage(*constraints: dict[str, Any]) -> PruneSpec:
    """A prune with these constraints, or with one of rate 2."""
    spec = parse({**STAGE, "constraints": list(constraints) or STAGE["constraints"]})
    assert isinstance(spec, PruneSpec)
    return spec


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


def search(**settings: Any) -> Search:
    """A search by one point, 8 trials, up to a factor of 16."""
    return Search.model_validate(
        {"kind": "search", "stage": stage(), "tolerance": 1.0, "trials": 8, "most": 16.0, **settings}
    )


def followed(one: Search, limit: float) -> list[tuple[float, float]]:
    """All trials of a search where what is harsher than `limit` falls from 97 to 90 and the rest stays."""
    tried: list[tuple[float, float]] = []
    while (factor := next_factor(one, 97.0, tried)) is not None:
        tried.append((factor, 97.0 if factor <= limit else 90.0))
        assert len(tried) <= one.trials
    return tried


@given(st.floats(1.0, 40.0), st.integers(2, 12))
def test_bisection_closes_in(limit: float, trials: int) -> None:
    """Factor 1, then the most, then between what held and what fell: the best ends as near as the trials allow."""
    one = search(trials=trials)
    tried = followed(one, limit)
    best = tried[best_factor(one, 97.0, tried)][0]
    assert [factor for factor, _ in tried[:2]] == [1.0, 16.0]
    assert best <= limit
    if limit >= 16:
        assert (best, len(tried)) == (16.0, 2)
        return
    # Each trial after the second halves the logarithm of what is in question.
    assert min(limit, 16) / best <= max(CLOSE, 16 ** (0.5 ** (len(tried) - 2))) * (1 + 1e-9)
    assert len(tried) == trials or min(f for f, a in tried if a < 96) / best < CLOSE


def test_a_search_whose_start_loses_too_much_says_so() -> None:
    """With what was lost and what is allowed."""
    with pytest.raises(ChoiceError, match=r"lose 1\.50 points already, and 1 are allowed; start from lower rates"):
        next_factor(search(), 97.0, [(1.0, 95.5)])


def test_a_loss_of_just_the_tolerance_is_allowed() -> None:
    """And none where the tolerance is zero."""
    assert next_factor(search(), 97.0, [(1.0, 96.0)]) == 16.0
    assert next_factor(search(tolerance=0.0), 97.0, [(1.0, 97.0), (16.0, 96.99)]) == 4.0


@pytest.mark.parametrize(
    ("count", "most", "least", "counts"),
    [
        (4, 20.0, 1, [4, 1]),
        (4, 20.0, 2, [4, 1, 2]),
        (4, 20.0, 3, [4, 1, 2, 3]),
        (4, 20.0, 4, [4, 1, 2, 3]),
        (1, 8.0, 1, [1]),
    ],
)
def test_amounts_that_were_tried_are_not_tried_again(count: int, most: float, least: int, counts: list[int]) -> None:
    """Each count once, until the least that holds is found."""
    one = search(stage=stage({"set": "filter", "tensors": "2.*", "count": count}), most=most)
    tried: list[tuple[float, float]] = []
    found = []
    while (factor := next_factor(one, 97.0, tried)) is not None:
        found.append(shrunk(one.stage, factor).constraints[0].count or 0)
        tried.append((factor, 97.0 if found[-1] >= least else 90.0))
    assert found == counts
    assert found[best_factor(one, 97.0, tried)] == least


@pytest.mark.parametrize(
    ("constraint", "shrunken"),
    [
        ({"set": "cardinality", "tensors": "*", "rate": 2.0}, {"rate": 5.0}),
        ({"set": "cardinality", "tensors": "*", "keep": 0.5}, {"keep": 0.2}),
        ({"set": "filter", "tensors": "2.*", "count": 16}, {"count": 6}),
        ({"set": "filter", "tensors": "2.*", "count": 2}, {"count": 1}),
        ({"set": "nm", "tensors": "6.*", "n": 2, "m": 4}, {"n": 2, "m": 4}),
    ],
)
def test_amounts_shrink_in_proportion(constraint: dict[str, Any], shrunken: dict[str, float]) -> None:
    """By 2.5 here; counts to whole ones, never to none; what has no amount stays."""
    (found,) = shrunk(stage(constraint), 2.5).constraints
    assert found.model_dump(exclude_none=True, exclude_defaults=True) == {**constraint, **shrunken}


def test_a_factor_of_one_changes_nothing() -> None:
    """The first trial is the stage as given, so it has its key too."""
    assert shrunk(stage(), 1.0) == stage()
    assert math.isclose(shrunk(stage(), 3.0).constraints[0].rate or 0, 6.0)


def test_a_search_needs_something_to_shrink() -> None:
    """A pattern of n in m has no amount."""
    with pytest.raises(ValidationError, match="no constraint has one of them"):
        search().model_validate(
            {
                "kind": "search",
                "stage": stage({"set": "nm", "tensors": "6.*", "n": 2, "m": 4}),
                "tolerance": 1.0,
                "trials": 3,
                "most": 2.0,
            }
        )


@pytest.mark.parametrize("reference", [90.04, 98.62, 97.0, 91.16])
def test_what_loses_just_the_tolerance_holds(reference: float) -> None:
    """However the difference is rounded: it is more than the tolerance that is too much."""
    one = search(tolerance=0.1)
    allowed, less = round(reference - 0.1, 2), round(reference - 0.12, 2)
    assert next_factor(one, reference, [(1.0, allowed)]) == 16.0
    assert next_factor(one, reference, [(1.0, allowed), (16.0, less)]) == 4.0
    assert best_factor(one, reference, [(1.0, reference), (2.0, allowed), (4.0, less)]) == 1

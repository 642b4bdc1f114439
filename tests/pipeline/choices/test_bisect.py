"""A search followed through its trials: what is tried next, from where, and what was found before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import Decision, Refuse, Stored, Take, Try
from dualprune.pipeline.choices.bisect import SEARCH, bisect
from dualprune.pipeline.choices.search import Search, next_factor
from dualprune.pipeline.node import Node
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.objectives.table import OBJECTIVES
from dualprune.stages.settings.objective import Named
from dualprune.stages.settings.training import StageSpec
from tests.pipeline.choices.common import stage
from tests.pipeline.common import manifest, scored, scores


class Given:
    """A stage as `dag.build` takes it."""

    def __init__(self, name: str, spec: Any, *parents: str) -> None:
        self.name, self.spec, self.parents, self.teacher = name, spec, parents, None


def nodes(tolerance: float = 1.0, trials: int = 4) -> tuple[Node, Node]:
    """A dense stage and a search that starts from it, for rates from 2 to 32."""
    shared = {name: getattr(stage(), name) for name in ("model", "data")}
    dense = TrainSpec.model_validate({"kind": "train", "train": {"epochs": 1, "lr": 1e-3}, **shared})
    search = Search(kind="search", stage=stage(), tolerance=tolerance, trials=trials, most=16)

    def data(_: StageSpec) -> tuple[str, str]:
        return "shards", "digest"

    found = dag.build([Given("dense", dense), Given("small", search, "dense")], data)
    return found[0], found[1]


class Trials:
    """Runs what a search asks for: accuracies by factor, artefacts by key."""

    def __init__(self, accuracies: Mapping[float, float], **settings: Any) -> None:
        self.dense, self.search = nodes(**settings)
        self.accuracies = {f"small@{factor:g}": accuracy for factor, accuracy in accuracies.items()}
        self.store: dict[str, Mapping[str, Any]] = {}
        self.ran: list[Node] = []

    def follow(self) -> Decision:
        """One look at the store."""
        return bisect(self.search, [self.dense], {"dense": manifest(val_accuracy=97.0)}, Stored(self.store.get))

    def to_the_end(self) -> Decision:
        """Trial after trial, each only known by its artefact."""
        while isinstance(found := self.follow(), Try):
            (trial,) = found.trials
            self.ran.append(trial)
            self.store[trial.key] = manifest(val_accuracy=self.accuracies[trial.name])
        return found


def next_of(decision: Decision) -> Node:
    """The trial that is to be run."""
    assert isinstance(decision, Try)
    (trial,) = decision.trials
    return trial


def rate(node: Node) -> float:
    """Of a trial's one constraint."""
    assert isinstance(node.spec, PruneSpec)
    return float(node.spec.constraints[0].rate or 0)


def test_a_search_begins_with_its_settings_as_given() -> None:
    """From the parent; nothing is known yet."""
    one = Trials({})
    found = one.follow()
    assert isinstance(found, Try)
    assert found.tried == ()
    trial = next_of(found)
    assert (trial.name, trial.parents, rate(trial)) == ("small@1", ("dense",), 2.0)
    assert trial.spec == stage()


def test_each_trial_starts_from_the_harshest_that_held() -> None:
    """1 holds, 16 does not, 4 does, 8 does not: 4 it is."""
    one = Trials({1: 96.5, 16: 80, 4: 96.0, 8: 95.9})
    found = one.to_the_end()
    assert [(node.name, node.parents, rate(node)) for node in one.ran] == [
        ("small@1", ("dense",), 2.0),
        ("small@16", ("small@1",), 32.0),
        ("small@4", ("small@1",), 8.0),
        ("small@8", ("small@4",), 16.0),
    ]
    assert isinstance(found, Take)
    assert [tried.node for tried in found.tried] == one.ran
    assert found.name == "small@4"


def test_a_search_that_reaches_the_most_ends() -> None:
    """There is nothing harsher to try."""
    one = Trials({1: 97, 16: 97})
    found = one.to_the_end()
    assert isinstance(found, Take)
    assert found.name == "small@16"
    assert len(one.ran) == 2


def test_what_is_in_the_store_is_not_run_again() -> None:
    """A search that was stopped goes on where it was, by keys alone."""
    first = Trials({1: 96.5, 16: 80, 4: 96.0, 8: 95.9})
    first.to_the_end()
    again = Trials({})
    for node in first.ran[:3]:
        again.store[node.key] = first.store[node.key]
    found = again.follow()
    assert isinstance(found, Try)
    assert [tried.node for tried in found.tried] == first.ran[:3]
    assert next_of(found) == first.ran[3]


def test_manifests_of_trials_are_handed_back() -> None:
    """And what is known by name is not looked up again."""
    one = Trials({1: 97, 16: 97})
    one.to_the_end()
    known: dict[str, Mapping[str, Any]] = {"dense": manifest(val_accuracy=97.0)}
    asked: list[str] = []

    def stored(key: str) -> Mapping[str, Any] | None:
        asked.append(key)
        return one.store.get(key)

    for _ in range(2):
        found = bisect(one.search, [one.dense], known, Stored(stored))
        assert isinstance(found, Take)
        known |= {tried.node.name: tried.manifest for tried in found.tried}
    assert list(known) == ["dense", "small@1", "small@16"]
    assert asked == [node.key for node in one.ran]


def test_a_search_that_can_not_begin_says_so() -> None:
    """Its first trial is done by then."""
    one = Trials({1: 90})
    found = one.to_the_end()
    assert isinstance(found, Refuse)
    assert "lose 7.00 points already" in found.reason


def test_a_teacher_stays_the_teacher() -> None:
    """Only what a trial starts from changes."""
    one = Trials({})
    teacher = Node("big", (), one.dense.spec, "key", {}, "shards", "digest")
    known = {"dense": manifest(val_accuracy=97.0), "big": manifest()}
    search = replace(one.search, teacher="big")
    first = next_of(bisect(search, [one.dense, teacher], known, Stored(one.store.get)))
    one.store[first.key] = manifest(val_accuracy=97)
    second = next_of(bisect(search, [one.dense, teacher], known, Stored(one.store.get)))
    assert (first.teacher, second.teacher) == ("big", "big")
    assert (first.parents, second.parents) == (("dense", "big"), ("small@1", "big"))


def rising(limit: float) -> tuple[Decision, list[str]]:
    """A search by a score of 0.5 that less of is better: how it ends, and what it tried, if what is harsher than a
    limit has 0.9."""
    _, search = nodes(tolerance=0.125)
    dense = nodes()[0]
    store: dict[str, Mapping[str, Any]] = {}
    while isinstance(found := bisect(search, [dense], {"dense": scored(0.5)}, Stored(store.get)), Try):
        (trial,) = found.trials
        store[trial.key] = scored(0.625 if float(trial.name.partition("@")[2]) <= limit else 0.9)
    return found, [tried.node.name for tried in found.tried] if isinstance(found, Take) else []


def test_a_search_allows_so_much_more_where_less_is_better() -> None:
    """Just the tolerance is allowed; a trial that is better than the parent holds."""
    found, tried = rising(4.0)
    assert isinstance(found, Take)
    assert (found.name, tried) == ("small@4", ["small@1", "small@16", "small@4", "small@8"])


def test_a_search_that_loses_too_much_names_the_metric() -> None:
    found, _ = rising(0.5)
    assert isinstance(found, Refuse)
    assert found.reason.startswith("its rates as given lose 0.4 of val_score already, and 0.125 are allowed; ")


def test_a_search_in_small_holds_whatever_a_metric_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is in no percent."""
    monkeypatch.setitem(OBJECTIVES, "scores", scores)
    _, search = nodes()
    assert isinstance(search.spec, Search)
    other = search.spec.model_copy(update={"stage": stage().model_copy(update={"objective": Named(name="scores")})})
    small, large = SEARCH.small(search.spec), SEARCH.small(other)
    assert next_factor(small, 100.0, [(1.0, 0.0)]) == 16.0
    assert next_factor(large, -1.0, [(1.0, -1e30)]) == 16.0
    assert (small.tolerance, small.trials) == (100.0, 2)

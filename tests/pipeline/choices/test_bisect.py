"""A search followed through its trials: what is tried next, from where, and what was found before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import ChoiceError, Search
from dualprune.pipeline.choices.bisect import Bisection, bisect
from dualprune.stages.settings.spec import PruneSpec, StageSpec, TrainSpec
from tests.pipeline.choices.test_base import stage
from tests.pipeline.common import manifest


class Given:
    """A stage as `dag.build` takes it."""

    def __init__(self, name: str, spec: Any, *parents: str) -> None:
        self.name, self.spec, self.parents = name, spec, parents


def nodes(tolerance: float = 1.0, trials: int = 4) -> tuple[dag.Node, dag.Node]:
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
        self.ran: list[dag.Node] = []

    def follow(self) -> Bisection:
        """One look at the store."""
        return bisect(self.search, [self.dense], {"dense": manifest(val_accuracy=97.0)}, self.store.get)

    def to_the_end(self) -> Bisection:
        """Trial after trial, each only known by its artefact."""
        while (found := self.follow()).next is not None:
            self.ran.append(found.next)
            self.store[found.next.key] = manifest(val_accuracy=self.accuracies[found.next.name])
        return found


def rate(node: dag.Node) -> float:
    """Of a trial's one constraint."""
    assert isinstance(node.spec, PruneSpec)
    return float(node.spec.constraints[0].rate or 0)


def test_a_search_begins_with_its_settings_as_given() -> None:
    """From the parent; nothing is known yet."""
    one = Trials({})
    found = one.follow()
    assert (found.tried, found.best) == ([], None)
    assert found.next is not None
    assert (found.next.name, found.next.parents, rate(found.next)) == ("small@1", ("dense",), 2.0)
    assert found.next.spec == stage()


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
    assert found.tried == one.ran
    assert found.best == one.ran[2]


def test_a_search_that_reaches_the_most_ends() -> None:
    """There is nothing harsher to try."""
    one = Trials({1: 97, 16: 97})
    assert one.to_the_end().best == one.ran[1]
    assert len(one.ran) == 2


def test_what_is_in_the_store_is_not_run_again() -> None:
    """A search that was stopped goes on where it was, by keys alone."""
    first = Trials({1: 96.5, 16: 80, 4: 96.0, 8: 95.9})
    first.to_the_end()
    again = Trials({})
    for node in first.ran[:3]:
        again.store[node.key] = first.store[node.key]
    found = again.follow()
    assert [node.key for node in found.tried] == [node.key for node in first.ran[:3]]
    assert found.next == first.ran[3]
    assert found.best == first.ran[2]


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
        bisect(one.search, [one.dense], known, stored)
    assert list(known) == ["dense", "small@1", "small@16"]
    assert asked == [node.key for node in one.ran]


def test_a_search_that_can_not_begin_says_so() -> None:
    """Its first trial is done by then."""
    one = Trials({1: 90})
    with pytest.raises(ChoiceError, match=r"lose 7\.00 points already"):
        one.to_the_end()


def test_a_teacher_stays_the_teacher() -> None:
    """Only what a trial starts from changes."""
    one = Trials({})
    teacher = dag.Node("big", (), one.dense.spec, "key", {}, "shards", "digest")
    known = {"dense": manifest(val_accuracy=97.0), "big": manifest()}
    first = bisect(one.search, [one.dense, teacher], known, one.store.get).next
    assert first is not None
    one.store[first.key] = manifest(val_accuracy=97)
    second = bisect(one.search, [one.dense, teacher], known, one.store.get).next
    assert second is not None
    assert (first.parents, second.parents) == (("dense", "big"), ("small@1", "big"))

"""Depth, width and resolution chosen together, stage after stage: what is tried, from where, and what is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import Decision, Refuse, Stored, Take, Time, Try
from dualprune.pipeline.choices.shapes import Point
from dualprune.pipeline.choices.threed import THREED, threed
from dualprune.pipeline.node import Node
from dualprune.stages.kinds.shrink import ShrinkSpec
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.settings.training import StageSpec
from tests.pipeline.choices.test_bisect import Given
from tests.pipeline.choices.test_shapes import SIDE, STAGE, accuracy, cost, spec
from tests.pipeline.common import manifest

CHAINS: dict[str, Any] = {"depth": [2, 4], "width": [0.8, 0.6], "resolution": [28, 24]}
BEND = (2.0, 4.0, 3.0)


def nodes(budget: Mapping[str, float], **chains: Any) -> tuple[Node, Node]:
    """A dense stage and a choice that starts from it."""
    shared = {name: STAGE[name] for name in ("model", "data")}
    dense = TrainSpec.model_validate({"kind": "train", "train": {"epochs": 1, "lr": 1e-3}, **shared})

    def data(_: StageSpec) -> tuple[str, str]:
        return "shards", "digest"

    found = dag.build([Given("dense", dense), Given("small", spec(budget, **(chains or CHAINS)), "dense")], data)
    return found[0], found[1]


class Trials:
    """Runs what the choice asks for, by the true surface; artefacts by key."""

    def __init__(self, budget: Mapping[str, float], store: dict[str, Mapping[str, Any]], **chains: Any) -> None:
        self.dense, self.choice = nodes(budget, **chains)
        self.store, self.ran = store, list[Node]()
        self.points: dict[str, Point] = {"dense": Point()}

    def follow(self) -> Decision:
        """One look at the store."""
        return threed(self.choice, [self.dense], {"dense": self.manifest(Point())}, Stored(self.store.get))

    def to_the_end(self) -> Decision:
        """All trials that are asked for at a time, each only known by its artefact."""
        while isinstance(found := self.follow(), Try):
            for trial in found.trials:
                self.ran.append(trial)
                point = self._point(trial)
                self.points[trial.name] = point
                assert isinstance(trial.spec, ShrinkSpec)
                shrunk = {"resolution": [self._side(trial), trial.spec.resolution]} if trial.spec.resolution else {}
                self.store[trial.key] = {**self.manifest(point), "shrunk": shrunk}
        return found

    def _side(self, trial: Node) -> float:
        return self.points.get(trial.parents[0], Point()).resolution or SIDE

    def _point(self, trial: Node) -> Point:
        """What comes of a trial's settings, beginning with what its parent is."""
        stage, before = trial.spec, self.points[trial.parents[0]]
        assert isinstance(stage, ShrinkSpec)
        depth = before.depth + (stage.blocks.remove if stage.blocks else 0)
        size, width = stage.resolution or before.resolution, before.width
        for one in stage.constraints:
            if one.keep is not None:
                width *= one.keep
            else:
                assert one.macs is not None
                width = (one.macs / cost(Point(depth, 1.0, size))["macs"]) ** 0.5
        return Point(depth, width, size)

    def manifest(self, point: Point) -> dict[str, Any]:
        costs = cost(point)
        own: dict[str, Any] = {"macs": 1e6 * costs["macs"], "network_weights": 1e4 * costs["weights"]}
        return manifest(val_accuracy=accuracy(point, BEND), test_accuracy=0.0, **own)


def test_three_chains_run_side_by_side_and_then_the_best_point_from_the_parent() -> None:
    one = Trials({"macs": 0.5}, {})
    first = one.follow()
    assert isinstance(first, Try)
    assert [node.name for node in first.trials] == ["small@depth-2", "small@width-0.8", "small@resolution-28"]
    found = one.to_the_end()
    assert isinstance(found, Take)
    names = [(node.name, node.parents) for node in one.ran]
    assert ("small@depth-4", ("small@depth-2",)) in names
    assert ("small@width-0.6", ("small@width-0.8",)) in names
    assert ("small@resolution-24", ("small@resolution-28",)) in names
    assert len(names) == 7
    last = one.ran[-1]
    assert (last.name, last.parents) == (found.name, ("dense",))
    assert cost(one.points[last.name])["macs"] == pytest.approx(0.5)
    assert [tried.node for tried in found.tried][-1] == last
    facts = found.facts
    assert len(facts["samples"]) == 7
    assert facts["resolution"] == SIDE
    assert facts["point"] == one.points[last.name]._replace(width=facts["point"]["width"])._asdict()
    assert facts["point"]["width"] == pytest.approx(one.points[last.name].width, abs=0.02)
    assert facts["predicted"] == pytest.approx(accuracy(one.points[last.name], BEND), abs=1.0)
    assert "error between samples" in found.said


def test_another_budget_costs_its_last_stage_alone() -> None:
    store: dict[str, Mapping[str, Any]] = {}
    first, second = Trials({"macs": 0.5}, store), Trials({"macs": 0.4}, store)
    first.to_the_end()
    second.points |= first.points
    assert isinstance(second.to_the_end(), Take)
    assert len(second.ran) == 1
    assert second.ran[0].name.startswith("small@best,")


AT = {"machine": "fast", "backend": "onnx", "device": "cpu", "batch": 1, "threads": 1}


def test_networks_are_timed_for_a_budget_of_latency() -> None:
    """All of the chains once, beside the dense network; then what is made of the best point, beside the parent."""
    store: dict[str, Mapping[str, Any]] = {}
    calm = Trials({"macs": 0.5}, store)
    calm.to_the_end()
    one = Trials({"latency": 0.6}, store, **CHAINS, latency=AT)
    one.points |= calm.points
    times: dict[str, list[Mapping[str, Any]]] = {}

    def look() -> Decision:
        stored = Stored(store.get, lambda key: times.get(key, []))
        return threed(one.choice, [one.dense], {"dense": one.manifest(Point())}, stored)

    found = look()
    assert isinstance(found, Time)
    assert [node.name for node in found.stages[:1]] == ["dense"]
    assert len(found.stages) == 7
    for node in found.stages:
        share = cost(one.points[node.name])["macs"] ** 0.5
        times[node.key] = [{**AT, "ratio": {"middle": 1 / share}, "latency": {"middle": share}}]
    trying = look()
    assert isinstance(trying, Try)
    (best,) = trying.trials
    store[best.key] = one.manifest(Point(width=0.6))
    again = look()
    assert again == Time((one.dense, best), one.choice.spec.latency, again.tried)
    times[best.key] = [{**AT, "ratio": {"middle": 2.0}, "latency": {"middle": 0.5}}]
    taken = look()
    assert isinstance(taken, Take)
    assert taken.facts["latency"] == {**AT, "share": 0.5}
    assert taken.said.endswith("its latency is 0.5 of the parent's (onnx on fast, 1 thread, batch 1)")


def test_the_same_stages_are_found_again_by_their_keys() -> None:
    """A choice that was stopped goes on where it was."""
    store: dict[str, Mapping[str, Any]] = {}
    first = Trials({"macs": 0.5}, store)
    taken = first.to_the_end()
    again = Trials({"macs": 0.5}, store)
    assert again.to_the_end() == taken
    assert again.ran == []


def test_a_budget_out_of_reach_is_refused() -> None:
    found = Trials({"macs": 0.05}, {}).to_the_end()
    assert isinstance(found, Refuse)
    assert "no shape is within the budget" in found.reason


def test_a_cost_that_is_not_known_is_told() -> None:
    one = Trials({"bytes": 0.5}, {})
    found = one.to_the_end()
    assert isinstance(found, Refuse)
    assert "bytes of whole are not known" in found.reason


def test_samples_off_the_axes_start_from_the_parent() -> None:
    one = Trials({"macs": 0.5}, {}, **CHAINS, samples=[{"depth": 2, "width": 0.7, "resolution": 28}])
    assert isinstance(one.to_the_end(), Take)
    (off,) = [node for node in one.ran if node.name == "small@depth-2,width-0.7,resolution-28"]
    assert off.parents == ("dense",)


def test_what_checks_and_smoke_runs_look_at() -> None:
    assert THREED.trials is not None
    whole = spec({"macs": 0.5}, **CHAINS)
    harshest, where = THREED.trials.harshest(whole)
    assert isinstance(harshest, ShrinkSpec)
    assert harshest.blocks is not None
    assert (harshest.blocks.remove, harshest.resolution, harshest.constraints[0].keep) == (4, 24, 0.6)
    assert "depth-4,width-0.6,resolution-24" in where
    assert THREED.trials.most(whole) == 7
    assert THREED.trials.outline is not None
    assert THREED.trials.outline(whole) == (
        "tries depth-2 -> depth-4; width-0.8 -> width-0.6; resolution-28 -> resolution-24; "
        "when all are done, the best point within 0.5 of macs"
    )
    assert THREED.small(whole).budget == {"macs": 0.99}

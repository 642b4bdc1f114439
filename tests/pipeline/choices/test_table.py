"""What every line of the table of choices has to hold to. A line that is added needs settings here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.pipeline import dag
from dualprune.pipeline.choices.base import ChoiceSettings, Refuse, Stored, Take, Try
from dualprune.pipeline.choices.table import CHOICES, among_parents, searches, trials
from dualprune.pipeline.node import Node
from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import StageSpec
from tests.pipeline.choices.common import stage
from tests.pipeline.choices.test_shapes import STAGE as SHAPED
from tests.pipeline.common import manifest

SETTINGS: dict[str, dict[str, Any]] = {
    "select": {"metric": "rate", "budget": {"val_accuracy": 90.0}},
    "replace": {"metric": "val_accuracy", "candidate": 1},
    "search": {"stage": stage(), "tolerance": 1.0, "trials": 3, "most": 4.0},
    "threed": {"stage": parse(SHAPED), "budget": {"macs": 0.9}, "width": [0.8, 0.6]},
}
"""Sound ones of each choice."""


class Given:
    """A stage as `dag.build` takes it."""

    def __init__(self, name: str, spec: Any, *parents: str) -> None:
        self.name, self.spec, self.parents, self.teacher = name, spec, parents, None


def settings(kind: str) -> ChoiceSettings:
    """Those of a choice."""
    found: ChoiceSettings = CHOICES[kind].settings.model_validate({"kind": kind, **SETTINGS[kind]})
    return found


def nodes(kind: str) -> tuple[Node, list[Node]]:
    """A node of the choice, and its parents: three, or one where it has trials."""
    names = ["a"] if CHOICES[kind].trials else ["a", "b", "c"]
    given = [Given(name, stage()) for name in names] + [Given("chosen", settings(kind), *names)]
    *parents, node = dag.build(given, lambda _: ("shards", "digest"))
    return node, parents


def done(parents: list[Node]) -> dict[str, Mapping[str, Any]]:
    """Manifests of the parents, which differ."""
    return {one.name: manifest(val_accuracy=97.0 - n, rate=2.0 + n, macs=1e6) for n, one in enumerate(parents)}


@pytest.mark.parametrize("kind", CHOICES)
def test_settings_are_sound(kind: str) -> None:
    """They bear the choice's name, go through JSON, are frozen, and refuse what they don't know."""
    model, found = CHOICES[kind].settings, settings(kind)
    assert found.kind == kind
    assert isinstance(found, Settings)
    json.dumps(found.model_dump(mode="json"))
    for wrong in ({**SETTINGS[kind], "kind": "another"}, {**SETTINGS[kind], "kind": kind, "shape": 1}):
        with pytest.raises(ValidationError):
            model.model_validate(wrong)


@pytest.mark.parametrize("kind", CHOICES)
def test_a_version_is_in_the_key(kind: str) -> None:
    """A whole number; of a choice with trials beside that of the kind of stage that it tries."""
    version = CHOICES[kind].version
    assert type(version) is int
    assert version >= 1
    by = CHOICES[kind].trials
    method = nodes(kind)[0].material["method"]
    assert method == (version if by is None else [version, KINDS[by.kind].version])


@pytest.mark.parametrize("kind", CHOICES)
def test_a_choice_decides_by_value(kind: str) -> None:
    """The same again for the same, and nothing that it is given changes. With its trials done it ends."""
    node, parents = nodes(kind)
    manifests, stored = done(parents), {}
    for _ in range(100):
        before = dict(manifests)
        decision = CHOICES[kind].decide(node, parents, manifests, Stored(stored.get))
        assert decision == CHOICES[kind].decide(node, parents, manifests, Stored(stored.get))
        assert manifests == before
        if not isinstance(decision, Try):
            break
        assert trials(node.spec) is not None
        assert decision.trials
        for one in decision.trials:
            assert one.key not in stored
            assert isinstance(one.spec, StageSpec)
            assert "@" in one.name
            stored[one.key] = manifest(val_accuracy=96.5, macs=5e5)
    assert isinstance(decision, Take)
    assert decision.name in {*manifests, *(one.node.name for one in decision.tried)}


@pytest.mark.parametrize("kind", CHOICES)
def test_what_a_small_run_has_is_sound(kind: str) -> None:
    """Whatever accuracies are, something is taken; the settings are of the same choice."""
    node, parents = nodes(kind)
    small = CHOICES[kind].small(settings(kind))
    assert type(small) is CHOICES[kind].settings
    node = Node(node.name, node.parents, small, node.key, node.material, node.shards, node.data_digest)
    manifests = {one.name: manifest(val_accuracy=1.0, val_loss=100.0, macs=1e6) for one in parents}
    low = manifest(val_accuracy=0.0, macs=5e5)
    assert not isinstance(CHOICES[kind].decide(node, parents, manifests, Stored(lambda _: low)), Refuse)


@pytest.mark.parametrize("kind", searches())
def test_what_a_choice_tries_can_be_asked(kind: str) -> None:
    """Its stage, how many trials there are at most, and the harshest of them in words."""
    by, found = searches()[kind], settings(kind)
    assert by.kind in KINDS
    assert by.stage(found) == SETTINGS[kind]["stage"] == dag.trained(found)
    assert by.most(found) >= 1
    harshest, where = by.harshest(found)
    assert harshest.kind == by.kind
    assert where.startswith("(")


def test_names_clash_with_nothing() -> None:
    """A choice is no kind of stage, and what asks for one is no setting of a stage."""
    assert not set(CHOICES) & set(KINDS)
    assert not set(searches()) & {name for kind in KINDS.values() for name in kind.settings.model_fields}
    assert {*among_parents(), *searches()} == set(CHOICES)
    assert set(SETTINGS) == set(CHOICES)

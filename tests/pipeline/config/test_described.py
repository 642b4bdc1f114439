"""The JSON schema of configurations: what dualprune takes it takes, and what has a wrong name or type it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from dualprune.pipeline.choices.table import CHOICES
from dualprune.pipeline.config.described import EACH, Schema, document, resolved
from dualprune.pipeline.config.load import RECIPES
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.stage import STAGE_WIDE
from dualprune.pipeline.config.yamlfile import parse
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.sets import SETS

jsonschema = pytest.importorskip("jsonschema")
ADMM = {"updates": 1, "lr": 1e-3, "rho": 1e-3}
SMALL: dict[str, Any] = {
    "name": "small",
    "kind": "prune",
    "parent": "dense",
    "constraints": [{"set": "cardinality", "tensors": "*", "rate": 2}],
    "admm": ADMM,
    "retrain": {"epochs": 1, "lr": 1e-3},
}
FILE: dict[str, Any] = {
    "name": "mine",
    "model": {"name": "lenet5"},
    "data": {"source": "mnist"},
    "stages": [{"name": "dense", "kind": "train", "train": {"epochs": 1, "lr": 1e-3}}, SMALL],
}


@pytest.fixture(scope="module")
def schema() -> Schema:
    """Made once."""
    found = document()
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """FILE after a change."""
    found = copy.deepcopy(FILE)
    change(found)
    return found


def errors(schema: Schema, file: Any) -> list[str]:
    """Where a file is not as the schema has it, and why."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(file)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_right(schema: Schema, recipe: Any) -> None:
    raw, _ = parse(recipe.read_text(), recipe.name)
    assert errors(schema, raw) == []


RIGHT: dict[str, Callable[[dict[str, Any]], Any]] = {
    "as it is": lambda file: None,
    "workers by number": lambda file: file.update(cluster={"workers": 2}),
    "workers from to": lambda file: file.update(cluster={"workers": {"min": 1, "max": 2}}),
    "an objective by name": lambda file: file.update(objective="regress"),
    "an objective with arguments": lambda file: file.update(objective={"name": "mytask:mine", "args": {"a": 1}}),
    "weights in part": lambda file: file["model"].update(weights={"file": "w.pth", "skip": "head.*"}),
    "several patterns": lambda file: file["stages"][1]["constraints"][0].update(tensors=["*", "!head*"]),
    "no ADMM": lambda file: file["stages"][1].update(admm=None),
    "a ladder": lambda file: file["stages"][1].update(ladder=[2, 4], admm={**ADMM, "updates": [1, 2]}),
    "a ladder of mappings": lambda file: file["stages"][1].update(ladder=[2, 4], admm=[None, ADMM]),
    "a beam": lambda file: file["stages"][1].update(beam={"pool": [2, 3], "targets": [4]}),
    "a search": lambda file: file["stages"][1].update(search={"tolerance": 1, "trials": 3, "most": 4}),
    "a choice": lambda file: file["stages"].append({"name": "best", "kind": "select", "parents": ["dense", "small"]}),
    "a stage's own data": lambda file: file["stages"][0].update(data={"limit": 5}),
}


@pytest.mark.parametrize("right", RIGHT)
def test_what_may_be_said(schema: Schema, right: str) -> None:
    assert errors(schema, changed(RIGHT[right])) == []


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an unknown setting": (lambda file: file.update(sedd=1), "'sedd'"),
    "a stage's unknown setting": (lambda file: file["stages"][1].update(regroww=True), "stages.1: "),
    "a setting of another kind": (lambda file: file["stages"][0].update(regrow=True), "stages.0: "),
    "no such kind": (lambda file: file["stages"][0].update(kind="trim"), "stages.0.kind: "),
    "no such set": (lambda file: file["stages"][1]["constraints"][0].update(set="sparse"), "constraints.0"),
    "a set of quantize": (
        lambda file: file["stages"][1].update(constraints=[{"set": "clusters", "count": 3, "tensors": "*"}]),
        "stages.1.constraints.0",
    ),
    "out of range": (lambda file: file["stages"][0]["train"].update(lr=-1), "stages.0.train.lr: "),
    "no number": (lambda file: file.update(seed="one"), "seed: "),
    "no name": (lambda file: file.pop("name"), "'name' is a required"),
    "no stages": (lambda file: file.update(stages=[]), "stages: "),
    "something missing": (lambda file: file["stages"][1]["admm"].pop("rho"), "stages.1.admm"),
    "no such objective": (lambda file: file.update(objective="classifi"), "objective: "),
    "a list without a ladder": (lambda file: file["stages"][1]["admm"].update(updates=[1, 2]), "stages.1.admm"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused(schema: Schema, wrong: str) -> None:
    """At its place."""
    change, where = WRONG[wrong]
    found = errors(schema, changed(change))
    assert any(where in one for one in found), found


def test_kinds_sets_and_choices_are_those_of_the_tables(schema: Schema) -> None:
    """What is added to a table is in the schema."""
    defs = schema["$defs"]
    written = {name for name, choice in CHOICES.items() if choice.trials is None and choice.written}
    assert set(defs["stage"]["properties"]["kind"]["enum"]) == {*KINDS, *written}
    assert set(schema["properties"]) == {*Top.model_fields, *STAGE_WIDE, "stages"}
    named = [one.get("properties", {}).get("set", {}) for name, one in defs.items() if not name.endswith(EACH)]
    assert {name for one in named for name in one.get("enum", [one.get("const")]) if name} == set(SETS)
    for name, kind in KINDS.items():
        assert set(kind.settings.model_fields) <= set(defs[f"stage-{name}"]["properties"])


def test_every_setting_is_described(schema: Schema) -> None:
    """A docstring below each field, which `explain` shows."""
    bare = [
        f"{name}.{setting}"
        for name, shape in {"file": schema, **schema["$defs"]}.items()
        for setting, given in shape.get("properties", {}).items()
        if not resolved(given, schema["$defs"]).get("description") and name != "stage"
    ]
    assert bare == []

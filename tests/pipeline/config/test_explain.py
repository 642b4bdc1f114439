"""What is said of a setting: its type, default and meaning, as its class has them."""

from __future__ import annotations

import pytest

from dualprune.pipeline.choices.table import CHOICES
from dualprune.pipeline.config.explain import Explained, Setting, Unknown, explain, overview
from dualprune.pipeline.config.schema import Top
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.objectives.table import OBJECTIVES
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.sets import SETS


def one(name: str) -> Explained:
    """The only thing that goes by a name."""
    (found,) = explain(name)
    return found


def setting(name: str) -> Setting:
    """The only setting that goes by it."""
    found = one(name).setting
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "kind", "default", "of"),
    [
        ("stages.admm.rho", "number (above 0)", "none: it has to be given", ("prune", "quantize")),
        ("data.crop", "whole number (at least 1)", "224", ()),
        ("constraints.rate", "number (at least 1)", "none", tuple(n for n in SETS if "rate" in SETS[n].model_fields)),
        ("precision", "fp32 or bf16", "fp32", ()),
        ("seed", "whole number (at least 0)", "0", ()),
        ("cluster.workers", "whole number (at least 1) or mapping", "{min: 1, max: 1}", ()),
        ("data.mean", "list of numbers", "[0.0]", ()),
        ("stages.admm", "mapping or null", "none: it has to be given", ("prune",)),
        ("optimizer.name", "sgd, adam or adamw", "adam", ()),
        ("search.most", "number (above 1)", "none: it has to be given", ("prune",)),
    ],
)
def test_settings(name: str, kind: str, default: str, of: tuple[str, ...]) -> None:
    """By the end of a path."""
    found = next(e.setting for e in explain(name) if e.setting is not None)
    assert (found.type, found.default, set(found.of)) == (kind, default, set(of))


def test_the_meaning_is_the_docstring() -> None:
    """On one line."""
    said = Data.model_fields["crop"].description
    assert said is not None
    assert setting("data.crop").meaning == " ".join(said.split())


@pytest.mark.parametrize(
    "name", ["stages.prune-4x.retrain.epochs", "stages[3].retrain.epochs", "stages.3.retrain.epochs", "retrain.epochs"]
)
def test_a_path_as_messages_and_overrides_have_it(name: str) -> None:
    """Names and numbers of entries are left out."""
    assert setting(name).path == ("stages", "retrain", "epochs")


def test_what_is_said_for_all_stages_is_found_in_one_too() -> None:
    assert setting("stages.dense.data.crop") == setting("data.crop")


def test_a_name_that_several_have() -> None:
    """All of them."""
    found = [".".join(e.setting.path) for e in explain("epochs") if e.setting is not None]
    assert {"stages.train.epochs", "stages.admm.epochs", "stages.retrain.epochs"} <= set(found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind(kind: str) -> None:
    """What it does, and its own settings."""
    found = next(e for e in explain(kind) if e.setting is None)
    assert found.meaning.startswith(" ".join(str(KINDS[kind].settings.__doc__).split()))
    inside = {inner.path[-1] for inner in found.inside}
    assert {*KINDS[kind].settings.model_fields} - inside == {*found.meaning.rpartition(": ")[2].rstrip(".").split(", ")}


@pytest.mark.parametrize("name", [*SETS, *(n for n, c in CHOICES.items() if c.trials is None and c.written)])
def test_a_set_or_a_choice(name: str) -> None:
    found = next(e for e in explain(name) if e.setting is None)
    fields = SETS[name].model_fields if name in SETS else CHOICES[name].settings.model_fields
    assert set(fields) <= {inner.path[-1] for inner in found.inside}


def test_an_objective_with_its_arguments() -> None:
    found = one("regress")
    assert found.title == "objective: regress"
    assert {"inputs", "target", "loss"} <= {inner.path[-1] for inner in found.inside}


def test_a_mapping_has_its_settings_below() -> None:
    assert [inner.path[-1] for inner in one("cluster").inside][:2] == ["address", "workers"]


@pytest.mark.parametrize(("wrong", "near"), [("data.crob", "data.crop"), ("cardinalty", "cardinality")])
def test_a_name_that_there_is_not(wrong: str, near: str) -> None:
    with pytest.raises(Unknown, match=f"did you mean '{near}'"):
        explain(wrong)


def test_a_name_like_none() -> None:
    with pytest.raises(Unknown, match="`dualprune explain` alone lists"):
        explain("zzzzzzz")


def test_the_overview_has_all_of_the_tables() -> None:
    """Whatever is added to them."""
    names = {name for sort in overview().values() for name in sort}
    assert {*Top.model_fields, *KINDS, *SETS, *OBJECTIVES, "select", "stages"} <= names
    assert all(meaning for sort in overview().values() for meaning in sort.values())


def test_whatever_is_listed_can_be_explained() -> None:
    for sort in overview().values():
        for name in sort:
            assert explain(name)

"""An objective as a setting: a name or a mapping, the same wherever they mean the same."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.kinds.job import key_material
from dualprune.stages.kinds.table import parse
from dualprune.stages.settings.objective import Named
from tests.stages.objectives.common import STAGE


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("classify", None),
        ({"name": "classify"}, None),
        ({"name": "classify", "args": {}}, None),
        ("regress", "regress"),
        ({"name": "regress", "args": {}}, "regress"),
        ({"name": "regress", "args": {"loss": "mae"}}, {"name": "regress", "args": {"loss": "mae"}}),
    ],
)
def test_a_key_has_only_what_is_not_the_default(given: Any, kept: Any) -> None:
    """Without it, it is what it was before there were objectives; manifests have the short form, and are read again."""
    spec = parse({**STAGE, "objective": given})
    material = key_material(spec, "digest", [])["spec"]
    assert material.get("objective") == kept
    if kept is None:
        assert material == key_material(parse(STAGE), "digest", [])["spec"]
    dumped = spec.model_dump(mode="json")
    assert dumped["objective"] == (kept or "classify")
    assert parse(dumped) == spec


@pytest.mark.parametrize("given", [5, None, ["classify"], {}, {"args": {}}, {"name": 5}, {"name": "a", "arg": 1}])
def test_what_is_no_name_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        parse({**STAGE, "objective": given})


def test_arguments_are_plain_values() -> None:
    """What JSON can hold, so that keys can."""
    assert Named(name="a", args={"n": [1, {"b": None}]}).args["n"] == [1, {"b": None}]
    with pytest.raises(ValidationError):
        Named.model_validate({"name": "a", "args": {"n": {1, 2}}})

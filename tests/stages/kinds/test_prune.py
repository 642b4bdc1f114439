"""Settings of a prune: what only ADMM does, and unknown ones."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.kinds.prune import PruneSpec
from tests.stages.kinds.test_job import PRUNE


@pytest.mark.parametrize("given", [{"regrow": True}, {"duals": "carry"}])
def test_what_only_admm_does_is_refused_without_it(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="changes nothing without ADMM"):
        PruneSpec.model_validate(PRUNE | {"admm": None} | given)
    assert PruneSpec.model_validate(PRUNE | {"admm": None}).admm is None


def test_an_unknown_key_is_refused_at_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        PruneSpec.model_validate(PRUNE | {"admm": PRUNE["admm"] | {"roh": 1.0}})
    assert [error["loc"] for error in caught.value.errors()] == [("admm", "roh")]

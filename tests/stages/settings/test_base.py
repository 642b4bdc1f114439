"""All settings are frozen and strict."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.settings.data import Data
from dualprune.stages.settings.engine import Engine
from dualprune.stages.settings.sets import Cardinality
from dualprune.stages.settings.training import Admm, Optimizer, Training


@pytest.mark.parametrize(
    "settings",
    [
        Optimizer(),
        Training(epochs=1, lr=0.1),
        Admm(updates=1, lr=0.1, rho=0.1),
        Data(source="digits"),
        Engine(),
        Cardinality(set="cardinality", tensors="*", rate=2.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frozen_and_no_unknown_keys(settings: Any) -> None:
    field = next(iter(type(settings).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, field, getattr(settings, field))
    given = settings.model_dump(exclude_none=True)
    assert type(settings).model_validate(given) == settings
    with pytest.raises(ValidationError, match=r"surprise\s+Extra inputs are not permitted"):
        type(settings).model_validate(given | {"surprise": 1})

"""A function for each set of the settings, for a user's own code: `cardinality("*", rate=10)`. No torch here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ValidationError

from dualprune.stages.settings.base import worded
from dualprune.stages.settings.sets import SETS, Pattern


def refused(error: ValidationError) -> ValueError:
    """What pydantic found wrong with settings, as the pipeline says it."""
    found = [(".".join(map(str, one["loc"])), worded(one)) for one in error.errors(include_url=False)]
    return ValueError("; ".join(": ".join(filter(None, one)) for one in found))


def _maker(name: str, settings: type[Pattern]) -> Callable[..., Pattern]:
    def make(tensors: str | list[str] | None = None, **given: Any) -> Pattern:
        try:
            return settings.model_validate({"set": name, "tensors": tensors, **given})
        except ValidationError as error:
            raise refused(error) from None

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"{settings.__doc__}\n\n{_explained(settings)}\nRaises ValueError for what makes no sense.\n"
    make.__signature__ = inspect.Signature(_parameters(settings))  # type: ignore[attr-defined]
    return make


def _parameters(settings: type[BaseModel]) -> list[inspect.Parameter]:
    """Its settings; the tensors first, which need no name."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "tensors" else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.default,
            annotation=field.annotation,
        )
        for name, field in sorted(settings.model_fields.items(), key=lambda one: one[0] != "tensors")
        if name != "set"
    ]


def _explained(settings: type[BaseModel]) -> str:
    """A line for each setting that has words."""
    words = {name: field.description for name, field in settings.model_fields.items() if name != "set"}
    return "".join(f"{name}: {' '.join(text.split())}\n" for name, text in words.items() if text)


CONSTRUCTORS: dict[str, Callable[..., Pattern]] = {name: _maker(name, settings) for name, settings in SETS.items()}
"""By the names of the sets."""

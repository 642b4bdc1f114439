"""What all settings have in common: frozen, typed, and refused with every problem and its place."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from dualprune.stages.files import urls

Problem = tuple[tuple[str | int, ...], str]
"""The path of a setting within a specification, and what is wrong with it."""


class SpecError(ValueError):
    """Settings that can't work, with all `problems`."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{'.'.join(map(str, at))}: {text}" for at, text in problems))


class Settings(BaseModel):
    """Base of all settings: frozen, strict about types, and no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Url = Annotated[str, AfterValidator(urls.checked)]
"""A folder's or a file's path, or its fsspec URL."""
Local = Annotated[str, AfterValidator(urls.local)]
"""A path on this machine."""

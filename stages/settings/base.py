"""What all settings have in common: frozen, typed, and refused with every problem and its place."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict


class SpecError(ValueError):
    """Settings that can't work. `problems` lists (path within the specification, message)."""

    def __init__(self, problems: list[tuple[tuple[str | int, ...], str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{'.'.join(map(str, at))}: {text}" for at, text in problems))


class Settings(BaseModel):
    """Base of all settings: frozen, strict about types, and no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def without_password(url: str) -> str:
    """The URL, of fsspec's chained ones too. Raises ValueError if it holds a password."""
    if any(urlsplit(part).password is not None for part in url.split("::")):
        raise ValueError("holds a password, which would be written to logs and manifests; give it by the environment")
    return url


Url = Annotated[str, AfterValidator(without_password)]
"""A folder's path or fsspec URL."""

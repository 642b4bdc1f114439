"""What all settings have in common: frozen, typed, and refused with every problem and its place."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, GetJsonSchemaHandler

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


def worded(one: Any, shown: str | None = None) -> str:
    """What is wrong with one setting, as pydantic's ValidationError lists it, in our words. `shown` is said of its
    value; left out, that is the value itself."""
    if one["type"] == "value_error":
        return str(one["ctx"]["error"])
    if one["type"] == "extra_forbidden":
        return "unknown setting"
    if one["type"] == "missing":
        return "is missing"
    text = one["msg"].removeprefix("Input ").replace("should ", "must ").replace(" after validation", "")
    return f"{text}, not {one['input']!r}" if shown is None else f"{text}{shown}"


class Or:
    """Beside the type of a setting: it may be given in a shorter form too, of this JSON schema."""

    def __init__(self, **schema: Any) -> None:
        self.schema = schema

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [self.schema, handler(core)]}


def _texts(given: Any) -> Any:
    wrong = [one for one in (given if isinstance(given, list) else [given]) if not isinstance(one, str)]
    if given is not None and wrong:
        raise ValueError(f"text is needed, or a list of texts, not {repr(wrong[0])[:80]}; put numbers in quotes")
    return given


Texts = Annotated[str | list[str] | None, BeforeValidator(_texts)]
"""One text, or several."""
Url = Annotated[str, AfterValidator(urls.checked)]
"""A folder's or a file's path, or its fsspec URL."""
Local = Annotated[str, AfterValidator(urls.local)]
"""A path on this machine."""

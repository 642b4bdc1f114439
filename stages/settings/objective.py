"""Which objective a stage is trained for: a name, or a name with arguments."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, SerializerFunctionWrapHandler, model_serializer

from dualprune.stages.settings.base import Or, Settings


class Named(Settings):
    """An objective's name, and what it is told."""

    name: str
    """One from `stages.objectives.table.OBJECTIVES`, or `package.module:NAME` of one's own: an `Objective`, or a
    function that makes one of `args`."""
    args: dict[str, JsonValue] = Field(default={})
    """What it is told, by name."""
    source: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """sha256 of the code of one's own. A plan finds it out, so that changed code is another stage."""

    @property
    def own(self) -> str | None:
        """The user's own module that it is in, if it is in one."""
        module, _, _ = self.name.rpartition(":")
        return module or None

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """The name alone where there are no arguments: so it is in manifests and keys."""
        if not self.args and self.source is None:
            return self.name
        found = handler(self)
        if self.source is None:
            found.pop("source", None)
        return found


def _named(given: Any) -> Any:
    if isinstance(given, str):
        return {"name": given}
    if not (isinstance(given, Named) or (isinstance(given, dict) and "name" in given)):
        raise ValueError(f"a name is needed, or a mapping with `name` and `args`, not {given!r}")
    return given


Aim = Annotated[Named, BeforeValidator(_named), Or(type="string")]

"""What users wrote themselves: found by `package.module:name`."""

from __future__ import annotations

import importlib
from typing import Any


class SourceError(ValueError):
    """A `package.module:name` that leads nowhere: the sentence says why, and what to do."""


def load(name: str) -> Any:
    """What `package.module:name` names. Raises SourceError; what a module raises as it is imported is passed on."""
    module, _, inner = name.partition(":")
    if not module or not inner:
        raise SourceError(f"{name!r} is no `package.module:name`")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # of something that the module imports
        raise SourceError(f"there is no module {module!r}; put it beside the configuration, or install it") from None
    try:
        return getattr(found, inner)
    except AttributeError:
        raise SourceError(f"the module {module!r} ({found.__file__}) has no {inner!r}") from None

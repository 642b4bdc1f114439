"""Whether a library that is installed has the names that are used of it."""

from __future__ import annotations

import inspect
from functools import reduce
from importlib import import_module
from typing import Any

Names = tuple[tuple[str, str], ...]
"""Modules, and what is in them: names with dots. The last one may also be an attribute that a class's `__init__` or a
function sets, or an entry of a list."""


def lacking(library: str, version: str, used: Names) -> str | None:
    """What a version of a library lacks of the names that are used of it, in a sentence; None if it has them all."""
    missing = [f"{module}.{name}" for module, name in used if not _found(module, name)]
    if not missing:
        return None
    return (
        f"{library} {version} lacks {', '.join(missing)}, which dualprune uses: install one of the versions that"
        " dualprune's pyproject.toml names"
    )


def _found(module: str, name: str) -> bool:
    *path, last = name.split(".")
    owner: Any
    try:
        owner = reduce(getattr, path, import_module(module))
    except (ImportError, AttributeError):
        return False
    if isinstance(owner, list):
        return last in owner
    function = owner.__init__ if isinstance(owner, type) else owner  # type: ignore[misc]
    code = getattr(inspect.unwrap(function), "__code__", None)
    return hasattr(owner, last) or (code is not None and last in code.co_names)

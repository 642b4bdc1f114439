"""`--set a.b=c`: one setting of a file replaced before anything looks at it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml

from dualprune.pipeline.config.problems import ConfigError, brief, like
from dualprune.pipeline.config.yamlfile import Path, scalar

SETTING = re.compile(r"[A-Za-z_][\w.\[\]-]*=")
"""How a setting begins on a command line: a file's path has no `=`, or has a `/` before it."""


def spread(arguments: Sequence[str]) -> list[str]:
    """A command line with `--set` before each setting: several may follow one, and CONFIG may stand behind them."""
    found: list[str] = []
    more = False
    for number, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[number:]]
        value = found[-1:] == ["--set"]
        if more and not value and SETTING.match(argument):
            found.append("--set")
        more = value or argument.startswith("--set") or (more and bool(SETTING.match(argument)))
        found.append(argument)
    return found


def apply(raw: dict[str, Any], override: str) -> Path:
    """Apply `a.b=c` to the raw settings; a stage is named by its name or number. Returns the path.

    Raises ConfigError.
    """
    place, equals, text = override.partition("=")
    parts = _parts(place, raw)
    if not equals or not all(parts):
        raise _refused(override, "must read a.b=value")
    try:
        value = scalar(text)
    except yaml.YAMLError as error:
        why = getattr(error, "problem", None) or error
        raise _refused(override, f"{brief(text)!r} is no YAML: {why}") from None
    path: list[str | int] = []
    node: Any = raw
    for part in parts[:-1]:
        key = _key(node, part, path, override)
        # A copy, because YAML anchors may let several stages share one mapping.
        child = node.get(key) if isinstance(node, dict) else node[key]
        node[key] = {} if child is None else child.copy() if isinstance(child, dict | list) else child
        node = node[key]
        path.append(key)
    key = _key(node, parts[-1], path, override)
    node[key] = value
    return (*path, key)


def _key(node: Any, part: str, path: list[str | int], override: str) -> Any:
    """What a part of a path is in the mapping or list that it leads into. Raises ConfigError."""
    place = ".".join(map(str, path))
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise _refused(override, f"{place} holds a value, not settings")
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in node]
    if part in names:
        return names.index(part)
    if re.fullmatch("[0-9]{1,9}", part) and int(part) < len(node):
        return int(part)
    raise _refused(override, f"there is no {brief(part)!r} in {place}{_meant(part, node)}")


def _refused(override: str, why: str) -> ConfigError:
    return ConfigError("--set", [f"--set {brief(override)}: {why}"])


def _meant(part: str, entries: list[Any]) -> str:
    """What was probably meant by a name that none of the entries has."""
    named = {e["name"]: e for e in entries if isinstance(e, dict) and isinstance(e.get("name"), str)}
    for name in sorted(named, key=len, reverse=True):
        recipe = next((recipe for recipe in ("ladder", "beam") if recipe in named[name]), None)
        if recipe and part.startswith(f"{name}-"):
            return f"; those of the {recipe} {name!r} are set by stages.{name}, where a list gives each its own value"
    return like(part, list(named))


def _parts(place: str, raw: dict[str, Any]) -> list[str]:
    """Parts of a dotted path, in which a number may stand in brackets too, as messages have it.

    A stage's name may have dots of its own: the longest name that fits is taken.
    """
    place = re.sub(r"\[([0-9]+)\]", r".\1", place)
    stages = raw.get("stages") if place.startswith("stages.") else None
    entries = stages if isinstance(stages, list) else []
    names = [entry["name"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("name"), str)]
    rest = place.removeprefix("stages.")
    for name in sorted(names, key=len, reverse=True):
        if rest == name:
            return ["stages", name]
        if rest.startswith(f"{name}."):
            return ["stages", name, *rest[len(name) + 1 :].split(".")]
    return place.split(".")

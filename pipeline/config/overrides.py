"""`--set a.b=c`: one setting of a file replaced before anything looks at it."""

from __future__ import annotations

from typing import Any

import yaml

from dualprune.pipeline.config.problems import ConfigError, like
from dualprune.pipeline.config.yamlfile import Path, scalar


def apply(raw: dict[str, Any], override: str) -> Path:
    """Apply `a.b=c` to the raw settings; a stage is named by its name or number. Returns the path."""
    place, equals, text = override.partition("=")
    if not equals or not place:
        raise ConfigError("--set", [f"--set {override}: must read a.b=value"])
    try:
        value = scalar(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            "--set", [f"--set {override}: {text!r} is no YAML: {getattr(error, 'problem', None) or error}"]
        ) from None
    path: list[str | int] = []
    node: Any = raw
    parts = _dots(place, node)
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            names = [entry.get("name") if isinstance(entry, dict) else None for entry in node]
            if part in names:
                key: str | int = names.index(part)
            elif part.isdigit() and int(part) < len(node):
                key = int(part)
            else:
                text = f"there is no {part!r} in {'.'.join(map(str, path))}{_meant(part, node)}"
                raise ConfigError("--set", [f"--set {override}: {text}"])
        elif isinstance(node, dict):
            key = part
        else:
            raise ConfigError("--set", [f"--set {override}: {'.'.join(map(str, path))} holds a value, not settings"])
        path.append(key)
        if last:
            node[key] = value
        elif isinstance(node, dict):
            # A copy, because YAML anchors may let several stages share one mapping.
            child = node.get(key)
            node[key] = dict(child) if isinstance(child, dict) else list(child) if isinstance(child, list) else child
            if node[key] is None:
                node[key] = {}
            node = node[key]
        else:
            assert isinstance(key, int)
            node[key] = dict(node[key]) if isinstance(node[key], dict) else node[key]
            node = node[key]
    return tuple(path)


def _meant(part: str, entries: list[Any]) -> str:
    """What was probably meant by a name that none of the entries has."""
    named = {e["name"]: e for e in entries if isinstance(e, dict) and isinstance(e.get("name"), str)}
    for name in sorted(named, key=len, reverse=True):
        recipe = next((recipe for recipe in ("ladder", "beam") if recipe in named[name]), None)
        if recipe and part.startswith(f"{name}-"):
            return f"; those of the {recipe} {name!r} are set by stages.{name}, where a list gives each its own value"
    return like(part, list(named))


def _dots(place: str, raw: dict[str, Any]) -> list[str]:
    """Parts of a dotted path. A stage's name may have dots of its own: the longest name that fits is taken."""
    parts = place.split(".")
    if parts[0] != "stages" or not isinstance(raw.get("stages"), list):
        return parts
    names = sorted(
        (s["name"] for s in raw["stages"] if isinstance(s, dict) and isinstance(s.get("name"), str)),
        key=len,
        reverse=True,
    )
    rest = place[len("stages.") :]
    for name in names:
        if rest == name or rest.startswith(f"{name}."):
            return ["stages", name, *filter(None, rest[len(name) + 1 :].split("."))]
    return parts

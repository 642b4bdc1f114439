"""The types of a JSON schema in words."""

from __future__ import annotations

from dualprune.pipeline.config.described import Schema, resolved

BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
PLAIN = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
    "array": "list",
}


ANY = "any value"
LARGE = 2**63
"""A bound that nobody needs to be told."""


def in_words(given: Schema, defs: Schema) -> str:
    """What may stand there, for people; that it may be null goes without saying where it is so by default."""
    kinds = _kinds(given, defs)
    unsaid = "default" in given and given["default"] is None
    return _either(list(dict.fromkeys(kind for kind in kinds if not (unsaid and kind == PLAIN["null"]))))


def _kinds(given: Schema, defs: Schema) -> list[str]:
    whole = resolved(given, defs)
    if "const" in whole:
        return [str(whole["const"])]
    if "enum" in whole:
        return [str(one) for one in whole["enum"]]
    several = [*whole.get("anyOf", []), *whole.get("oneOf", [])]
    sets = [name for one in several for name in named(resolved(one, defs), "set")]
    if sets:
        return [f"mapping with `set`: {_either(sets)}"]
    if several:
        return [kind for one in several for kind in _kinds(one, defs)]
    kind = PLAIN.get(str(whole.get("type")), ANY)
    if kind == PLAIN["array"] and whole.get("items"):
        return [f"list of {_several(in_words(whole['items'], defs))}"]
    bounds = [text.format(f"{whole[key]:g}") for key, text in BOUNDS.items() if whole.get(key, LARGE) < LARGE]
    return [f"{kind} ({' and '.join(bounds)})" if bounds else kind]


def _several(kind: str) -> str:
    """The plural of a type."""
    for name in ("whole number", "number", "text", "mapping"):
        if kind == name or kind.startswith(f"{name} "):
            return f"{name}s{kind.removeprefix(name)}"
    return kind


def _either(kinds: list[str]) -> str:
    *first, last = kinds
    return f"{', '.join(first)} or {last}" if first else last


def named(shape: Schema, key: str) -> list[str]:
    """What an object's `key` may be called."""
    own = shape.get("properties", {}).get(key, {})
    found: list[str] = own.get("enum") or ([own["const"]] if "const" in own else [])
    return found

"""What a setting is: type, default and meaning, as the schema of configurations has them (`described.py`)."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from dualprune.pipeline.config.described import EACH, Schema, document, resolved
from dualprune.pipeline.config.wording import in_words, named
from dualprune.stages.objectives.table import OBJECTIVES
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.sets import SETS

NEEDED = "none: it has to be given"


@dataclass(frozen=True)
class Setting:
    """One setting."""

    path: tuple[str, ...]
    """From the top of a file; entries' numbers are left out."""
    of: tuple[str, ...]
    """Kinds of stages, sets or choices that have it; none where it is everybody's."""
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Explained:
    """What there is to say of a name or a path."""

    title: str
    meaning: str
    setting: Setting | None = None
    """None of a kind, a set or an objective."""
    inside: list[Setting] = field(default_factory=list)
    """Settings that it has."""


class Unknown(LookupError):
    """A name that no setting, kind, set, choice or objective has; the sentence says which is near."""


def explain(name: str) -> list[Explained]:
    """All that goes by a name (`prune`, `cardinality`), or whose path ends so (`admm.rho`). Raises Unknown."""
    schema = document()
    settings = _merged(_settings(schema))
    asked = tuple(part for part in re.sub(r"\[\d+\]", "", name).split(".") if part and not part.isdigit())
    found = [*_named(name, schema), *_objective(name)]
    for tried in _ways(asked):
        exact = [one for one in settings if one.path == tried]
        matching = exact or [one for one in settings if one.path[-len(tried) :] == tried]
        if matching:
            found += [_explained(one, settings) for one in matching]
            break
    if not found:
        raise Unknown(_no_such(name, asked, settings, schema))
    return found


def overview() -> dict[str, dict[str, str]]:
    """What can be explained, by sort, and the meaning of each."""
    schema = document()
    settings = {one.path[0]: one.meaning for one in _settings(schema) if len(one.path) == 1}
    names = {name: shape.get("description", "") for name, shape in _things(schema).items()}
    kinds = schema["$defs"]["stage"]["properties"]["kind"]["enum"]
    return {
        "settings of a file": settings,
        "kinds of stages": {name: meaning for name, meaning in names.items() if name in kinds},
        "sets": {name: meaning for name, meaning in names.items() if name not in kinds},
        "objectives": {name: one.meaning for name in OBJECTIVES for one in _objective(name)},
    }


def _ways(asked: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What may be meant: `stages.NAME.admm.rho` and `stages.data.crop` too."""
    if not asked:
        return
    yield asked
    if asked[0] == "stages":
        for left_out in (1, 2):
            if len(asked) > left_out:
                yield asked[left_out:]


def _explained(one: Setting, settings: Sequence[Setting]) -> Explained:
    depth = len(one.path)
    below = (other for other in settings if other.path[:depth] == one.path and len(other.path) == depth + 1)
    inside = [other for other in below if not one.of or set(one.of) & set(other.of)]
    return Explained(".".join(one.path), one.meaning, one, inside)


def _named(name: str, schema: Schema) -> Iterator[Explained]:
    """A kind of stage, a choice of a file's or a set by its name."""
    shape = _things(schema).get(name)
    if shape is not None:
        wide = [one for one in shape["properties"] if one in schema["properties"] and one != "name"]
        also = f" As at the top of a file, it may have: {', '.join(wide)}." if wide else ""
        inside = [one for one in _of(shape, schema["$defs"]) if one.path[0] not in wide]
        yield Explained(name, shape.get("description", "") + also, inside=inside)


def _things(schema: Schema) -> dict[str, Schema]:
    """Kinds of stages, choices and sets by name, as objects."""
    defs = schema["$defs"]
    found = {name: defs[f"stage-{name}"] for name in defs["stage"]["properties"]["kind"]["enum"]}
    for shape in (one for name, one in defs.items() if not name.endswith(EACH)):
        for name in named(shape, "set"):
            found[name] = shape
    # Kinds may have shapes of their own that go by a set's name.
    return found | {name: defs[of.__name__] for name, of in SETS.items() if of.__name__ in defs}


def _objective(name: str) -> Iterator[Explained]:
    """An objective by its name: what its file says of it, and its arguments."""
    if name not in OBJECTIVES:
        return
    module = inspect.getmodule(OBJECTIVES[name])
    own = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Settings)]
    shapes = [one.model_json_schema() for one in own if one.__module__ == getattr(module, "__name__", "")]
    inside = [one for shape in shapes for one in _of(shape, shape.get("$defs", {}))]
    meaning = " ".join((inspect.getdoc(module) or "").split())
    args = [replace(one, path=("objective", "args", *one.path)) for one in inside]
    yield Explained(f"objective: {name}", meaning, inside=args)


def _of(shape: Schema, defs: Schema) -> Iterator[Setting]:
    """An object's own settings."""
    for name, given in shape.get("properties", {}).items():
        whole = resolved(given, defs)
        default = _default(name, whole, shape.get("required", []))
        yield Setting((name,), (), in_words(given, defs), default, " ".join(whole.get("description", "").split()))


def _settings(schema: Schema) -> Iterator[Setting]:
    """All settings of a file with their paths: those that several kinds or sets have, once for each."""
    defs = schema["$defs"]
    yield from _below(schema, (), (), defs)
    top = schema["properties"]
    for kind in defs["stage"]["properties"]["kind"]["enum"]:
        shape = defs[f"stage-{kind}"]
        own = {name: one for name, one in shape["properties"].items() if name not in top or name == "name"}
        yield from _below({**shape, "properties": own}, ("stages",), (kind,), defs)


def _below(shape: Schema, path: tuple[str, ...], of: tuple[str, ...], defs: Schema) -> Iterator[Setting]:
    """An object's settings, and those in them."""
    for one in _of(shape, defs):
        here = (*path, *one.path)
        yield replace(one, path=here, of=of)
        for inner in _objects(shape["properties"][one.path[0]], defs):
            if here != ("stages",):
                yield from _below(inner, here, tuple(named(inner, "set")) or of, defs)


def _objects(given: Schema, defs: Schema) -> Iterator[Schema]:
    """The mappings with settings that a value, or each of a list of values, may be."""
    whole = resolved(given, defs)
    if "properties" in whole:
        yield whole
    for other in (*whole.get("anyOf", []), *whole.get("oneOf", []), whole.get("items", {})):
        if other:
            yield from _objects(other, defs)


def _merged(settings: Iterator[Setting]) -> list[Setting]:
    """The same, but once where several have it in the same meaning."""
    found: dict[Setting, list[str]] = {}
    for one in settings:
        found.setdefault(replace(one, of=()), []).extend(one.of)
    return [replace(one, of=tuple(dict.fromkeys(of))) for one, of in found.items()]


def _default(name: str, given: Schema, required: Sequence[str]) -> str:
    if name in required:
        return NEEDED
    value = given.get("default")
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value).replace('"', "")


def _no_such(name: str, asked: Sequence[str], settings: Sequence[Setting], schema: Schema) -> str:
    """What to say of a name that there is not."""
    last = asked[-1] if asked else name
    paths = {".".join(one.path) for one in settings}
    names = {*_things(schema), *OBJECTIVES, *(one.path[-1] for one in settings)}
    near = get_close_matches(name, sorted(paths), n=1, cutoff=0.8) or get_close_matches(last, sorted(names), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`dualprune explain` alone lists what there is"
    return f"there is no setting, kind, set or objective {name!r}; {hint}"

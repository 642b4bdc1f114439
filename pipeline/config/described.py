"""A configuration as a JSON schema, for editors and for `explain`: made of the settings' classes and the tables.

Descriptions are the settings' docstrings. What a model's own checks say (that either of two settings is given, say) no
schema has; what it refuses, dualprune refuses too.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from dualprune.pipeline.choices.table import CHOICES, among_parents, searches
from dualprune.pipeline.config.recipes import Beam, Ladder
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.stage import STAGE_WIDE, Among, Entry
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.objectives.table import OBJECTIVES
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.objective import Named
from dualprune.stages.settings.training import StageSpec

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = "#/$defs/"
RECIPES = ("ladder", "beam")
"""Settings of an entry that make several stages of it."""
EACH = "-each"
"""What the names of definitions end with in which a list may give each target its own value."""


def document() -> Schema:
    """The schema of a file."""
    defs = _definitions()
    top, wide = defs.pop("Top"), defs.pop("StageSpec")
    for name, kind in KINDS.items():
        defs[f"stage-{name}"] = stage = _stage(name, defs)
        if kind.varies:
            defs[f"stage-{name}{EACH}"] = _varied(stage, kind.varies, defs)
    for name in _written():
        defs[f"stage-{name}"] = _joined(defs["Among"], defs[CHOICES[name].settings.__name__])
    defs["stage"] = _entry()
    stages = {"type": "array", "minItems": 1, "items": _ref("stage"), "description": "What is done, in any order."}
    found = {
        "$schema": DIALECT,
        "title": "dualprune",
        "description": "A configuration of dualprune.",
        "type": "object",
        "properties": {
            **top["properties"],
            **{name: wide["properties"][name] for name in STAGE_WIDE},
            "stages": stages,
        },
        "required": [*top["required"], "stages"],
        "additionalProperties": False,
        "$defs": defs,
    }
    _used(found)
    return found


def resolved(schema: Schema, defs: Schema) -> Schema:
    """What a reference stands for, with what is said beside it."""
    if "$ref" not in schema:
        return schema
    return {**defs[schema["$ref"].removeprefix(REFERENCE)], **{k: v for k, v in schema.items() if k != "$ref"}}


def _definitions() -> Schema:
    """All settings' classes by name, descriptions on one line each."""
    models: list[type[Settings]] = [Top, StageSpec, Entry, Among, Ladder, Beam]
    models += [kind.settings for kind in KINDS.values()]
    models += [choice.settings for choice in CHOICES.values()]
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=f"{REFERENCE}{{model}}")
    defs: Schema = _plain(found["$defs"])
    own = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"}
    name = defs[Named.__name__]["properties"]["name"]
    anyhow = {"anyOf": [{"enum": list(OBJECTIVES)}, own]}
    defs[Named.__name__]["properties"]["name"] = {**anyhow, "description": name["description"]}
    for shape in (defs["StageSpec"], *(defs[kind.settings.__name__] for kind in KINDS.values())):
        aim = shape["properties"]["objective"]
        aim["anyOf"] = [anyhow if one == {"type": "string"} else one for one in aim["anyOf"]]
    return defs


def _plain(value: Any, names: bool = False) -> Any:
    """A schema without the titles that pydantic makes of names; `names`: its keys are those of settings."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if names or key not in ("title", "discriminator")}
    return {
        key: " ".join(one.split()) if key == "description" and isinstance(one, str) else _plain(one, _named(key, names))
        for key, one in kept.items()
    }


def _named(key: str, names: bool) -> bool:
    return not names and key in ("properties", "$defs")


def _ref(name: str) -> Schema:
    return {"$ref": f"{REFERENCE}{name}"}


def _joined(first: Schema, second: Schema) -> Schema:
    """An object with the settings of both, described as the second one."""
    required = list(dict.fromkeys([*first.get("required", []), *second.get("required", [])]))
    return {**second, "properties": {**first["properties"], **second["properties"]}, "required": required}


def _stage(name: str, defs: Schema) -> Schema:
    """An entry of one kind: its settings, those of every entry, ladders and beams, and choices that try it."""
    kind = KINDS[name]
    found = _joined(defs["Entry"], defs[kind.settings.__name__])
    found["required"] = [one for one in found["required"] if one not in STAGE_WIDE]
    if kind.varies:
        ladder = defs["Ladder"]
        of_ladder = {**ladder["properties"]["targets"], "description": ladder["description"]}
        found["properties"] |= {"ladder": of_ladder, "beam": _ref("Beam")}
    for asked, trials in searches().items():
        if trials.kind == name:
            choice = defs[CHOICES[asked].settings.__name__]
            defs[asked] = {
                **choice,
                "properties": {key: one for key, one in choice["properties"].items() if key not in ("kind", "stage")},
                "required": [key for key in choice["required"] if key not in ("kind", "stage")],
            }
            found["properties"][asked] = _ref(asked)
    return found


def _written() -> list[str]:
    """Choices that a file may have an entry of."""
    return [name for name, choice in among_parents().items() if choice.written]


def _entry() -> Schema:
    """Any entry: what it has to be goes by its kind, and by whether it stands for several stages."""
    several = {"anyOf": [{"required": [name]} for name in RECIPES]}
    cases = []
    for name in (*KINDS, *_written()):
        of = {"properties": {"kind": {"const": name}}, "required": ["kind"]}
        if name in KINDS and KINDS[name].varies:
            cases.append({"if": {**of, **several}, "then": _ref(f"stage-{name}{EACH}")})
            of["not"] = several
        cases.append({"if": of, "then": _ref(f"stage-{name}")})
    kind = {"enum": [*KINDS, *_written()], "description": "What the stage does."}
    return {"type": "object", "properties": {"kind": kind}, "required": ["name", "kind"], "allOf": cases}


def _varied(stage: Schema, varies: tuple[str, ...], defs: Schema) -> Schema:
    """An entry in which a list may give each target its own value."""
    properties = {
        name: (_each(one, defs, listed=name == "constraints") if name in varies else one)
        for name, one in stage["properties"].items()
    }
    return {**stage, "properties": properties}


def _each(schema: Schema, defs: Schema, listed: bool = False) -> Schema:
    """A value, in which a list may stand anywhere; or a list of such, unless it is a list of settings itself."""
    said = {key: one for key, one in schema.items() if key in ("description", "default")}
    inner = _inside({key: one for key, one in schema.items() if key not in said}, defs)
    return {**said, **inner} if listed else {**said, "anyOf": [inner, {"type": "array", "items": inner}]}


def _inside(schema: Schema, defs: Schema) -> Schema:
    """The same where the list is further inside."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        varied = f"{name}{EACH}"
        if varied not in defs:
            defs[varied] = {**defs[name]}
            inner = {key: _each(one, defs) for key, one in defs[name].get("properties", {}).items()}
            defs[varied]["properties"] = inner
        return {**schema, **_ref(varied)}
    found = dict(schema)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            found[key] = [_inside(one, defs) for one in schema[key]]
    if isinstance(schema.get("items"), dict):
        found["items"] = _inside(schema["items"], defs)
    return found


def _used(schema: Schema) -> None:
    """Leave out definitions that nothing refers to."""
    defs, waiting, seen = schema["$defs"], [{k: v for k, v in schema.items() if k != "$defs"}], set[str]()
    while waiting:
        for name in _references(waiting.pop()):
            if name not in seen:
                seen.add(name)
                waiting.append(defs[name])
    schema["$defs"] = {name: one for name, one in defs.items() if name in seen}


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for one in value for name in _references(one)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"].removeprefix(REFERENCE)] if isinstance(value.get("$ref"), str) else []
    return own + [name for key, one in value.items() if key != "$ref" for name in _references(one)]

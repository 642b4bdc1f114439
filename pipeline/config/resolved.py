"""A configuration written out: what overrides and defaults make of a file, as YAML that loads to the same stages.

Ladders are single stages in it. A beam stays as the file has it: places in its pool come of beams alone.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from dualprune.pipeline.choices.table import CHOICES, among_parents
from dualprune.pipeline.config import scalars
from dualprune.pipeline.config.load import drafted, parsed
from dualprune.pipeline.config.stage import STAGE_WIDE, Stage
from dualprune.pipeline.node import Work
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import StageSpec

WIDTH = 100
"""Columns of a line."""
FIRST = ("set", "name")
"""What a mapping begins with."""


def resolved(name: str, sets: list[str] | None = None) -> dict[str, Any]:
    """The values of a file or recipe with all that it leaves to defaults. Raises ConfigError."""
    raw, problems = parsed(name, sets)
    config = drafted(raw, problems).sound()
    entries, beams = [], set[int]()
    for stage in config.stages:
        given = raw["stages"][stage.number]
        if "beam" not in given:
            entries.append(_stage(stage))
        elif stage.number not in beams:
            beams.add(stage.number)
            names = {"parent": stage.parents[0], "teacher": stage.teacher}
            entries.append({**given, **{role: name for role, name in names.items() if name is not None}})
    return {**_plain(config.top), **_wide(raw), "stages": entries}


def text(found: dict[str, Any]) -> str:
    """Values as YAML."""
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=WIDTH, default_flow_style=None)


def inline(found: dict[str, Any]) -> str:
    """A mapping in one line of YAML."""
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, width=math.inf, default_flow_style=True).strip()


def _wide(raw: dict[str, Any]) -> dict[str, Any]:
    """What holds for all stages; as it is given where that is only a part of what is needed."""
    found = {}
    for name in STAGE_WIDE:
        field = StageSpec.model_fields[name]
        if name in raw:
            try:
                given = TypeAdapter(_annotated(field)).validate_python(raw[name])
            except ValidationError:  # of some data, say, of which stages say the rest
                found[name] = raw[name]
                continue
            found[name] = _plain(given)
        elif not field.is_required() and field.default is not None:
            found[name] = _plain(field.default)
    return found


def _annotated(field: FieldInfo) -> Any:
    """A field's type with its checks."""
    return Annotated[field.annotation, field]


def _stage(stage: Stage) -> dict[str, Any]:
    """An entry of its own: what holds for all stages is left out, unless the file's entry says it."""
    entry: dict[str, Any] = {"name": stage.name}
    if stage.spec.kind in among_parents():
        return {**entry, "kind": stage.spec.kind, "parents": list(stage.parents), **_own(stage.spec, ())}
    spec, asked = _trained(stage.spec)
    entry["kind"] = spec.kind
    if stage.parents:
        entry["parent"] = stage.parents[0]
    if stage.teacher is not None:
        entry["teacher"] = stage.teacher
    return {**entry, **_own(spec, [name for name in STAGE_WIDE if name not in stage.own]), **asked}


def _trained(work: Work) -> tuple[StageSpec, dict[str, Any]]:
    """A stage's settings; with those of the choice that tries it, if one does."""
    if isinstance(work, StageSpec):
        return work, {}
    trials = CHOICES[work.kind].trials
    assert trials is not None
    return trials.stage(work), {work.kind: {k: v for k, v in _plain(work).items() if k not in ("kind", "stage")}}


def _own(settings: Settings, without: Any) -> dict[str, Any]:
    return {key: value for key, value in _plain(settings).items() if key != "kind" and key not in without}


def _plain(value: Any) -> Any:
    """Settings as a file has them. What is null by default is left out, being said by that."""
    if isinstance(value, Settings):
        short = cast(Any, value.model_dump(mode="json"))
        if not isinstance(short, dict):  # an objective's name
            return short
        fields = type(value).model_fields.items()
        given = [(name, getattr(value, name), field) for name, field in fields]
        said = {name: _plain(one) for name, one, field in given if one is not None or field.is_required()}
        return {**{name: said[name] for name in FIRST if name in said}, **said}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


class _Dumper(yaml.SafeDumper):
    """Texts are put in quotes where a plain word would be read as something else here (`scalars`)."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    letter: list(found) for letter, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in scalars.KINDS:
    _Dumper.add_implicit_resolver(_tag, _pattern, list(_first))

"""The entries under `stages:`, read as stages: names, parents, settings. All that is wrong is noted with its place.

What is said at the top of a file of a stage's settings (model, data, seed, ...) holds for every stage
that does not say it itself; of its `data` a stage may say only what is different.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from dualprune.pipeline.choices.table import CHOICES, among_parents, searches
from dualprune.pipeline.config import checks
from dualprune.pipeline.config.metrics import measured
from dualprune.pipeline.config.problems import Problems, brief, explained, like
from dualprune.pipeline.config.recipes import expand
from dualprune.pipeline.config.stage import NAME, STAGE_WIDE, Entry, Stage, place
from dualprune.pipeline.config.yamlfile import Path
from dualprune.pipeline.dag import cycle
from dualprune.pipeline.node import Work
from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.base import Settings, SpecError
from dualprune.stages.settings.training import StageSpec


def stages(raw: dict[str, Any], problems: Problems) -> list[Stage]:
    """The stages of a file, those of ladders and beams among them; problems are noted."""
    given = raw.get("stages")
    if not isinstance(given, list) or not given:
        problems.add(("stages",), "a list of stages is needed, with at least one")
        return []
    wide = {key: raw[key] for key in STAGE_WIDE if key in raw}
    names = _Names({}, {}, {}, {})
    works: dict[str, Work] = {}
    for number, value in enumerate(given):
        entry = _entry(value, number, problems)
        for single in [] if entry is None else _singles(entry, number, names, problems):
            name = _named(single, number, names, problems)
            work = _work(single, wide, number, problems, own=single is entry)
            if work is not None:
                works[name] = work
    parents = names.resolved(problems)
    numbers, teachers = names.numbers, names.teachers
    found = [
        Stage(name, parents[name], work, numbers[name], frozenset(given[numbers[name]]), teachers[name])
        for name, work in works.items()
    ]
    return found if problems.found else measured(found, problems)


@dataclass
class _Names:
    """What a file's stages are called, entry after entry, and what they name as their parents."""

    numbers: dict[str, int]
    """Of the entry that each name is of."""
    parents: dict[str, dict[Path, str]]
    """Of each stage, by their places in its entry: those that it starts or learns from, or chooses among."""
    teachers: dict[str, str | None]
    aliases: dict[str, str]
    """The last stage of a ladder or a beam, by its own name."""

    def free(self, name: str, number: int, problems: Problems) -> bool:
        """Whether no other entry has a name; noted if one has."""
        if name not in self.numbers:
            return True
        text = f"there is a stage {brief(name)!r} already, stages[{self.numbers[name]}]"
        problems.add(("stages", number, "name"), text)
        return False

    def resolved(self, problems: Problems) -> dict[str, tuple[str, ...]]:
        """Each stage's parents, the last stage of a ladder where that is named; noted where there is none, or a cycle.

        Teachers are resolved likewise.
        """
        found: dict[str, tuple[str, ...]] = {}
        for name, of in self.parents.items():
            found[name] = tuple(self.aliases.get(parent) or parent for parent in of.values())
            teacher = self.teachers[name]
            self.teachers[name] = teacher and (self.aliases.get(teacher) or teacher)
            for (role, given), parent in zip(of.items(), found[name], strict=True):
                if parent not in self.parents and given not in self.aliases:
                    known = [known for known in (*self.parents, *self.aliases) if known != name]
                    text = f"there is no stage {brief(parent)!r}{like(parent, known)}"
                    problems.add(("stages", self.numbers[name], *role), text)
        loop = cycle({name: tuple(p for p in of if p in found) for name, of in found.items()})
        if loop:
            at = ("stages", self.numbers[loop[0]], "parent")
            problems.add(at, f"the stages form a cycle: {' -> '.join(loop)}")
        return found


def _entry(value: Any, number: int, problems: Problems) -> dict[str, Any] | None:
    """An entry with a name and a `kind`, if these are sound; otherwise noted, and made up to read the rest."""
    at: Path = ("stages", number)
    if not isinstance(value, dict):
        problems.add(at, "a stage is a mapping with `name` and `kind`")
        return None
    entry: dict[str, Any] = value
    name = entry.get("name")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        way = "; put it in quotes" if isinstance(name, bool | int | float) else ""
        text = f"a name of up to 200 letters, digits, '.', '_' and '-' is needed, not {brief(repr(name))}{way}"
        problems.add((*at, "name"), text)
        entry = {**entry, "name": f"[{number}]"}
    near = get_close_matches("kind", [key for key in entry if isinstance(key, str)], n=1)
    if near and "kind" not in entry:
        problems.add((*at, near[0]), "unknown setting; did you mean 'kind'?")
        entry = {"kind" if key == near[0] else key: value for key, value in entry.items()}
    return entry


def _singles(entry: dict[str, Any], number: int, names: _Names, problems: Problems) -> list[dict[str, Any]]:
    """The entries of single stages that an entry stands for: itself, if it is no ladder or beam."""
    if "ladder" not in entry and "beam" not in entry:
        return [entry]
    expanded = expand(entry, ("stages", number), problems)
    if names.free(entry["name"], number, problems):
        names.numbers[entry["name"]], names.aliases[entry["name"]] = number, expanded.last if expanded else ""
    return expanded.entries if expanded else []


def _named(single: dict[str, Any], number: int, names: _Names, problems: Problems) -> str:
    """Enter a single stage's name and parents; the name, or another one where it is taken."""
    name: str = single["name"]
    if not names.free(name, number, problems):
        name = f"[{number}]"
    names.numbers[name], names.parents[name] = number, _parents(single, ("stages", number), problems)
    names.teachers[name] = names.parents[name].get(("teacher",))
    return name


def _parents(entry: dict[str, Any], at: Path, problems: Problems) -> dict[Path, str]:
    """The stages that an entry names, by the places where: the parent and the teacher, or those to choose from.

    What is wrong with them is noted.
    """
    if entry.get("kind") in list(among_parents()):  # whatever stands there, a mapping too
        return _candidates(entry.get("parents"), at, problems)
    given = {role: entry.get(role) for role in ("parent", "teacher")}
    for role, name in given.items():
        if name is not None and not isinstance(name, str):
            problems.add((*at, role), f"the name of a stage is needed, not {brief(repr(name))}")
            given[role] = None
    kind = entry.get("kind")
    needs = isinstance(kind, str) and kind in KINDS and KINDS[kind].needs_parent
    if needs and entry.get("parent") in (None, ""):
        problems.add(at, f"a {kind} needs a `parent`: the stage whose network it starts from")
    if given["teacher"] and not entry.get("distill"):
        problems.add((*at, "teacher"), "a teacher is for a stage with `distill`, and this one has none")
    return {(role,): name for role, name in given.items() if name and given["parent"]}


def _candidates(given: Any, at: Path, problems: Problems) -> dict[Path, str]:
    """Those that a choice is made from; none, and problems noted, where they are not sound."""
    names = given if isinstance(given, list) else []
    wrong = [(number, name) for number, name in enumerate(names) if not isinstance(name, str)]
    for number, name in wrong:
        problems.add((*at, "parents", number), f"the name of a stage is needed, not {brief(repr(name))}")
    if not wrong and (len(names) < 2 or len(set(names)) < len(names)):
        text = f"a list of two or more different stages to choose from is needed, not {brief(repr(given))}"
        problems.add((*at, "parents"), text)
        return {}
    return {} if wrong else {("parents", number): name for number, name in enumerate(names)}


def _work(entry: dict[str, Any], wide: dict[str, Any], number: int, problems: Problems, own: bool) -> Work | None:
    """What a single stage does; None where its settings are not sound on their own.

    `own` says that the file has the entry itself; a place in a pool comes of a beam only.
    """
    at: Path = ("stages", number)
    kind = entry.get("kind")
    if isinstance(kind, str) and kind in among_parents() and (CHOICES[kind].written or not own):
        settings = {key: value for key, value in entry.items() if key not in ("name", "parents")}
        choice: Work | None = _checked(CHOICES[kind].settings, settings, at, ("name", "parents"), problems)
        return choice
    said = {key: value for key, value in entry.items() if key not in _own()}
    settings = {**wide, **said, **_data(wide.get("data"), said), **_model(entry, wide.get("model"), at, problems)}
    spec = _spec(settings, set(said), number, problems)
    if spec is None:
        checks.unsound(number, settings, set(said), problems)
    asked = [name for name in searches() if name in entry]
    if len(asked) > 1:
        problems.add(at, f"an entry has one of {' and '.join(f'`{name}`' for name in asked)}")
        return None
    return _search(asked[0], entry[asked[0]], spec, (*at, asked[0]), problems) if asked else spec


def _own() -> tuple[str, ...]:
    """What a stage's entry says beside its settings."""
    return (*Entry.model_fields, "ladder", "beam", *searches())


def _search(name: str, given: Any, spec: StageSpec | None, at: Path, problems: Problems) -> Work | None:
    """A choice that tries the stage of `spec`; None where that, or what is said of the choice, is not sound."""
    model, kind = CHOICES[name].settings, searches()[name].kind
    if not isinstance(given, dict):
        *names, last = (f"`{field}`" for field in model.model_fields if field not in ("kind", "stage"))
        text = f"{', '.join(names)} and {last}" if names else last
        problems.add(at, f"a mapping with {text} is needed, not {brief(repr(given))}")
        return None
    if spec is None:
        return None
    if spec.kind != kind:
        problems.add(at, f"a {name} is of {kind} stages, not of a {spec.kind}")
        return None
    found: Work | None = _checked(model, {"kind": name, "stage": spec, **given}, at, (), problems)
    return found


def _data(wide: Any, own: dict[str, Any]) -> dict[str, Any]:
    """A stage's `data` laid over that of all stages, setting by setting; other origins are not mixed."""
    if not isinstance(own.get("data"), dict) or not isinstance(wide, dict):
        return {}
    other = {"source", "args", "cut", "folder", "shards"} if {"source", "shards"} & set(own["data"]) else set()
    return {"data": {**{key: value for key, value in wide.items() if key not in other}, **own["data"]}}


def _model(entry: dict[str, Any], wide: Any, at: Path, problems: Problems) -> dict[str, Any]:
    """The `model` of a stage with a parent: weights from elsewhere are what stages without one start from."""
    if not entry.get("parent"):
        return {}
    own = entry.get("model")
    if isinstance(own, dict) and own.get("weights") is not None:
        text = f"are what a stage without a parent starts from, and this one starts from {brief(str(entry['parent']))}"
        problems.add((*at, "model", "weights"), text)
    if "model" in entry or not isinstance(wide, dict):
        return {}
    return {"model": {key: value for key, value in wide.items() if key not in ("weights", "sha256")}}


def _checked(
    model: type[Settings], settings: dict[str, Any], at: Path, also: tuple[str, ...], problems: Problems
) -> Any:
    """The settings as a value of `model`, or None and problems noted."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        for path, text in explained(error, model, also=also):
            problems.add(at if path == ("stage",) else (*at, *path), text)
        return None


def _spec(settings: dict[str, Any], own: set[str], number: int, problems: Problems) -> StageSpec | None:
    at, kind = ("stages", number), settings.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        known = (*KINDS, *(name for name, choice in among_parents().items() if choice.written))
        problems.add((*at, "kind"), f"must be one of {', '.join(known)}, not {brief(repr(kind))}")
        return None
    try:
        spec = parse(settings)
    except ValidationError as error:
        for inner, text in explained(error, KINDS[kind].settings, also=_own()):
            problems.add((*at, *inner) if text == "is missing" or not inner else place(number, own, inner), text)
        return None
    try:
        objective(spec)
    except SpecError as error:
        for path, text in checks.problems_of(error):
            problems.add(place(number, own, path), text)
        return None
    return spec

"""The entries under `stages:`, read as stages: names, parents, settings. All that is wrong is noted with its place.

What is said at the top of a file of a stage's settings (model, data, seed, ...) holds for every stage
that does not say it itself; of its `data` a stage may say only what is different.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dualprune.pipeline.blame import origin
from dualprune.pipeline.choices.table import CHOICES, among_parents, searches, trials
from dualprune.pipeline.config.metrics import measured
from dualprune.pipeline.config.problems import Problems, brief, explained, like
from dualprune.pipeline.config.recipes import expand
from dualprune.pipeline.config.yamlfile import Path
from dualprune.pipeline.dag import cycle, in_order, trained
from dualprune.pipeline.node import Work
from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.base import Settings, SpecError
from dualprune.stages.settings.spec import Model, PruneSpec, StageSpec

if TYPE_CHECKING:
    from dualprune.stages.solver.targets import Room

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
"""What a stage or a run can be named: files are named for it."""

STAGE_WIDE = tuple(name for name in StageSpec.model_fields if name != "kind")
"""Settings of a stage that may be given once for all of them."""


@dataclass(frozen=True)
class Stage:
    """One stage as configured."""

    name: str
    parents: tuple[str, ...]
    spec: Work
    number: int
    """Of its entry in the file."""
    own: frozenset[str]
    """What its entry says itself."""

    def place(self, *path: str | int) -> Path:
        """Where one of its settings was given: by its entry, or for all stages."""
        return _place(self.number, self.own, path)


def stages(raw: dict[str, Any], problems: Problems) -> list[Stage]:
    """The stages of a file, those of ladders and beams among them; problems are noted."""
    given = raw.get("stages")
    if not isinstance(given, list) or not given:
        problems.add(("stages",), "a list of stages is needed, with at least one")
        return []
    wide = {key: raw[key] for key in STAGE_WIDE if key in raw}
    found: list[Stage] = []
    parents: dict[str, tuple[str, ...]] = {}
    numbers: dict[str, int] = {}
    aliases: dict[str, str] = {}

    def taken(name: str, number: int) -> bool:
        """Whether a name is another entry's already; noted if so."""
        if name in numbers:
            problems.add(
                ("stages", number, "name"), f"there is a stage {brief(name)!r} already, stages[{numbers[name]}]"
            )
        return name in numbers

    for number, entry in enumerate(given):
        at: Path = ("stages", number)
        if not isinstance(entry, dict):
            problems.add(at, "a stage is a mapping with `name` and `kind`")
            continue
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
        singles = [entry]
        if "ladder" in entry or "beam" in entry:
            expanded = expand(entry, at, problems)
            if not taken(entry["name"], number):
                numbers[entry["name"]], aliases[entry["name"]] = number, expanded.last if expanded else ""
            singles = expanded.entries if expanded else []
        for single in singles:
            name = single["name"]
            if taken(name, number):
                name = f"[{number}]"
            numbers[name], parents[name] = number, _parents(single, at, problems)
            spec = _work(single, wide, number, problems, own=single is entry)
            if spec is not None:
                found.append(Stage(name, parents[name], spec, number, frozenset(entry)))
    parents = {name: tuple(aliases.get(p) or p for p in of) for name, of in parents.items()}
    for name, of in parents.items():
        entry = given[numbers[name]]
        for role, parent in zip(_roles(entry), of, strict=False):
            if parent not in parents and parent not in aliases:
                known = [known for known in (*parents, *aliases) if known != name]
                problems.add(
                    ("stages", numbers[name], *role), f"there is no stage {brief(parent)!r}{like(parent, known)}"
                )
    loop = cycle({name: tuple(p for p in of if p in parents) for name, of in parents.items()})
    if loop:
        problems.add(("stages", numbers[loop[0]], "parent"), f"the stages form a cycle: {' -> '.join(loop)}")
    found = [replace(stage, parents=parents[stage.name]) for stage in found]
    for stage in found:
        _targets(stage, problems)
    if not problems.found:
        _networks(found, problems)
        found = measured(found, problems)
    if not problems.found:
        _shrinking(found, problems)
    return found


def _roles(entry: dict[str, Any]) -> list[Path]:
    """Where an entry names its parents, in the order of a stage's parents."""
    if isinstance(entry.get("parents"), list):
        return [("parents", number) for number in range(len(entry["parents"]))]
    return [("parent",), ("teacher",)]


def _parents(entry: dict[str, Any], at: Path, problems: Problems) -> tuple[str, ...]:
    """The parent and, if there is one, the teacher, or those to choose from; what is wrong with them is noted."""
    if entry.get("kind") in list(among_parents()):  # whatever stands there, a mapping too
        return _candidates(entry.get("parents"), (*at, "parents"), problems)
    given = {role: entry.get(role) for role in ("parent", "teacher")}
    for role, name in given.items():
        if name is not None and not isinstance(name, str):
            problems.add((*at, role), f"the name of a stage is needed, not {brief(repr(name))}")
            given[role] = None
    if entry.get("kind") in ("prune", "quantize") and entry.get("parent") in (None, ""):
        problems.add(at, f"a {entry['kind']} needs a `parent`: the stage whose network it starts from")
    if given["teacher"] and not entry.get("distill"):
        problems.add((*at, "teacher"), "a teacher is for a stage with `distill`, and this one has none")
    if not given["parent"]:
        return ()
    return (given["parent"], given["teacher"]) if given["teacher"] else (given["parent"],)


def _candidates(given: Any, at: Path, problems: Problems) -> tuple[str, ...]:
    """Those that a choice is made from; none, and problems noted, where they are not sound."""
    names = given if isinstance(given, list) else []
    wrong = [(number, name) for number, name in enumerate(names) if not isinstance(name, str)]
    for number, name in wrong:
        problems.add((*at, number), f"the name of a stage is needed, not {brief(repr(name))}")
    if not wrong and (len(names) < 2 or len(set(names)) < len(names)):
        text = f"a list of two or more different stages to choose from is needed, not {brief(repr(given))}"
        problems.add(at, text)
        return ()
    return () if wrong else tuple(names)


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
        _rest(number, settings, set(said), problems)
    asked = [name for name in searches() if name in entry]
    if len(asked) > 1:
        problems.add(at, f"an entry has one of {' and '.join(f'`{name}`' for name in asked)}")
        return None
    return _search(asked[0], entry[asked[0]], spec, (*at, asked[0]), problems) if asked else spec


def _own() -> tuple[str, ...]:
    """What a stage's entry says beside its settings; `teacher` is what `distill` learns from, if not the parent."""
    return ("name", "parent", "teacher", "ladder", "beam", *searches())


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
    other = {"source", "folder", "shards"} if {"source", "shards"} & set(own["data"]) else set()
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
            problems.add((*at, *inner) if text == "is missing" or not inner else _place(number, own, inner), text)
        return None
    try:
        objective(spec)
    except SpecError as error:
        for path, text in _found(error):
            problems.add(_place(number, own, path), text)
        return None
    return spec


def _targets(stage: Stage, problems: Problems) -> None:
    from dualprune.stages.solver.targets import check

    spec, tried = trained(stage.spec), trials(stage.spec)
    for one, where in [(spec, ""), *([] if tried is None else [tried.harshest(stage.spec)])]:
        try:
            if one is not None:
                check(one)
        except SpecError as error:
            for path, text in _found(error):
                problems.add(stage.place(*path), f"{text} {where}".rstrip())
            return


def _rest(number: int, settings: dict[str, Any], own: set[str], problems: Problems) -> None:
    """What else is wrong with a stage whose settings are not sound: its model's name, its patterns."""
    from dualprune.stages.solver.targets import check_patterns

    try:
        model = Model.model_validate(settings.get("model"))
    except ValidationError:
        return
    entries = settings.get("constraints")
    entries = entries if isinstance(entries, list) else []
    tensors = {n: entry.get("tensors") for n, entry in enumerate(entries) if isinstance(entry, dict)}
    try:
        found = check_patterns(model, {n: pattern for n, pattern in tensors.items() if isinstance(pattern, str)})
    except SpecError as error:
        found = _found(error)
    for path, text in found:
        problems.add(_place(number, own, path), text)


def _found(error: SpecError) -> list[tuple[Path, str]]:
    """An error's problems; where a model of the user's own raised it, with the line."""
    where = origin(error)
    return [(path, text if where is None else f"{text}, at {where}") for path, text in error.problems]


def _place(number: int, own: Collection[str], path: Path) -> Path:
    """Where a stage's setting was given: by its entry, of which `own` are the keys, or for all stages at the top."""
    return path if path[0] in STAGE_WIDE and path[0] not in own else ("stages", number, *path)


def _networks(found: list[Stage], problems: Problems) -> None:
    """A stage starts from its parent's network, so it can't name another; a choice is among equals.

    A teacher may be any network with as many outputs.
    """
    specs: dict[str, StageSpec] = {}
    for stage in _in_order(found):
        of = {parent: specs[parent] for parent in stage.parents}
        spec = trained(stage.spec)
        specs[stage.name] = own = spec if spec is not None else of[stage.parents[0]]
        for place, (parent, other) in enumerate(of.items()):
            there = f"{other.model.name}, {other.model.classes} classes"
            if spec is not None and place == 1:
                if own.model.classes != other.model.classes:
                    text = f"{parent} has outputs that its own can't learn from: {there}, not {own.model.classes}"
                    problems.add(("stages", stage.number, "teacher"), text)
            elif own.model.network != other.model.network:
                text = f"its parent {parent} has another: {there}"
                problems.add(("stages", stage.number, "model"), text)
            elif spec is None and own.data.origin != other.data.origin:
                text = f"{stage.parents[0]} and {parent} are measured on different data and can't be compared"
                problems.add(("stages", stage.number, "parents"), text)


def _shrinking(found: list[Stage], problems: Problems) -> None:
    """Without regrowth, a prune can't ask for more weights than its ancestors can leave."""
    from dualprune.stages.solver.targets import check

    left: dict[str, _Bounds] = {}
    for stage in _in_order(found):
        spec = trained(stage.spec)
        if spec is None:
            options = [left[parent] for parent in stage.parents]
            shared = set.intersection(*(set(one) for one in options))
            left[stage.name] = {of: max(one[of] for one in options) for of in shared}
            continue
        before = left[stage.parents[0]] if stage.parents else {}
        room = check(spec)
        own = _bounds(room)
        if isinstance(spec, PruneSpec) and spec.regrow:
            left[stage.name] = {of: k for of, k in before.items() if of[0] not in room.kinds} | own
            continue
        left[stage.name] = before | {of: min(k, before.get(of, k)) for of, k in own.items()}
        if isinstance(spec, PruneSpec):
            for text in _growing(room, before, stage.parents[0] if stage.parents else ""):
                problems.add(("stages", stage.number, "constraints"), f"{stage.name}: {text}, or set `regrow: true`")


_Bounds = dict[tuple[str, tuple[str, ...]], int]
"""How many weights may stay, by a tensor's name and the sets that say so: () for any, BUDGET for a budget's."""
BUDGET = ("budget",)


def _bounds(room: Room) -> _Bounds:
    """What one stage lets stay."""
    alone = {(name, kinds): k for name, k in room.tensors.items() for kinds in ((), room.kinds[name])}
    return alone | {(name, kinds): k for names, k in room.budgets for name in names for kinds in ((), BUDGET)}


def _growing(room: Room, before: _Bounds, parent: str) -> list[str]:
    """Where a stage asks for weights that are no more."""
    found = []
    exact = [(((name, ()),), room.tensors[name]) for name in sorted(room.exact)]
    for over, k in exact + [(tuple((name, ()) for name in names), k) for names, k in room.budgets]:
        there = sum(before.get(of, k) for of in over)
        if k > there:
            names = ", ".join(name for name, _ in over)
            found.append(f"asks for {k} weights in {names}, but {parent} leaves only {there}; keep fewer")
    for name, k in sorted(room.tensors.items()):
        there = before.get((name, room.kinds[name]), k)
        if name not in room.exact and k > there:
            by = " and ".join(room.kinds[name])
            found.append(f"leaves room for {k} weights in {name} by {by}, but {parent} for only {there}; keep fewer")
        if name in room.filled and (before.get((name, ()), k) < k or (name, BUDGET) in before):
            found.append(f"low rank would fill the zeros that {parent} left in {name}; leave it out")
    return found


def _in_order(found: list[Stage]) -> list[Stage]:
    """Parents before children."""
    by_name = {stage.name: stage for stage in found}
    return [by_name[name] for name in in_order({stage.name: stage.parents for stage in found})]

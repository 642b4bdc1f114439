"""What stages say of each other, and of networks and their tensors. What is wrong is noted with its place.

A network is built without memory for its weights, once for all stages that have it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dualprune.pipeline.blame import origin
from dualprune.pipeline.choices.table import trials
from dualprune.pipeline.config.problems import Problems
from dualprune.pipeline.config.stage import Stage, ordered, place
from dualprune.pipeline.config.yamlfile import Path
from dualprune.pipeline.dag import trained
from dualprune.stages.kinds.constrained import check, check_teacher
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.distill import COMPILED
from dualprune.stages.settings.sets import Pattern
from dualprune.stages.settings.training import Model, StageSpec

if TYPE_CHECKING:
    from dualprune.stages.solver.bounds import Room


def networks(stages: Sequence[Stage], problems: Problems) -> None:
    """Whether stages can do what they say with their networks' tensors. Each stage's ancestors are among them."""
    patterns(stages, problems)
    if not problems.found:
        _related(stages, problems)
    if not problems.found:
        _shrinking(stages, problems)


def compiled(stage: Stage, problems: Problems) -> None:
    """Whether a stage's network can be compiled."""
    distill = getattr(trained(stage.spec), "distill", None)
    if distill is not None and distill.inside:
        problems.add(stage.place("distill"), COMPILED)


def patterns(stages: Sequence[Stage], problems: Problems) -> None:
    """Whether the networks can be built, and their tensors held to what stages say."""
    for stage in stages:
        _targets(stage, problems)


def _targets(stage: Stage, problems: Problems) -> None:
    spec, tried = trained(stage.spec), trials(stage.spec)
    for one, where in [(spec, ""), *([] if tried is None else [tried.harshest(stage.spec)])]:
        try:
            if one is not None:
                check(one)
        except SpecError as error:
            for path, text in problems_of(error):
                problems.add(stage.place(*path), f"{text} {where}".rstrip())
            return


def unsound(number: int, settings: dict[str, Any], own: Collection[str], problems: Problems) -> None:
    """What else is wrong with a stage whose settings are not sound: its model's name, its patterns."""
    from dualprune.stages.networks.build import parameters_of
    from dualprune.stages.solver.targets import check_patterns

    try:
        model = Model.model_validate(settings.get("model"))
    except ValidationError:
        return
    entries = settings.get("constraints")
    entries = entries if isinstance(entries, list) else []
    patterns = {n: pattern for n, entry in enumerate(entries) if (pattern := _pattern(entry)) is not None}
    try:
        found = check_patterns(patterns, parameters_of(model), model.name)
    except SpecError as error:
        found = problems_of(error)
    for path, text in found:
        problems.add(place(number, own, path), text)


def _pattern(entry: Any) -> Pattern | None:
    """Which tensors a constraint is for, whatever else is wrong with it; None where that is."""
    own = {name: entry[name] for name in Pattern.model_fields if name in entry} if isinstance(entry, dict) else {}
    try:
        return Pattern.model_validate(own)
    except ValidationError:
        return None


def problems_of(error: SpecError) -> list[tuple[Path, str]]:
    """An error's problems; where a model of the user's own raised it, with the line."""
    where = origin(error)
    return [(path, text if where is None else f"{text}, at {where}") for path, text in error.problems]


def _related(stages: Sequence[Stage], problems: Problems) -> None:
    """A stage starts from its parent's network, so it can't name another; a choice is among equals.

    A teacher may be any network with as many outputs, and where `distill` looks into it, with such modules.
    """
    specs: dict[str, StageSpec] = {}
    cut: set[str] = set()  # after a shrink, or beside one: of which modules are left nothing is known
    for stage in ordered(stages):
        of = {parent: specs[parent] for parent in stage.parents}
        spec = trained(stage.spec)
        specs[stage.name] = own = spec if spec is not None else of[stage.parents[0]]
        if KINDS[own.kind].shrinks is not None or cut.intersection(stage.parents):
            cut.add(stage.name)
        for parent, other in of.items():
            there = f"{other.model.name}, {other.model.classes} classes"
            if parent == stage.teacher and parent != stage.parents[0]:
                if own.model.classes != other.model.classes:
                    text = f"{parent} has outputs that its own can't learn from: {there}, not {own.model.classes}"
                    problems.add(("stages", stage.number, "teacher"), text)
                elif stage.name not in cut:
                    for path, text in _unlike(own, other):
                        problems.add(stage.place(*path), f"{text} ({parent})")
            elif own.model.network != other.model.network:
                text = f"its parent {parent} has another: {there}"
                problems.add(("stages", stage.number, "model"), text)
            elif spec is None and own.data.origin != other.data.origin:
                text = f"{stage.parents[0]} and {parent} are measured on different data and can't be compared"
                problems.add(("stages", stage.number, "parents"), text)


def _unlike(own: StageSpec, other: StageSpec) -> list[tuple[Path, str]]:
    """What `distill` compares within networks and a teacher of another sort has not, if nothing was taken out."""
    try:
        check_teacher(own, other.model)
    except SpecError as error:
        return problems_of(error)
    return []


def _shrinking(stages: Sequence[Stage], problems: Problems) -> None:
    """Without regrowth, what prunes can't ask for more weights than its ancestors can leave."""
    left: dict[str, _Bounds] = {}
    for stage in ordered(stages):
        spec = trained(stage.spec)
        if spec is None:
            options = [left[parent] for parent in stage.parents]
            shared = set.intersection(*(set(one) for one in options))
            left[stage.name] = {of: max(one[of] for one in options) for of in shared}
            continue
        before = left[stage.parents[0]] if stage.parents else {}
        room, kind = check(spec), KINDS[spec.kind]
        if kind.shrinks is not None:
            left[stage.name] = {}  # of tensors of other shapes nothing is known
            continue
        own = _bounds(room)
        if kind.regrows(spec):
            left[stage.name] = {of: k for of, k in before.items() if of[0] not in room.kinds} | own
            continue
        left[stage.name] = before | {of: min(k, before.get(of, k)) for of, k in own.items()}
        parent = stage.parents[0] if stage.parents else ""
        way = ", or set `regrow: true`" if "regrow" in kind.settings.model_fields else ""
        growing = _growing(room, before, parent) if kind.prunes else []
        for text in (*growing, *_filling(room, before, parent)):
            problems.add(("stages", stage.number, "constraints"), f"{stage.name}: {text}{way}")


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
    return found


def _filling(room: Room, before: _Bounds, parent: str) -> list[str]:
    """Where a stage would fill zeros."""
    zeros = [
        name
        for name, k in sorted(room.tensors.items())
        if name in room.filled and (before.get((name, ()), k) < k or (name, BUDGET) in before)
    ]
    return [f"low rank would fill the zeros that {parent} left in {name}; leave it out" for name in zeros]

"""From YAML to typed settings. All errors of a file are found at once, each with its place in it.

What is said at the top of a file of a stage's settings (model, data, seed, ...) holds for every stage
that does not say it itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from pipeline.dag import cycle
from pipeline.problems import ConfigError, Problems, explained, like
from pipeline.yamlfile import Path, parse, scalar
from stages.spec import KINDS, Data, Engine, Model, Settings, Spec, SpecError, StageSpec

RECIPES = [FilePath(__file__).parent / "_configs", FilePath(__file__).parent.parent / "configs"]
"""Where named recipes lie: in an installed package, and in the source tree."""

STAGE_OWN = ("name", "parent", "teacher")
"""What a stage's entry says beside its settings; `teacher` is what `distill` learns from, if not the parent."""

STAGE_WIDE = tuple(StageSpec.model_fields)
"""Settings of a stage that may be given once for all of them."""


class Workers(Settings):
    """Ranks of a stage: as many as find room, and another number of them when machines come and go."""

    min: int = Field(ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"`min` is {self.min} and `max` is {self.max}: the other way round?")
        return self


def _workers(value: Any) -> Any:
    if isinstance(value, dict | Workers):
        return value
    if type(value) is not int or value < 1:
        raise ValueError(f"must be a number from 1 on, or {{min, max}}, not {value!r}")
    return Workers(min=value, max=value)


class Cluster(Settings):
    """Where the work runs. None of it is in a key: it changes no result."""

    address: str | None = None
    """A Ray cluster's address (`auto`, `host:port`); without one, a local Ray is started for the run."""
    workers: Annotated[Workers, BeforeValidator(_workers)] = Workers(min=1, max=1)
    """Ranks of each stage: a number, or `{min, max}` for as many as find room."""
    cpus: float = Field(default=1, gt=0)
    """CPUs of each rank."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of each rank."""
    lanes: int | None = Field(default=None, ge=1)
    """Most stages at a time; by default as many as find room."""


class Retry(Settings):
    """How often a stage is tried again, from its last checkpoint. Errors of its own are never retried."""

    lost: int = Field(default=3, ge=0)
    """After worker processes or machines died."""
    preempted: int | None = Field(default=None, ge=0)
    """After machines were taken away by who lends them; by default however often."""
    passing: int = Field(default=3, ge=0)
    """After connections or services failed."""
    nonfinite: int = Field(default=0, ge=0)
    """After a loss or gradient that was not finite."""


class Monitor(Settings):
    """Weights & Biases."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online where there is an API key, and offline files elsewhere."""
    project: str = "dualprune"


class Top(Settings):
    """Everything in a file but its stages and what holds for all of them."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Of the run: names its logs and its W&B group."""
    store: str = "./runs"
    """Folder or fsspec URL of artefacts, shards and logs."""
    cluster: Cluster = Cluster()
    engine: Engine = Engine()
    retry: Retry = Retry()
    monitor: Monitor = Monitor()


@dataclass(frozen=True)
class Stage:
    """One stage as configured: its name, its parents' names, its specification."""

    name: str
    parents: tuple[str, ...]
    spec: Spec


@dataclass(frozen=True)
class Config:
    """A file's settings, found to be sound on their own."""

    path: str
    top: Top
    stages: tuple[Stage, ...]
    lines: Mapping[Path, int]


def find(name: str) -> FilePath:
    """A file by path, or a recipe by name. Raises ConfigError."""
    path = FilePath(name)
    if path.is_file():
        return path
    for folder in RECIPES:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = sorted({file.stem for folder in RECIPES for file in folder.glob("*.yaml")})
    raise ConfigError(name, [f"there is no such file, and no such recipe (recipes: {', '.join(known)})"])


Outside = Callable[["Top | None", dict[Path, Data], "Problems"], None]


def load(name: str, overrides: list[str] | None = None, outside: Outside | None = None) -> tuple[Config, Problems]:
    """Settings from a file or recipe and `a.b=c` overrides.

    Raises ConfigError with everything that can be said without the data, the store or the cluster;
    problems found later go to the returned `Problems`, for the same kind of message. `outside` is
    asked, if there are problems, what else is wrong around the file, so that all is said at once.
    """
    path = find(name)
    try:
        raw, lines = parse(path.read_text(encoding="utf-8"), str(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}:{mark.line + 1}: " if mark else ""
        raise ConfigError(str(path), [f"{where}{getattr(error, 'problem', None) or error}"]) from None
    if not isinstance(raw, dict):
        raise ConfigError(str(path), ["the file: a mapping is needed, with `name` and `stages`"])
    named: dict[Path, str] = {}
    for override in overrides or []:
        named[_override(raw, override)] = f"--set {override}"
    problems = Problems(str(path), lines, named)
    top = _top(raw, problems)
    stages = _stages(raw, problems)
    for number, stage in stages.items():
        _targets(number, stage, set(raw["stages"][number]), problems)
    if not problems.found:
        _networks(stages, problems)
    if not problems.found:
        _shrinking(stages, problems)
    if problems.found and outside is not None:
        outside(top, _data(raw), problems)
    problems.stop()
    assert top is not None
    return Config(str(path), top, tuple(stages.values()), lines), problems


def _data(raw: dict[str, Any]) -> dict[Path, Data]:
    """All data settings of a file that are sound on their own, by place."""
    stages = raw.get("stages")
    places: dict[Path, Any] = {("data",): raw.get("data")}
    for number, entry in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(entry, dict) and "data" in entry:
            places["stages", number, "data"] = entry["data"]
    found = {}
    for path, value in places.items():
        with suppress(ValidationError):
            found[path] = Data.model_validate(value)
    return found


def _override(raw: dict[str, Any], override: str) -> Path:
    """Apply `a.b=c` to the raw settings; a stage is named by its name or number. Returns the path."""
    place, equals, text = override.partition("=")
    if not equals or not place:
        raise ConfigError("--set", [f"--set {override}: must read a.b=value"])
    try:
        value = scalar(text)
    except yaml.YAMLError as error:
        raise ConfigError("--set", [f"--set {override}: {text!r} is no YAML: {error}"]) from None
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
                raise ConfigError("--set", [f"--set {override}: there is no {part!r} in {'.'.join(map(str, path))}"])
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


def _top(raw: dict[str, Any], problems: Problems) -> Top | None:
    own = {key: value for key, value in raw.items() if key in Top.model_fields}
    known = [*Top.model_fields, *STAGE_WIDE, "stages"]
    for key in raw:
        if key not in known:
            problems.add((key,), f"unknown setting{like(str(key), known)}")
    try:
        return Top.model_validate(own)
    except ValidationError as error:
        for path, text in explained(error, Top):
            problems.add(path, text)
        return None


def _stages(raw: dict[str, Any], problems: Problems) -> dict[int, Stage]:
    """The stages that are sound on their own, by number in the file; graph errors are noted for all."""
    entries = raw.get("stages")
    if not isinstance(entries, list) or not entries:
        problems.add(("stages",), "a list of stages is needed, with at least one")
        return {}
    wide = {key: raw[key] for key in STAGE_WIDE if key in raw}
    stages: dict[int, Stage] = {}
    parents: dict[str, tuple[str, ...]] = {}
    numbers: dict[str, int] = {}
    for number, entry in enumerate(entries):
        at: Path = ("stages", number)
        if not isinstance(entry, dict):
            problems.add(at, "a stage is a mapping with `name` and `kind`")
            continue
        settings = {key: value for key, value in entry.items() if key not in STAGE_OWN}
        name = entry.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            problems.add((*at, "name"), f"a name of letters, digits, '.', '_' and '-' is needed, not {name!r}")
            name = f"[{number}]"
        elif name in numbers:
            problems.add((*at, "name"), f"there is a stage {name!r} already, stages[{numbers[name]}]")
            name = f"[{number}]"
        numbers[name], parents[name] = number, _parents(entry, at, problems)
        spec = _spec({**wide, **settings}, set(settings), at, problems)
        if spec is not None:
            stages[number] = Stage(name, parents[name], spec)
        else:
            _rest(number, {**wide, **settings}, set(settings), problems)
    for name, given in parents.items():
        for role, parent in zip(("parent", "teacher"), given, strict=False):
            if parent not in parents:
                known = [known for known in parents if known != name]
                problems.add(("stages", numbers[name], role), f"there is no stage {parent!r}{like(parent, known)}")
    loop = cycle({name: tuple(p for p in of if p in parents) for name, of in parents.items()})
    if loop:
        problems.add(("stages", numbers[loop[0]], "parent"), f"the stages form a cycle: {' -> '.join(loop)}")
    return stages


def _parents(entry: dict[str, Any], at: Path, problems: Problems) -> tuple[str, ...]:
    """The parent and, if there is one, the teacher; what is wrong with them is noted."""
    given = {role: entry.get(role) for role in ("parent", "teacher")}
    for role, name in given.items():
        if name is not None and not isinstance(name, str):
            problems.add((*at, role), f"the name of a stage is needed, not {name!r}")
            given[role] = None
    if entry.get("kind") in ("prune", "quantize") and entry.get("parent") in (None, ""):
        problems.add(at, f"a {entry['kind']} needs a `parent`: the stage whose network it starts from")
    if given["teacher"] and not entry.get("distill"):
        problems.add((*at, "teacher"), "a teacher is for a stage with `distill`, and this one has none")
    if not given["parent"]:
        return ()
    return (given["parent"], given["teacher"]) if given["teacher"] else (given["parent"],)


def _spec(settings: dict[str, Any], own: set[str], at: Path, problems: Problems) -> Spec | None:
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        problems.add((*at, "kind"), f"must be one of {', '.join(KINDS)}, not {kind!r}")
        return None
    try:
        spec: Spec = TypeAdapter(Spec).validate_python(settings)
    except ValidationError as error:
        # The discriminator's value leads each path; what all stages share is wrong at the top only.
        for inner, text in explained(error, KINDS[kind], skip=1, also=STAGE_OWN):
            shared = inner and inner[0] in STAGE_WIDE and inner[0] not in own and text != "is missing"
            problems.add(inner if shared else (*at, *inner), text)
        return None
    return spec


def _targets(number: int, stage: Stage, own: set[str], problems: Problems) -> None:
    from stages.targets import check

    try:
        check(stage.spec)
    except SpecError as error:
        _add(number, error.problems, own, problems)


def _rest(number: int, settings: dict[str, Any], own: set[str], problems: Problems) -> None:
    """What else is wrong with a stage whose settings are not sound: its model's name, its patterns."""
    from stages.targets import check_patterns

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
        found = error.problems
    _add(number, found, own, problems)


def _add(number: int, found: list[tuple[Path, str]], own: set[str], problems: Problems) -> None:
    """Note what is wrong with a stage's settings: with its own, or with what is given for all at the top."""
    for path, text in found:
        shared = path[0] in STAGE_WIDE and path[0] not in own
        problems.add(path if shared else ("stages", number, *path), text)


def _networks(stages: dict[int, Stage], problems: Problems) -> None:
    """A stage starts from its parent's network, so it can't name another."""
    models = {stage.name: stage.spec.model for stage in stages.values()}
    for number, stage in stages.items():
        for parent in stage.parents:
            if stage.spec.model != models[parent]:
                text = f"its parent {parent} has another: {models[parent].name}, {models[parent].classes} classes"
                problems.add(("stages", number, "model"), text)


def _shrinking(stages: dict[int, Stage], problems: Problems) -> None:
    """Without regrowth, a prune can't ask for more weights than its ancestors left."""
    from stages.targets import check

    left: dict[str, dict[str, int]] = {}
    waiting = dict(stages)
    while waiting:
        for number, stage in list(waiting.items()):
            if any(parent not in left for parent in stage.parents):
                continue
            del waiting[number]
            before = left[stage.parents[0]] if stage.parents else {}
            room = check(stage.spec)
            if stage.spec.kind == "prune" and not stage.spec.regrow:
                asked = [((name,), room.tensors[name]) for name in sorted(room.exact)] + list(room.budgets)
                for names, k in asked:
                    there = sum(before.get(name, k) for name in names)
                    if k > there:
                        text = f"asks for {k} weights in {', '.join(names)}, but {stage.parents[0]} leaves only {there}"
                        problems.add(("stages", number, "constraints"), f"{text}; set `regrow: true` or keep fewer")
                for name in sorted(n for n in room.filled if before.get(n, room.tensors[n]) < room.tensors[n]):
                    text = f"low rank would fill the zeros that {stage.parents[0]} left in {name}"
                    problems.add(("stages", number, "constraints"), f"{text}; leave it out, or set `regrow: true`")
            bounds = dict(room.tensors) | {name: k for names, k in room.budgets for name in names}
            if stage.spec.kind == "prune" and stage.spec.regrow:
                left[stage.name] = {**before, **bounds}
            else:
                left[stage.name] = before | {name: min(k, before.get(name, k)) for name, k in bounds.items()}

"""From YAML to typed settings. All errors of a file are found at once, each with its place in it.

What is said at the top of a file of a stage's settings (model, data, seed, ...) holds for every stage
that does not say it itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml
from pydantic import ValidationError

from dualprune.pipeline.config import checks, entries, overrides
from dualprune.pipeline.config.problems import ConfigError, Problems, brief, explained, like
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.stage import STAGE_WIDE, Stage
from dualprune.pipeline.config.yamlfile import Path, decoded, parse
from dualprune.stages.files import source
from dualprune.stages.settings.data import Data

RECIPES = FilePath(__file__).parents[2] / "configs"
"""Where named recipes lie."""
GIVEN = "the configuration"
"""What one is called that is no file."""


@dataclass(frozen=True)
class Config:
    """A file's settings, found to be sound on their own."""

    path: str
    top: Top
    stages: tuple[Stage, ...]
    lines: Mapping[Path, int]


@dataclass(frozen=True)
class Draft:
    """A file as it was read, with what is wrong in it."""

    top: Top | None
    """None where something is wrong with it."""
    stages: tuple[Stage, ...]
    """Those that are sound on their own."""
    data: Mapping[Path, Data]
    """All data settings that are sound on their own, by place."""
    problems: Problems

    def sound(self) -> Config:
        """The settings. Raises ConfigError with all problems that were noted, and those of networks too then."""
        if self.problems.found:
            checks.patterns(self.stages, self.problems)
        self.problems.stop()
        assert self.top is not None
        return Config(self.problems.file, self.top, self.stages, self.problems.lines)


def find(name: str) -> FilePath:
    """A file by path, or a recipe by name. Raises ConfigError."""
    for path in (FilePath(name), RECIPES / f"{name}.yaml"):
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise ConfigError(brief(name), [f"can't be read: {error.strerror}"]) from None
    known = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    there = "this is no regular file" if FilePath(name).exists() else "there is no such file"
    raise ConfigError(brief(name), [f"{there}, and no such recipe (recipes: {', '.join(known)})"])


def load(name: str, sets: list[str] | None = None) -> tuple[Config, Problems]:
    """Settings from a file or recipe, with `sets` (`a.b=c`) in place of what it says; networks are looked at too.

    Raises ConfigError with everything that can be said without the data, the store or the cluster;
    problems found later go to the returned `Problems`, for the same kind of message.
    """
    draft = read(name, sets)
    checks.networks(draft.sound().stages, draft.problems)
    return draft.sound(), draft.problems


def read(name: str, sets: list[str] | None = None) -> Draft:
    """The same but for networks, which take time to build: of stages that are done they need no look.

    What lies in the file's folder can be imported after this. Raises ConfigError for a file that can't be read, or is
    no mapping.
    """
    return drafted(*parsed(name, sets))


def parsed(name: str, sets: list[str] | None = None) -> tuple[dict[str, Any], Problems]:
    """A file's values, and where problems with them are noted. Raises ConfigError likewise."""
    _check_here(name)
    path = find(name)
    if path.parent != RECIPES:
        source.importable(path.parent.absolute())
    try:
        raw, lines = parse(decoded(path.read_bytes()), str(path))
    except OSError as error:
        raise ConfigError(str(path), [f"can't be read: {error.strerror}"]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}:{mark.line + 1}: " if mark else ""
        raise ConfigError(str(path), [f"{where}{getattr(error, 'problem', None) or error}"]) from None
    if not isinstance(raw, dict):
        raise ConfigError(str(path), ["the file: a mapping is needed, with `name` and `stages`"])
    named = {overrides.apply(raw, override): f"--set {brief(override)}" for override in sets or []}
    return raw, Problems(str(path), lines, named)


def given(raw: Mapping[str, Any], sets: list[str] | None = None) -> Draft:
    """The same of what a file would say, given as a mapping. Raises ConfigError for overrides that fit nothing."""
    _check_here(GIVEN)
    own = deepcopy(dict(raw))
    named = {overrides.apply(own, override): f"--set {brief(override)}" for override in sets or []}
    return drafted(own, Problems(GIVEN, {}, named))


def _check_here(name: str) -> None:
    """Raise ConfigError for a working directory that is gone, or that Ray can't take."""
    try:
        os.getcwd().encode()
    except FileNotFoundError:
        raise ConfigError(brief(name), ["the folder that this is called in is gone; change to another"]) from None
    except UnicodeEncodeError:
        raise ConfigError(
            brief(name), ["the folder that this is called in has a name that is no UTF-8, which Ray can't take"]
        ) from None


def drafted(raw: dict[str, Any], problems: Problems) -> Draft:
    """A file's values, read as settings."""
    top = _top(raw, problems)
    stages = entries.stages(raw, problems)
    if top is not None and top.engine.compile:
        for stage in stages:
            checks.compiled(stage, problems)
    return Draft(top, tuple(stages), _data(raw), problems)


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


def _top(raw: dict[str, Any], problems: Problems) -> Top | None:
    own = {key: value for key, value in raw.items() if key in Top.model_fields}
    known = [*Top.model_fields, *STAGE_WIDE, "stages"]
    for key in raw:
        if key not in known:
            problems.add((key,), f"unknown setting{like(key, known)}")
    try:
        return Top.model_validate(own)
    except ValidationError as error:
        for path, text in explained(error, Top):
            problems.add(path, text)
        return None

"""From YAML to typed settings. All errors of a file are found at once, each with its place in it.

What is said at the top of a file of a stage's settings (model, data, seed, ...) holds for every stage
that does not say it itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from dualprune.pipeline.config import entries, overrides
from dualprune.pipeline.config.entries import NAME, STAGE_WIDE, Stage
from dualprune.pipeline.config.problems import ConfigError, Problems, brief, explained, like
from dualprune.pipeline.config.yamlfile import Path, decoded, parse
from dualprune.stages.settings.base import Settings, Url
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.engine import Engine

RECIPES = FilePath(__file__).parents[2] / "configs"
"""Where named recipes lie."""


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
        raise ValueError(f"must be a number from 1 on, or {{min, max}}, not {brief(repr(value))}")
    return Workers(min=value, max=value)


def _address(value: str) -> str:
    """A cluster's address, in one of the forms that Ray takes."""
    if value not in ("auto", "local") and not re.fullmatch(r"(ray://)?([^\s/:]+|\[[0-9a-fA-F:.]+\]):\d{1,5}", value):
        raise ValueError(f"must be auto, HOST:PORT or ray://HOST:PORT, not {brief(repr(value))}")
    return value


class Cluster(Settings):
    """Where the work runs. None of it is in a key: it changes no result."""

    address: Annotated[str, AfterValidator(_address)] | None = None
    """A Ray cluster's address (`auto`, `host:port`); without one, a local Ray is started for the run."""
    workers: Annotated[Workers, BeforeValidator(_workers)] = Workers(min=1, max=1)
    """Ranks of each stage: a number, or `{min, max}` for as many as find room."""
    cpus: float = Field(default=1, gt=0)
    """CPUs of each rank."""
    gpus: float = Field(default=0, ge=0)
    """GPUs of each rank; a share of one (0.25) for stages of a single rank, four of which then have it at a time."""
    lanes: int | None = Field(default=None, ge=1)
    """Most stages at a time; by default as many as find room."""

    @model_validator(mode="after")
    def _no_gpu_of_two_ranks(self) -> Cluster:
        if self.gpus % 1 and (self.gpus > 1 or self.workers.max > 1):
            # NCCL refuses two ranks of a group on one GPU, when they have started.
            raise ValueError(f"`gpus` is {self.gpus:g}: give each worker whole GPUs, or a share of one to `workers: 1`")
        return self


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
    """`auto` is what wandb itself would do here, and offline files where it has no key."""
    project: str | None = None
    """Left out: the one that wandb's own settings name (WANDB_PROJECT), or `dualprune`."""


class Top(Settings):
    """Everything in a file but its stages and what holds for all of them."""

    name: str = Field(pattern=f"^{NAME}$")
    """Of the run: names its logs and its W&B group."""
    store: Url = "./runs"
    """Folder or fsspec URL of artefacts and shards; and of logs, which beside a bucket are in `./dualprune-logs`."""
    cluster: Cluster = Cluster()
    engine: Engine = Engine()
    retry: Retry = Retry()
    monitor: Monitor = Monitor()


@dataclass(frozen=True)
class Config:
    """A file's settings, found to be sound on their own."""

    path: str
    top: Top
    stages: tuple[Stage, ...]
    lines: Mapping[Path, int]


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


Outside = Callable[["Top | None", dict[Path, Data], "Problems"], None]


def load(name: str, sets: list[str] | None = None, outside: Outside | None = None) -> tuple[Config, Problems]:
    """Settings from a file or recipe, with `sets` (`a.b=c`) in place of what it says.

    Raises ConfigError with everything that can be said without the data, the store or the cluster;
    problems found later go to the returned `Problems`, for the same kind of message. `outside` is
    asked, if there are problems, what else is wrong around the file, so that all is said at once.
    """
    _check_here(name)
    path = find(name)
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
    problems = Problems(str(path), lines, named)
    return checked(raw, problems, outside), problems


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


def checked(raw: dict[str, Any], problems: Problems, outside: Outside | None = None) -> Config:
    """The settings that a file's values are. Raises ConfigError with all problems that there are."""
    top = _top(raw, problems)
    stages = entries.stages(raw, problems)
    if problems.found and outside is not None:
        outside(top, _data(raw), problems)
    problems.stop()
    assert top is not None
    return Config(problems.file, top, tuple(stages), problems.lines)


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

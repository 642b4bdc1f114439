"""What a file says beside its stages: the run, its store, where and how it is carried out. Typed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dualprune.pipeline.config.problems import brief
from dualprune.pipeline.config.stage import NAME
from dualprune.stages.settings.base import Or, Settings, Url
from dualprune.stages.settings.engine import Engine


class Workers(Settings):
    """Ranks of a stage: as many as find room, and another number of them when machines come and go."""

    min: int = Field(ge=1)
    """With fewer a stage does not begin."""
    max: int = Field(ge=1)
    """More are not used."""

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


_Workers = Annotated[Workers, BeforeValidator(_workers), Or(type="integer", minimum=1)]


class Cluster(Settings):
    """Where the work runs. None of it is in a key: it changes no result."""

    address: Annotated[str, AfterValidator(_address)] | None = None
    """A Ray cluster's address (`auto`, `host:port`); without one, a local Ray is started for the run."""
    workers: _Workers = Workers(min=1, max=1)
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
    """What shows people how a run goes, beside its terminal."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is what wandb itself would do here, and offline files where it has no key."""
    project: str | None = None
    """Of W&B's. Left out: the one that wandb's own settings name (WANDB_PROJECT), or `dualprune`."""
    upload: bool = False
    """Whether stages' networks go to W&B; without, it gets references to them in the store."""
    tensorboard: bool = False
    """Whether TensorBoard's files are written too, into `tensorboard` beside the logs (`pip install tensorboard`)."""


class Top(Settings):
    """Everything in a file but its stages and what holds for all of them."""

    name: str = Field(pattern=f"^{NAME}$")
    """Of the run: names its logs and its W&B group."""
    store: Url = "./runs"
    """Folder or fsspec URL of artefacts and shards; and of logs, which beside a bucket are in `./dualprune-logs`."""
    cluster: Cluster = Cluster()
    """Where the work runs."""
    engine: Engine = Engine()
    """How a stage's work is carried out."""
    retry: Retry = Retry()
    """How often a stage is tried again."""
    monitor: Monitor = Monitor()
    """Weights & Biases, and TensorBoard."""

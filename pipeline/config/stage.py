"""A stage as configured, and where its settings stand in the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from pydantic import Field

from dualprune.pipeline.config.yamlfile import Path
from dualprune.pipeline.dag import in_order
from dualprune.pipeline.node import Work
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import StageSpec

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
"""What a stage or a run can be named: files are named for it."""

STAGE_WIDE = tuple(name for name in StageSpec.model_fields if name != "kind")
"""Settings of a stage that may be given once for all of them."""


class Entry(Settings):
    """What an entry of a file says beside its stage's own settings."""

    name: str = Field(pattern=f"^{NAME}$")
    """Of the stage: other stages, `--set` and reports call it so."""
    parent: str | None = None
    """The stage whose network this one starts from; left out, it starts from new or given weights."""
    teacher: str | None = None
    """The stage that `distill` learns from, if that is not the parent."""


class Among(Settings):
    """What an entry says that chooses among stages."""

    name: str = Field(pattern=f"^{NAME}$")
    """Of the choice, as of a stage."""
    parents: list[str] = Field(min_length=1)
    """The stages to choose from."""


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
    teacher: str | None = None
    """Of the parents the one that it learns from, if it names one; otherwise that is the first."""

    def place(self, *path: str | int) -> Path:
        """Where one of its settings was given: by its entry, or for all stages."""
        return place(self.number, self.own, path)


def place(number: int, own: Collection[str], path: Path) -> Path:
    """Where a stage's setting was given: by its entry, of which `own` are the keys, or for all stages at the top."""
    return path if path[0] in STAGE_WIDE and path[0] not in own else ("stages", number, *path)


def ordered(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Parents before children."""
    by_name = {stage.name: stage for stage in stages}
    return (by_name[name] for name in in_order({stage.name: stage.parents for stage in by_name.values()}))

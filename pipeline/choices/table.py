"""The table of choices. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from typing import Any

from dualprune.pipeline.choices import bisect, select, threed
from dualprune.pipeline.choices.base import Choice, Trials
from dualprune.pipeline.node import Work
from dualprune.stages.settings.training import StageSpec

CHOICES: dict[str, Choice[Any]] = {
    "select": select.SELECT,
    "replace": select.REPLACE,
    "search": bisect.SEARCH,
    "threed": threed.THREED,
}


def trials(work: Work) -> Trials[Any] | None:
    """What a choice tries; None of one that tries nothing, and of training."""
    return None if isinstance(work, StageSpec) else CHOICES[work.kind].trials


def with_training(work: Work, spec: StageSpec) -> Work:
    """The same work with another stage that it trains or, if it is a choice with trials, tries."""
    return spec if isinstance(work, StageSpec) else work.model_copy(update={"stage": spec})


def among_parents() -> dict[str, Choice[Any]]:
    """Choices that try nothing, by the kinds that entries have."""
    return {name: choice for name, choice in CHOICES.items() if choice.trials is None}


def searches() -> dict[str, Trials[Any]]:
    """What choices try, by the names of the settings of a stage that ask for them."""
    return {name: choice.trials for name, choice in CHOICES.items() if choice.trials is not None}

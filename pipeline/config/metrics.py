"""What choices go by: metrics of the objectives of the stages that they are made among."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dualprune.pipeline.choices.base import SIZES, TIMED, choosable
from dualprune.pipeline.choices.search import Search
from dualprune.pipeline.choices.select import Replace, Select
from dualprune.pipeline.config.problems import Problems, brief
from dualprune.pipeline.config.yamlfile import Path
from dualprune.pipeline.dag import in_order, trained
from dualprune.stages.objectives.measures import Measures
from dualprune.stages.objectives.table import objective

if TYPE_CHECKING:
    from dualprune.pipeline.config.stage import Stage


def measured(found: Sequence[Stage], problems: Problems) -> list[Stage]:
    """The same stages, with a metric for choices that name none; names that nothing is measured by are noted."""
    stages = {stage.name: stage for stage in found}
    known: dict[str, Measures] = {}
    for name in in_order({stage.name: stage.parents for stage in found}):
        stage, spec = stages[name], trained(stages[name].spec)
        above = [known[parent] for parent in stage.parents]
        known[name] = above[0] if spec is None else objective(spec).measures
        if isinstance(stage.spec, Select | Replace):
            stages[name] = replace(stage, spec=_named(stage.spec, known[name]))
            _chosen(stages[name], above, problems)
        elif isinstance(stage.spec, Search):
            _searched(stage, stage.spec, known[name], above[0], problems)
    return [stages[stage.name] for stage in found]


def _named(choice: Select | Replace, of: Measures) -> Select | Replace:
    """A choice by the objective's best, unless it says by what."""
    if choice.metric is not None and "metric" in choice.model_fields_set:
        return choice
    return choice.model_copy(update={"metric": of.of("val")})


def _chosen(stage: Stage, above: Sequence[Measures], problems: Problems) -> None:
    """Whether parents can be compared by what a choice goes by."""
    choice = stage.spec
    assert isinstance(choice, Select | Replace)
    at: Path = ("stages", stage.number)
    at = (*at, "beam") if "beam" in stage.own else at
    budget = choice.budget if isinstance(choice, Select) else {}
    given: dict[Path, str] = {(*at, "budget", metric): metric for metric in budget}
    if choice.metric is not None:
        where: Path = (*at, "metric")
        given[where] = choice.metric
    for path, metric in given.items():
        for name, of in zip(stage.parents, above, strict=True):
            if metric not in choosable(of):
                *names, last = (one for one in choosable(of) if one != TIMED or "beam" not in stage.own)
                there = "" if of == above[0] else f", as {name} is measured otherwise than {stage.parents[0]}"
                text = f"must be {', '.join(map(repr, names))} or {last!r}, not {brief(repr(metric))}{there}"
                problems.add(path, text)
                break
            if metric not in SIZES and choosable(of)[metric] != choosable(above[0])[metric]:
                problems.add(
                    path, f"of {metric} less is better for one of {stage.parents[0]} and {name}, more for the other"
                )
                break


def _searched(stage: Stage, search: Search, own: Measures, parent: Measures, problems: Problems) -> None:
    """Whether what a search tries can be compared with its parent."""
    at: Path = ("stages", stage.number, "search")
    if own.of("val") != parent.of("val") or own.higher != parent.higher:
        text = f"its trials are measured by {own.best}, and its parent {stage.parents[0]} by {parent.best}"
        problems.add(at, f"{text}, with which they can't be compared; give both the same `objective`")
    elif own.unit == "%" and search.tolerance > 100:
        problems.add((*at, "tolerance"), f"must be at most 100, in points of {own.best}, not {search.tolerance:g}")

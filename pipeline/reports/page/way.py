"""Which network a page is about, and the stages that led to it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dualprune.pipeline.reports.page.facts import Stage, Way

CLOSE = 1.0
"""Points of a percentage, or percent of another metric, that a network may lose on validation and still be the one
that a page is about."""


def way(stages: Mapping[str, Stage], wanted: str | None = None) -> Way:
    """To the stage that is `wanted` or, without one, to what the run chose or came to last."""
    if wanted is not None:
        chosen, why = wanted, "it was asked for"
    else:
        found = _found(stages)
        if found is None:
            return Way()
        chosen, why = found
    took = taken(stages, chosen)
    before = _before(stages, took)
    dense = next((name for name in before if stages[name].metrics), before[0])
    return Way(took, dense, tuple(before), why)


def _found(stages: Mapping[str, Stage]) -> tuple[str, str] | None:
    """Of the networks from which nothing came: what the last choice took; else the smallest that is as good as dense.

    And why it is that one.
    """
    used = _above(stages)
    ends = [one for one in stages.values() if one.metrics and one.name not in used]
    choices = [one for one in ends if one.chosen is not None]
    if choices:
        return choices[-1].name, f"{choices[-1].name} chose it on validation"
    ends = ends or [one for one in stages.values() if one.metrics]
    if not ends:
        return None
    if len(ends) == 1:
        return ends[0].name, "it is what the run comes to"
    good = [one for one in ends if _holds(one, stages)]
    if not good:
        best = max(ends, key=_worth)
        return best.name, f"of {len(ends)} networks it is the best on validation, and none is as good as dense"
    least = min(good, key=_size)
    return least.name, f"of {len(ends)} networks it is the smallest that is about as good as dense on validation"


def _above(stages: Mapping[str, Stage]) -> set[str]:
    """Names of the stages from which any came that has numbers."""
    found: set[str] = set()
    left = [parent for stage in stages.values() if stage.metrics for parent in stage.parents]
    while left:
        name = left.pop()
        if name in stages and name not in found:
            found.add(name)
            left += stages[name].parents
    return found


def _holds(stage: Stage, stages: Mapping[str, Stage]) -> bool:
    """Whether a stage is about as good on validation as the first one on the way to it."""
    dense = next(stages[name] for name in _before(stages, stage.name) if stages[name].metrics)
    found, before = stage.value("val"), dense.value("val")
    if found is None or before is None or dense.measures.best != stage.measures.best:
        return False
    lost = before - found if stage.measures.higher else found - before
    return lost <= (CLOSE if stage.measures.unit == "%" else CLOSE / 100 * abs(before))


def _worth(stage: Stage) -> float:
    value = stage.value("val")
    if value is None:
        return float("-inf")
    return value if stage.measures.higher else -value


def _size(stage: Stage) -> float:
    found = (stage.metric(name) for name in ("bytes", "network_nonzeros", "nonzeros"))
    return next((one for one in found if one is not None), float("inf"))


def taken(stages: Mapping[str, Stage], name: str) -> str:
    """What a choice took, however many choices lie between; a stage itself. One that is not known stays the choice."""
    seen = set[str]()
    while (chosen := stages[name].chosen) is not None and chosen in stages and name not in seen:
        seen.add(name)
        name = chosen
    return name


def _before(stages: Mapping[str, Stage], name: str) -> list[str]:
    """From the root to a stage, along first parents, as far as they are known."""
    found: list[str] = []
    at: str | None = name
    while at is not None and at in stages and at not in found:
        at = taken(stages, at)
        if at in found:
            break
        found.insert(0, at)
        at = next(iter(stages[at].parents), None)
    return found


def front(stages: Sequence[tuple[str, float, float]], higher: bool = True) -> list[str]:
    """Names of those, of name, rate and value, than which none is better in one of both and as good in the other;
    by rate, the lowest first."""
    found: list[tuple[str, float, float]] = []
    best = None
    for name, rate, value in sorted(stages, key=lambda one: (-one[1], -one[2] if higher else one[2])):
        if best is None or (value > best if higher else value < best):
            found.append((name, rate, value))
            best = value
    return [name for name, _, _ in reversed(found)]

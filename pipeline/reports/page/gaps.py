"""What a store does not tell of a run, and why: for the head of a page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dualprune.pipeline.reports.page.facts import Run, Stage

NAMED = 5
"""Stages that a sentence names."""


def gaps(run: Run, logged: bool, lost: Sequence[str]) -> Iterator[str]:
    """Sentences. `lost` are those on masks."""
    for state, text in (
        ("running", "still being trained"),
        ("failed", "failed"),
        ("stopped", "begun and not finished"),
        ("queued", "still to be run"),
        ("not begun", "never begun"),
    ):
        found = [stage.name for stage in run.stages.values() if stage.state == state]
        if found:
            yield f"{text[0].upper()}{text[1:]}: {listed(found)}."
    for stage in run.stages.values():
        if stage.state == "lost":
            kept = "; its numbers are from the run's log" if stage.metrics and not stage.tensors else ""
            yield f"{stage.name}: {stage.why}{kept}."
        if stage.damage and stage.state != "lost":
            yield f"{stage.name}: {stage.damage}."
    yield from (f"{text}." for text in lost)
    if not logged:
        text = "This run is older than the log of events"
        yield f"{text}: when stages began and ended, and what was retried, is not known."
    if run.chosen is not None and run.dense is not None and _pruned(run.dense):
        yield f"The dense network that {run.dense.name} came from is not in this store: it is compared with that stage."


def listed(names: Sequence[str]) -> str:
    """Names, the first of many."""
    more = len(names) - NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:NAMED])} and {more} more"


def _pruned(stage: Stage) -> bool:
    return bool(stage.parents)

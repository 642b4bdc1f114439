"""Events come to one series for each stage, whatever was killed between them."""

from __future__ import annotations

from itertools import count
from typing import Any

from dualprune.pipeline.store.history import History, histories


def _told(*events: tuple[str, dict[str, Any]]) -> History:
    clock = count(100)
    told = [{"at": float(next(clock)), "event": what, "stage": "a", "key": "k", **facts} for what, facts in events]
    return histories([{"at": 1.0, "event": "begun"}, *told])["k"]


def _row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "steps": 10 * epoch, "loss": 1 / epoch}


def test_a_stage_that_is_killed_and_goes_on_has_one_series() -> None:
    """The log lost the second epoch; the third was told, but not saved, so that it comes again."""
    found = _told(
        ("submitted", {"kind": "prune"}),
        ("training", {"steps": 0, "world": 2, "rows": []}),
        ("epoch", _row(1)),
        ("steps", {"steps": 14}),
        ("epoch", _row(3)),
        ("steps", {"steps": 34}),
        ("submitted", {"kind": "prune"}),
        ("resumed", {"steps": 20, "world": 1, "rows": [_row(1), _row(2)]}),
        ("steps", {"steps": 25}),
        ("epoch", _row(3)),
        ("done", {"metrics": {}}),
    )
    assert [row["epoch"] for row in found.rows] == [1, 2, 3]
    assert [place["steps"] for place in found.places] == [14, 25]
    assert [(one.first, one.world, one.ended) for one in found.attempts] == [(0, 2, None), (20, 1, "done")]
    assert (found.attempts[0].began, found.attempts[0].last) == (101.0, 107.0)
    assert (found.kind, found.submitted, found.done, found.failed) == ("prune", 106.0, 110.0, None)


def test_retries_and_a_failure_are_told_until_it_begins_anew() -> None:
    events: list[tuple[str, dict[str, Any]]] = [
        ("training", {"steps": 0}),
        ("epoch", _row(1)),
        ("retry", {"reason": "a machine died"}),
        ("training", {"steps": 0}),
        ("epoch", _row(1)),
        ("failed", {"reason": "no more"}),
    ]
    found = _told(*events)
    assert found.retries == [(102.0, "a machine died")]
    assert [one.ended for one in found.attempts] == ["lost", "failed"]
    assert found.failed == "no more"
    assert len(found.rows) == 1
    assert _told(*events, ("submitted", {"kind": "prune"})).failed is None


def test_a_choice_says_whose_result_it_took() -> None:
    found = _told(("done", {"kind": "select", "chosen": "b", "metrics": {}}))
    assert (found.chosen, found.attempts) == ("b", [])

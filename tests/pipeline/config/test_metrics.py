"""What choices go by in a file: the objective's best where nothing is said, and nothing that it does not measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualprune.pipeline.choices.select import Replace, Select
from dualprune.pipeline.config.load import load
from dualprune.stages.objectives.table import OBJECTIVES
from tests.pipeline.common import extended, problems, scores
from tests.pipeline.config.test_entries import ENTRIES

ALL = ("data:", "objective: scores\ndata:")
"""All stages have the objective whose score is better when it is less."""
NO_BUDGET = ("    budget: {val_accuracy: 90}\n", "")


@pytest.fixture(autouse=True)
def _scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "scores", scores)


@pytest.mark.parametrize(("changes", "metric"), [((), "val_accuracy"), ((ALL, NO_BUDGET), "val_score")])
def test_a_choice_that_names_nothing_is_by_the_best(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], metric: str
) -> None:
    """Of a select, of a beam's own, and of places in its pool."""
    found = load(str(extended(tmp_path, ENTRIES, *changes, ("    metric: rate\n", ""))))[0].stages
    chosen = [stage.spec for stage in found if isinstance(stage.spec, Select | Replace)]
    assert len(chosen) >= 5
    assert {choice.metric for choice in chosen} == {metric}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            (ALL,),
            "budget.val_accuracy: must be 'val_score', 'val_share', 'rate', 'nonzeros', 'total_bits', 'macs', ",
        ),
        ((ALL, NO_BUDGET, ("metric: rate", "metric: val_loss")), "not 'val_loss'"),
        (
            (
                NO_BUDGET,
                ("name: half\n", "name: half\n    objective: scores\n"),
                ("metric: rate", "metric: val_accuracy"),
            ),
            "not 'val_accuracy', as half is measured otherwise than rungs-6x",
        ),
        (
            (NO_BUDGET, ("  # the search\n", "\n    objective: scores\n")),
            "stages[6].search: its trials are measured by score, and its parent dense by accuracy",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused(tmp_path: Path, changes: tuple[tuple[str, str], ...], found: str) -> None:
    """With its place, and what there is."""
    assert found in problems(extended(tmp_path, ENTRIES, *changes))[0]


def test_a_tolerance_has_the_metrics_own_unit(tmp_path: Path) -> None:
    """A score may rise by thousands, which accuracy can't fall by."""
    path = extended(tmp_path, ENTRIES, ALL, NO_BUDGET, ("tolerance: 0.5", "tolerance: 5000"))
    assert load(str(path))[0].stages

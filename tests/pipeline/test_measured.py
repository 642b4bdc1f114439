"""How measures are told: by name and unit, accuracy without its name."""

from __future__ import annotations

import pytest

from dualprune.pipeline.measured import cell, titles, validated
from dualprune.stages.objectives.measures import CLASSIFY, Measure, Measures, measures
from tests.pipeline.common import SCORE, manifest, scored

MAP = Measures("map", {"map": Measure()})


def test_what_was_validated_is_told_whatever_it_is() -> None:
    """Accuracy in percent, another objective's metric by its name."""
    assert validated({"val_loss": 0.1, "val_accuracy": 97.5}, "accuracy", "%") == "val 97.50 %"
    assert validated({"val_loss": 1.0, "val_score": 0.12345}, "score", "") == "val score 0.1235"
    assert validated({"val_error_rate": 12.5}, "error_rate", "mm") == "val error rate 12.5 mm"
    assert validated({}, "accuracy", "%") == "not validated"


@pytest.mark.parametrize(
    ("rows", "wanted", "cells"),
    [
        ([CLASSIFY, CLASSIFY], ("val %", "test %"), ["97.50", "97.50"]),
        ([], ("val %", "test %"), []),
        ([None], ("val %", "test %"), ["-"]),
        ([MAP, None], ("map\nval %", "map\ntest %"), ["97.50", "-"]),
        ([SCORE], ("score\nval", "score\ntest"), ["97.5"]),
        ([SCORE, CLASSIFY], ("val", "test"), ["score 97.5", "97.50 %"]),
    ],
)
def test_a_tables_titles_and_cells(rows: list[Measures | None], wanted: tuple[str, ...], cells: list[str]) -> None:
    """Name and unit stand above, or in each cell where rows differ."""
    assert titles(rows) == wanted
    assert [cell(97.5, of, wanted[0]) for of in rows] == cells
    assert cell(None, CLASSIFY, wanted[0]) == "-"


def test_a_manifest_says_its_measures_or_is_of_accuracy() -> None:
    """As older ones are."""
    assert measures(scored(0.5)) == SCORE
    assert measures(manifest()) == CLASSIFY
    assert (SCORE.unit, SCORE.higher, SCORE.of("val")) == ("", False, "val_score")

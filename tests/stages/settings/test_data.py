"""Settings of the data that contradict each other, and normalisation that is of bytes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.settings.data import Data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "either `source`"),
        ({"source": "digits", "shards": "x"}, "either `source`"),
        ({"source": "digits", "folder": "x"}, "`folder` belongs to"),
        ({"source": "digits", "mean": [0.1, 0.2]}, "2 values and `std` has 1"),
        ({"source": "digits", "std": [0.0]}, "greater than 0"),
    ],
)
def test_data_settings_that_contradict_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Data.model_validate(data)


@pytest.mark.parametrize(
    ("mean", "std", "divided"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"),
        (
            [123.675, 116.28, 103.53],
            [1.0, 1.0, 1.0],
            "mean: [0.485, 0.456, 0.406], std: [0.003922, 0.003922, 0.003922]",
        ),
        ([33.3], [78.6], "mean: [0.1306], std: [0.3082]"),
        ([0.0], [255.0], "mean: [0], std: [1]"),
        ([123.675], [0.229], "mean: [0.485], std: [0.229]"),
        ([0.485, 0.456, 0.406], [58.395, 57.12, 57.375], "mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"),
        ([0.485, 123.675, 0.4], [0.229, 58.395, 0.225], "mean: [0.485, 0.485, 0.4], std: [0.229, 0.229, 0.225]"),
        ([485.0], [229.0], ""),
        ([-0.485], [0.229], ""),
    ],
)
def test_mean_and_deviation_of_bytes_are_refused(mean: list[float], std: list[float], divided: str) -> None:
    """They train to chance without a word. What they are of pixels in [0, 1] is said, where that can be told."""
    with pytest.raises(ValidationError, match="pixels are numbers from 0 to 1 here") as caught:
        Data(source="digits", mean=mean, std=std)
    assert ("divide them by 255" in str(caught.value)) == bool(divided)
    assert divided in str(caught.value)


@pytest.mark.parametrize(("mean", "std"), [([0.5], [0.5]), ([0.485], [1 / 255]), ([1.0], [1.0]), ([0.0], [1.0])])
def test_mean_and_deviation_of_pixels_are_taken(mean: list[float], std: list[float]) -> None:
    assert Data(source="digits", mean=mean, std=std).mean == mean

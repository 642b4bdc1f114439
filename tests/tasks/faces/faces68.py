"""Faces with 68 points, as grey pictures of 64 x 64."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
HELD = 8
"""Of the persons of train, every so manieth is held out as val: pictures of one person are much alike."""


def samples(folder: str) -> dict[str, list[dict[str, Any]]]:
    """A sample is `image` [64, 64], and `target` [68, 2]: x and y of the points as shares of the picture."""
    found = {split: _read(Path(folder), split) for split in ("train", "test")}
    persons = sorted({person for person, _ in found["train"]})
    held = set(persons[::HELD])
    return {
        "train": [sample for person, sample in found["train"] if person not in held],
        "val": [sample for person, sample in found["train"] if person in held],
        "test": [sample for _, sample in found["test"]],
    }


def _read(folder: Path, split: str) -> list[tuple[str, dict[str, Any]]]:
    """Persons and samples."""
    with (folder / f"{split}.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    found = []
    for name, *numbers in rows:
        with Image.open(folder / split / name) as picture:
            points = np.array(numbers, dtype=np.float32).reshape(-1, 2) / picture.width
            pixels = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))
        found.append((name.partition("_")[0], {"image": pixels, "target": points}))
    return found

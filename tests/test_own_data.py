"""A whole run on a data set of a user's own, from a folder that holds nothing but it and a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import TWO_STAGES, dualprune, json_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OWN = """
import numpy as np
from sklearn.datasets import load_digits

def samples(most):
    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)
    more = {"x": 0.5}
    return [{"image": p, "label": int(y), "words": [1] * (y + 1), **more} for p, y in zip(pictures, data.target)][:most]
"""


def test_a_data_set_of_ones_own_from_plan_to_artefact(tmp_path: Path) -> None:
    """Its other fields go along; two ranks learn from it; what changed is noticed, and what did not is done."""
    own = "data: {source: 'own_digits:samples', args: {most: 1700}, mean: [0.3], std: [0.38]}"
    text = TWO_STAGES.replace("data: {source: digits, mean: [0.3], std: [0.38]}", own).replace(
        "workers: 1", "workers: 2"
    )
    assert own in text
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "own_digits.py").write_text(OWN)
    code, lines = dualprune(tmp_path, "run", "own.yaml", "--json")
    assert code == 0, lines
    rows = json_of(lines)["stages"]
    assert [row["state"] for row in rows] == ["done", "done"]
    assert all(row["val_accuracy"] > 80 for row in rows)
    states = {}
    for change in ("# a comment", "0.5", "0.25"):
        source = OWN + change if change.startswith("#") else OWN.replace("0.5", change)
        (tmp_path / "own_digits.py").write_text(source)
        code, lines = dualprune(tmp_path, "plan", "own.yaml", "--json")
        states[change] = [row["state"] for row in json_of(lines)["stages"]]
    assert states == {"# a comment": ["cached"] * 2, "0.5": ["cached"] * 2, "0.25": ["run"] * 2}

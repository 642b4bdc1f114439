"""How many weights stages leave, of what they constrain and of the whole network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.reports import plan as planview
from tests.pipeline.common import extended

SIZES = {"0.weight": 144, "2.weight": 4608, "6.weight": 65536, "8.weight": 1280}
"""Of the network of the tests' configuration: 71,568 together."""
ENTRIES = """\
- name: conv
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "2.*", rate: 4}]
  admm: *admm
  retrain: *retrain
- name: then-linear
  kind: prune
  parent: conv
  constraints: [{set: cardinality, tensors: "[68].*", scope: global, count: 1000}]
  admm: *admm
  retrain: *retrain
- name: tuned
  kind: train
  parent: then-linear
  train: {epochs: 1, lr: 1e-3}
- name: then-first
  kind: prune
  parent: tuned
  constraints: [{set: cardinality, tensors: "0.*", count: 72}]
  admm: *admm
  retrain: *retrain
- name: back
  kind: prune
  parent: then-linear
  regrow: true
  constraints: [{set: cardinality, tensors: "2.*", rate: 2}]
  admm: *admm
  retrain: *retrain
- name: filters
  kind: prune
  parent: conv
  constraints: [{set: filter, tensors: "2.*", keep: 0.5}]
  admm: *admm
  retrain: *retrain
- name: one
  kind: select
  parents: [conv, back]
- name: after-one
  kind: prune
  parent: one
  constraints: [{set: cardinality, tensors: "0.*", count: 72}]
  admm: *admm
  retrain: *retrain
"""


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """A plan's, as JSON, by stage."""
    plan = planning.make(*load(str(extended(tmp_path, ENTRIES))))[1]
    return {row["name"]: row for row in planview.as_json(plan, {}, "GPU")["stages"]}


@pytest.mark.parametrize(
    ("stage", "own", "left", "network"),
    [
        ("half", 71568, 35784, 35784),
        ("v1.5-quarter", 71568, 17892, 17892),
        ("conv", 4608, 1152, 68112),
        ("then-linear", 66816, 1000, 144 + 1152 + 1000),
        ("then-first", 144, 72, 72 + 1152 + 1000),
        ("back", 4608, 2304, 144 + 2304 + 1000),  # what its parent pruned may come back
        ("after-one", 144, 72, 72 + 2304 + 65536 + 1280),  # whichever of the two is chosen
    ],
)
def test_both_are_counted(rows: dict[str, dict[str, Any]], stage: str, own: int, left: int, network: int) -> None:
    """With what is zero since the stages before."""
    row = rows[stage]
    assert {name: row[name] for name in ("weights", "nonzeros", "network_weights", "network_nonzeros")} == {
        "weights": own,
        "nonzeros": left,
        "network_weights": sum(SIZES.values()),
        "network_nonzeros": network,
    }
    assert row["network_rate"] == pytest.approx(71568 / network)
    assert row["rate"] == pytest.approx(own / left)


def test_a_part_in_a_part_leaves_the_smaller(rows: dict[str, dict[str, Any]]) -> None:
    """Half of the filters of a tensor that has a quarter of its weights already."""
    assert (rows["filters"]["nonzeros"], rows["filters"]["network_nonzeros"]) == (2304, 68112)


def test_where_there_is_no_rate_nothing_is_counted(rows: dict[str, dict[str, Any]]) -> None:
    """Of training and of choices."""
    for stage in ("dense", "tuned", "one"):
        assert {rows[stage][name] for name in ("rate", "network_rate", "nonzeros", "bytes")} == {None}

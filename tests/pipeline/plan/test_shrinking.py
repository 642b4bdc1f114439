"""Plans of stages that make networks smaller: what can't be is told before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.reports import tensors
from tests.pipeline.common import extended

CUT = """
- name: cut
  kind: prune
  parent: dense
  constraints:
    - {set: filter, tensors: "*", AMOUNT, coupled: true}
  admm: null
  retrain: {epochs: 1, lr: 1e-3}
- {name: small, kind: shrink, parent: cut, MORE retrain: {epochs: 1, lr: 1e-3}}
"""


def entries(amount: str = "rate: 2", more: str = "") -> str:
    """A coupled prune, and what makes the network smaller."""
    return CUT.replace("AMOUNT", amount).replace("MORE", more)


def planned(folder: Path, text: str, *changes: tuple[str, str]) -> dict[str, Planned]:
    """The plan by stage."""
    return {p.node.name: p for p in planning.make(*load(str(extended(folder, text, *changes))))[1]}


def refused(folder: Path, text: str, *changes: tuple[str, str]) -> str:
    """What is wrong."""
    with pytest.raises(ConfigError) as caught:
        planned(folder, text, *changes)
    return str(caught.value)


def test_how_many_weights_a_coupled_prune_leaves(tmp_path: Path) -> None:
    """And nothing is told of the stages after the network is smaller, a choice between them too."""
    after = """
- {name: one, kind: prune, parent: small, constraints: [{set: cardinality, tensors: "*", rate: 2}],
   admm: null, retrain: {epochs: 1, lr: 1e-3}}
- {name: two, kind: prune, parent: small, constraints: [{set: cardinality, tensors: "*", rate: 4}],
   admm: null, retrain: {epochs: 1, lr: 1e-3}}
- {name: best, kind: select, parents: [one, two]}
- {name: last, kind: prune, parent: best, constraints: [{set: cardinality, tensors: "*", rate: 8}],
   admm: null, retrain: {epochs: 1, lr: 1e-3}}
"""
    plan = planned(tmp_path, entries() + after)
    counts = plan["cut"].size.counts
    assert counts is not None
    assert (counts.weights, counts.nonzeros) == (71568, 72 + 1152 + 16384 + 640)
    for name in ("small", "one", "best", "last"):
        assert plan[name].size is None or plan[name].size.counts is None, name
    assert [name for name, one in plan.items() if any("as it is built" in note for note in one.notes)] == [
        "one",
        "two",
        "last",
    ]
    (held,) = tensors.held([plan["cut"]])["cut"]
    assert dict(held.most) == {"0.weight": 72, "2.weight": 1152, "6.weight": 16384, "8.weight": 640}


def test_a_small_teacher_makes_no_network_smaller(tmp_path: Path) -> None:
    text = """
- {name: thin, kind: prune, parent: dense, teacher: small, distill: {weight: 0.5},
   constraints: [{set: cardinality, tensors: "*", rate: 2}], admm: null, retrain: {epochs: 1, lr: 1e-3}}
"""
    thin = planned(tmp_path, entries() + text)["thin"]
    assert thin.size is not None
    assert thin.size.counts is not None
    assert thin.notes == ()


def test_what_a_prune_after_it_leaves_is_not_held_against_the_dense_network(tmp_path: Path) -> None:
    """A smaller network may have fewer weights than a tenth of the dense one's, and more of them left."""
    text = """
- {name: thin, kind: prune, parent: dense, constraints: [{set: cardinality, tensors: "*", rate: 10}],
   admm: null, retrain: {epochs: 1, lr: 1e-3}}
- {name: small, kind: shrink, parent: thin, constraints: [{set: filter, tensors: "*", keep: 0.25, coupled: true}]}
- {name: last, kind: prune, parent: small, constraints: [{set: cardinality, tensors: "*", rate: 4}],
   admm: null, retrain: {epochs: 1, lr: 1e-3}}
"""
    assert planned(tmp_path, text)["last"].state == "run"


@pytest.mark.parametrize(
    ("amount", "more", "texts"),
    [
        ("macs: 0.0001", "", ["stages[4].constraints[0]", "can't be cut to 0.0001 of its multiply-accumulates"]),
        ("count: 17", "", ["stages[4].constraints[0]", "asks for 17 filters, but there are 16 of 0.weight"]),
        ("rate: 2", "resolution: 4,", ["stages[5].resolution", "can't take pictures of 4 x 4", "512x128"]),
        ("rate: 2", "resolution: 8,", ["stages[5].resolution", "of this size already"]),
        ("rate: 2", "blocks: {remove: 1},", ["stages[5].blocks.remove", "1 blocks can't be removed"]),
        (
            "rate: 2",
            "constraints: [{set: head, tensors: '*', keep: 0.5, coupled: true}],",
            ["stages[5].constraints[0]", "no heads of it can go"],
        ),
        (
            "rate: 2",
            "constraints: [{set: filter, tensors: '*', keep: 0.5}],",
            ["stages[5]", "`filter` without `coupled: true`"],
        ),
        (
            "rate: 2",
            "multiple: 8, constraints: [{set: filter, tensors: '*', keep: 0.5, coupled: true}],",
            ["stages[5]", "give it in each of these"],
        ),
    ],
)
def test_what_can_not_be_is_told(amount: str, more: str, texts: list[str], tmp_path: Path) -> None:
    told = refused(tmp_path, entries(amount, more))
    for text in texts:
        assert text in told


OWN = """
import torch


class Deciding(torch.nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Linear(8, classes))

    def forward(self, x):
        return self.flat(x) if x.mean() > 0 else self.flat(-x)
"""


def test_a_network_that_can_not_be_followed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network is named."""
    (tmp_path / "deciding.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    change = ("{name: digits_cnn}", "{name: 'deciding:Deciding'}")
    other = ('tensors: "8.*"', 'tensors: "flat.2*"')
    told = refused(tmp_path, entries(), change, other)
    assert "model: what goes together in the network can't be found: torch.export can't follow it" in told


THREE = """
- name: three
  kind: shrink
  parent: dense
  threed: {budget: {BUDGET}, width: [0.8, 0.5]}
  retrain: {epochs: 1, lr: 1e-3}
"""


@pytest.mark.parametrize(("cost", "within", "beyond"), [("macs", 0.4, 0.2), ("weights", 0.4, 0.2)])
def test_a_budget_beyond_the_chains_is_refused(tmp_path: Path, cost: str, within: float, beyond: float) -> None:
    """With the least that their ends leave, before anything is trained."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert "three" in planned(tmp_path / "one", THREE.replace("BUDGET", f"{cost}: {within}"))
    said = refused(tmp_path / "two", THREE.replace("BUDGET", f"{cost}: {beyond}"))
    assert f"{beyond:g} of the {cost} can't be reached: at the ends of the chains 0." in said
    assert f"threed.budget.{cost}" in said

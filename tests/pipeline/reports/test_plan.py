"""A plan as a table, as JSON and as a graph, with what it is estimated to take."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.plan.costs import Cost
from dualprune.pipeline.plan.state import Planned
from dualprune.pipeline.reports import plan as planview
from dualprune.pipeline.run.work import clock
from dualprune.stages.networks.build import build_model
from dualprune.stages.settings.training import Model
from tests.pipeline.common import artefact, config, extended

ENTRIES = """\
- name: best
  kind: select
  parents: [half, other]
- name: least
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*", rate: 2.25}]
  admm: *admm
  retrain: *retrain
  search: {tolerance: 1, trials: 4, most: 8}
- name: long
  kind: prune
  parent: best
  constraints: [{set: cardinality, tensors: "8.*", rate: 4}]
  admm: *admm
  retrain: {epochs: 99, lr: 1e-3}
- name: wide
  kind: prune
  parent: dense
  batch: 50
  constraints: [{set: cardinality, tensors: "8.*", rate: 4}]
  admm: *admm
  retrain: *retrain
"""


def plan(folder: Path, **seconds: float) -> list[Planned]:
    """A plan in which the named stages are done, in so many seconds of 44 steps each."""
    path = str(extended(folder, ENTRIES))
    store, found = planning.make(*load(path))
    for planned in found:
        if planned.node.name in seconds:
            steps = 0 if planned.node.name == "best" else 44
            artefact(store.url, planned.node.key, seconds=seconds[planned.node.name], steps=steps)
    return planning.make(*load(path))[1]


def test_json_has_all_there_is(tmp_path: Path) -> None:
    """Rates as they are where a stage is done, and as they are asked for elsewhere; nothing is made up."""
    found = plan(tmp_path, dense=11.0, half=22.0)
    printed = planview.as_json(found, {"v1.5-quarter": Cost(3.5, 0.25)}, "GPU")
    assert json.loads(json.dumps(printed)) == printed
    rows = {row["name"]: row for row in printed["stages"]}
    best, half, quarter = rows["best"], rows["half"], rows["v1.5-quarter"]
    assert (best["kind"], best["parents"], best["state"]) == ("select", ["half", "other"], "run")
    assert [best[name] for name in ("rate", "epochs", "steps", "estimated_seconds")] == [None] * 4
    assert (half["state"], half["rate"], half["estimated_seconds"]) == ("cached", 2.0, None)
    assert quarter["rate"] == pytest.approx(4.0, rel=1e-3)
    assert (quarter["epochs"], quarter["steps"]) == (2, 2)
    assert (quarter["estimated_seconds"], quarter["estimated_device_hours"]) == (3.5, 0.25)
    assert (rows["least"]["kind"], rows["least"]["epochs"]) == ("search", 2)
    assert printed["device"] == "GPU"
    # v1.5-quarter, other and least: 2 steps each; long: 100; wide: 2 epochs of 2 steps.
    assert printed["left"] == {"steps": 110, "estimated_seconds": None, "estimated_device_hours": None}


def test_a_table_has_a_line_a_stage(tmp_path: Path) -> None:
    """Reasons as they are, brackets included; times on a clock."""
    found = plan(tmp_path, dense=11.0, half=22.0)
    costs = {p.node.name: Cost(37.5, 1.25) for p in found if p.node.name in ("least", "v1.5-quarter", "other", "wide")}
    head, *lines, last = shown(planview.as_table(found, costs, "worker"))
    assert re.split(r"\s\s+", head.strip())[:4] == ["stage", "key", "state", "rate"]
    assert head.split()[3:] == ["rate", "network", "rate", "epochs", "steps", "estimate", "worker", "hours", "why"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == [planned.node.name for planned in found]
    assert rows["best"][1:] == ["run", "not", "run", "yet"]
    assert rows["long"][1:] == ["run", "4.00x", "1.01x", "100", "100", "not", "run", "yet"]
    assert rows["other"][1:8] == ["run", "2.00x", "1.01x", "2", "2", clock(37.5), "1.25"]
    assert last.split() == ["left", "to", "do", "108", "110"]
    *_, last = shown(planview.as_table(found, costs | {"long": Cost(7200, 4000)}, "GPU"))
    assert last.split() == ["left", "to", "do", "108", "110", clock(7200 + 4 * 37.5), "4,005.00"]


def test_what_is_not_expected_of_weights_is_told_below(tmp_path: Path) -> None:
    """Of a pruned file, to the stage that starts from it: its zeros don't stay. In full, and once."""
    state = build_model(Model(name="digits_cnn")).state_dict()
    state["6.weight"][:64] = 0
    torch.save({"model_state_dict": state}, tmp_path / "w.pth")
    path = str(config(tmp_path, ("digits_cnn}", f"digits_cnn, weights: {tmp_path / 'w.pth'}}}")))
    found = planning.make(*load(path))[1]
    notes = {row["name"]: row["notes"] for row in planview.as_json(found, {}, "GPU")["stages"]}
    assert [name for name in notes if notes[name]] == ["dense"]
    (note,) = notes["dense"]
    assert note.startswith("32,768 of the 71,568 weights in ")
    assert "a `train` stage does not hold them" in note
    text = " ".join(" ".join(shown(planview.as_table(found, {}, "GPU"))).split())
    assert text.count(f"dense: {note}".replace(str(tmp_path), "")[-60:]) == 1


def test_where_all_is_done_nothing_is_left(tmp_path: Path) -> None:
    """No such row."""
    found = [planned for planned in plan(tmp_path, dense=11.0, half=22.0) if planned.state == "cached"]
    assert len(shown(planview.as_table(found, {}, "GPU"))) == 1 + len(found)


def shown(table: Table) -> list[str]:
    """A table's lines."""
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_graph_has_all_nodes_and_edges(tmp_path: Path) -> None:
    """In Graphviz's language: boxes train, ellipses choose, and what is done is green."""
    found = plan(tmp_path, dense=11.0)
    text = planview.dot(found)
    edges = set(re.findall(r'^  "([^"]+)" -> "([^"]+)";$', text, re.MULTILINE))
    assert edges == {(parent, planned.node.name) for planned in found for parent in planned.node.parents}
    nodes = dict(re.findall(r'^  "([^"]+)" \[(.*)\];$', text, re.MULTILINE))
    assert set(nodes) == {planned.node.name for planned in found}
    assert {name for name, style in nodes.items() if "ellipse" in style} == {"best", "least"}
    assert {name for name, style in nodes.items() if "palegreen" in style} == {"dense"}
    assert r'label="v1.5-quarter\n4x\nrun"' in nodes["v1.5-quarter"]
    assert text.startswith("digraph plan {")
    assert text.endswith("}")

"""A plan as a table, as JSON and as a graph, with times estimated from what is done."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import plan as planning
from pipeline import planview
from pipeline.config import load
from pipeline.plan import Planned
from pipeline.view import clock
from tests.pipeline.common import artefact, extended

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


def test_nothing_done_gives_no_estimates(tmp_path: Path) -> None:
    """There are no steps to go by."""
    assert planview.seconds(plan(tmp_path)) == {}


def test_estimates_go_by_the_steps_of_what_is_alike(tmp_path: Path) -> None:
    """All of them together: 33 s for 88 steps. Another batch is not alike; what is done or only chooses has none."""
    found = planview.seconds(plan(tmp_path, dense=11.0, half=22.0))
    assert found == pytest.approx(
        {"v1.5-quarter": 2 * 33 / 88, "other": 2 * 33 / 88, "least": 2 * 33 / 88, "long": 100 * 33 / 88}
    )


def test_a_choices_own_time_counts_for_nothing(tmp_path: Path) -> None:
    """It has no steps."""
    without = planview.seconds(plan(tmp_path, dense=11.0, half=22.0, other=11.0))
    assert planview.seconds(plan(tmp_path, best=5.0)) == without


def test_json_has_all_there_is(tmp_path: Path) -> None:
    """Rates as they are where a stage is done, and as they are asked for elsewhere; nothing is made up."""
    rows = {row["name"]: row for row in planview.as_json(plan(tmp_path, dense=11.0, half=22.0))}
    assert json.loads(json.dumps(rows)) == rows
    best, half, quarter = rows["best"], rows["half"], rows["v1.5-quarter"]
    assert (best["kind"], best["parents"], best["state"]) == ("select", ["half", "other"], "run")
    assert [best[name] for name in ("rate", "epochs", "steps", "estimated_seconds")] == [None] * 4
    assert (half["state"], half["rate"], half["estimated_seconds"]) == ("cached", 2.0, None)
    assert quarter["rate"] == pytest.approx(4.0, rel=1e-3)
    assert (quarter["epochs"], quarter["steps"]) == (2, 2)
    assert (rows["least"]["kind"], rows["least"]["epochs"]) == ("search", 2)


def test_a_table_has_a_line_a_stage(tmp_path: Path) -> None:
    """Reasons as they are, brackets included; times on a clock."""
    found = plan(tmp_path, dense=11.0, half=22.0)
    console = Console(file=io.StringIO(), width=160)
    console.print(planview.as_table(found))
    assert isinstance(console.file, io.StringIO)
    head, *lines = console.file.getvalue().splitlines()
    assert head.split() == ["stage", "key", "state", "rate", "epochs", "estimate", "why"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == [planned.node.name for planned in found]
    assert rows["best"][1:] == ["run", "not", "run", "yet"]
    assert rows["long"][1:] == ["run", "4.00x", "100", clock(37.5), "not", "run", "yet"]


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

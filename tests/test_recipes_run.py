"""A whole run of recipes on real Ray processes: a beam of three, a ladder and a search after it, two lanes."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.files.folder import Folder
from tests.pipeline.choices.test_select import by_the_paper
from tests.running import dualprune, json_of, stage

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1800)]

CONFIG = """
name: recipes
cluster: {workers: 1}
model: {name: digits_cnn}
data: {source: digits, mean: [0.3], std: [0.38], shift: 1}
monitor: {wandb: disabled}
stages:
  - {name: dense-0, kind: train, train: {epochs: 4, lr: 0.004}}
  - {name: dense-1, kind: train, train: {epochs: 4, lr: 0.004}, seed: 1}
  - {name: dense, kind: select, parents: [dense-0, dense-1]}
  - name: small
    kind: prune
    parent: dense
    constraints: [{set: cardinality, tensors: "*"}]
    admm: &admm {updates: 1, lr: 0.002, rho: 0.01}
    retrain: &retrain {epochs: 1, lr: 0.002}
    beam: {pool: [2, 2.5, 3], targets: [4, 6]}
  - name: rungs
    kind: prune
    parent: small
    constraints: [{set: cardinality, tensors: "[068].weight"}, {set: cardinality, tensors: "2.weight", rate: [7, 8]}]
    admm: *admm
    retrain: *retrain
    ladder: [8, 10]
  - name: least
    kind: prune
    parent: small
    constraints: [{set: cardinality, tensors: "6.weight", rate: 7}]
    admm: *admm
    retrain: *retrain
    search: {tolerance: 3, trials: 3, most: 64}
"""
POOL = ["small-2x", "small-2.5x", "small-3x"]
TARGETS = ["small-4x", "small-6x"]
ROUNDS = [POOL, *([f"{target}-{place}" for place in "abc"] for target in TARGETS)]
TRAINED = [name for round_ in ROUNDS for name in round_]


class Run(NamedTuple):
    """A finished run."""

    folder: Path
    lines: list[str]

    def artefact(self, name: str) -> Artefact:
        """Of a stage."""
        return artefact.load(Folder(str(self.folder / "runs" / stage(self.lines, name)["key"])))

    def trained(self, name: str) -> str:
        """The stage that trained what a stage has: itself, or whatever its choices go back to."""
        while (chosen := self.artefact(name).manifest.get("chosen")) is not None:
            name = chosen["name"]
        return name

    def lineage(self, name: str) -> list[str]:
        """Trained stages up to one, without the dense ones."""
        name = self.trained(name)
        parents = self.artefact(name).manifest["parents"]
        return [*self.lineage(parents[0]["name"]), name] if parents else []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Finished, in a folder of its own."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "recipes.yaml").write_text(CONFIG)
    code, lines = dualprune(folder, "run", "recipes.yaml", "--json")
    assert code == 0, "\n".join(lines)
    return Run(folder, lines)


def test_the_graph_is_the_papers(run: Run) -> None:
    """Each candidate started from the pool's member that validation accuracies give, and kept its mask."""
    accuracies = {name: stage(run.lines, name)["val_accuracy"] for name in TRAINED}
    started, best = by_the_paper(POOL, TARGETS, accuracies)
    for name, member in started.items():
        parent = run.artefact(name).manifest["parents"][0]["name"]
        assert run.trained(parent) == member
        child, before = run.artefact(name).holds, run.artefact(member).holds
        assert all(bool((child[tensor] <= before[tensor]).all()) for tensor in child)
        assert sum(float(mask.sum()) for mask in child.values()) < sum(float(mask.sum()) for mask in before.values())
    assert [run.artefact(target).manifest["chosen"]["name"] for target in TARGETS] == best


def test_candidates_overlap_where_there_is_room(run: Run) -> None:
    """Two lanes are up from the start, for two dense stages; from then on two of each round's three run at once."""
    began, ended, lane_of = {}, {}, {}
    for log in (run.folder / "runs" / "logs").glob("recipes/*/lane-*-rank-0.log"):
        for line in log.read_text().splitlines():
            if match := re.search(r"^(\S+ \S+) INFO root: (\S+?)(?: (begins) on rank 0|: done)", line):
                when = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f")
                (began if match[3] else ended)[match[2]] = when
                lane_of[match[2]] = log.name
    assert len(set(lane_of.values())) == 2
    up = max(min(began[name] for name in began if lane_of[name] == lane) for lane in set(lane_of.values()))
    rounds = [names for names in ROUNDS if min(began[name] for name in names) >= up]
    assert rounds
    for names in rounds:
        overlapping = [
            (one, other)
            for one in names
            for other in names
            if lane_of[one] < lane_of[other] and began[one] < ended[other] and began[other] < ended[one]
        ]
        assert overlapping, {name: (lane_of[name], began[name], ended[name]) for name in names}


def test_a_beam_costs_less_than_separate_runs(run: Run) -> None:
    """Of separate runs from dense to each of its results, each as long as that result was trained for in all."""
    steps = {name: run.artefact(name).manifest["metrics"]["steps"] for name in TRAINED}
    together = sum(steps.values())
    separate = sum(steps[name] for one in TRAINED for name in run.lineage(one))
    assert together < separate


def test_a_choice_is_what_it_chose(run: Run) -> None:
    """The same bytes, and no training of its own."""
    one = run.artefact("dense").manifest
    dense = [stage(run.lines, name) for name in ("dense-0", "dense-1")]
    best = max(dense, key=lambda row: row["val_accuracy"])
    assert one["chosen"] == {"name": best["name"], "key": best["key"]}
    assert one["files"] == run.artefact(best["name"]).manifest["files"]
    assert one["metrics"]["steps"] == 0


def test_a_ladder_after_a_beam(run: Run) -> None:
    """It starts from the beam's last target, and each rung has its own amounts."""
    sizes = {"0.weight": 144, "2.weight": 4608, "6.weight": 65536, "8.weight": 1280}
    for name, parent, rates in (("rungs-8x", "small-6x", (8, 7)), ("rungs-10x", "rungs-8x", (10, 8))):
        found = run.artefact(name)
        assert found.manifest["parents"][0]["name"] == parent
        for tensor, size in sizes.items():
            assert int(found.network[tensor].count_nonzero()) == size // rates[tensor == "2.weight"]


def test_a_search_keeps_its_promise(run: Run) -> None:
    """The harshest trial that held is its result; each trial started from the harshest before it that had held."""
    reference = stage(run.lines, "small-6x")["val_accuracy"]
    rows: list[dict[str, Any]] = [row for row in json_of(run.lines)["stages"] if row["name"].startswith("least@")]
    held = {float(row["name"].partition("@")[2]) for row in rows if row["val_accuracy"] >= reference - 3}
    assert [row["name"] for row in rows][:2] == ["least@1", "least@64"]
    assert run.artefact("least").manifest["chosen"]["name"] == f"least@{max(held):.4g}"
    assert stage(run.lines, "least")["val_accuracy"] >= reference - 3
    for row in rows:
        factor = float(row["name"].partition("@")[2])
        left = int(run.artefact(row["name"]).network["6.weight"].count_nonzero())
        assert left == pytest.approx(65536 / 7 / factor, abs=2, rel=1e-3)


def test_again_runs_nothing(run: Run) -> None:
    """Neither stages nor choices nor trials."""
    code, output = dualprune(run.folder, "run", "recipes.yaml", "--json")
    assert code == 0
    before, after = ({row["name"]: row for row in json_of(lines)["stages"]} for lines in (run.lines, output))
    assert list(before) == list(after)
    assert {row["state"] for row in after.values()} == {"cached"}
    assert not any(line.startswith("logs: ") for line in output)

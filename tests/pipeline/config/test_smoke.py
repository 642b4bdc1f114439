"""A configuration in small: what shrinks, what stays, that it shares no key; one whole run of every kind of stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.choices.search import Search
from dualprune.pipeline.choices.select import Replace, Select
from dualprune.pipeline.config import load as configuration
from dualprune.pipeline.config.load import Config, load
from dualprune.pipeline.config.smoke import STEPS, UPDATES, smoke
from dualprune.pipeline.dag import trained
from dualprune.pipeline.plan import make as planning
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.kinds.quantize import QuantizeSpec
from dualprune.stages.kinds.shrink import ShrinkSpec
from dualprune.stages.kinds.table import phases
from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.settings.training import StageSpec
from tests.pipeline.common import extended
from tests.running import dualprune, json_of

ENTRIES = """\
- name: levels
  kind: quantize
  parent: half
  constraints: [{set: levels, tensors: "*", bits: 3}]
  admm: {updates: 5, epochs: 2, lr: 1e-3, rho: 3e-3}
  snap: {rounds: 6, share: 0.4, epochs: 2, lr: 1e-3}
  retrain: {epochs: 0, lr: 1e-3}
- name: shared
  kind: quantize
  parent: half
  constraints: [{set: clusters, tensors: "*", count: 8}]
  admm: {updates: 1, epochs: 2, lr: 1e-3, rho: 3e-3}
  centroids: {epochs: 9, lr: 1e-3}
- name: small
  kind: prune
  parent: dense
  constraints: [{set: cardinality, tensors: "*"}]
  admm: *admm
  retrain: *retrain
  beam: {pool: [2, 3], targets: [4]}
- name: least
  kind: prune
  parent: dense
  batch: 2
  constraints: [{set: cardinality, tensors: "*", rate: 2}]
  admm: *admm
  retrain: *retrain
  search: {tolerance: 0.5, trials: 9, most: 8}
- name: narrow
  kind: prune
  parent: dense
  constraints: [{set: filter, tensors: "*", macs: 0.5, coupled: true}]
  admm: *admm
  retrain: *retrain
- name: compact
  kind: shrink
  parent: narrow
  retrain: {epochs: 7, lr: 1e-3}
- name: best
  kind: select
  parents: [half, small]
  budget: {val_accuracy: 99, rate: 1.5}
"""


def every_kind(folder: Path) -> Config:
    """CONFIG with more stages, of every kind."""
    return load(str(extended(folder, ENTRIES)), ["cluster.workers={min: 1, max: 3}", "engine.accumulate=2"])[0]


def test_what_shrinks(tmp_path: Path) -> None:
    """Two steps an epoch, one epoch a phase, two updates, batches of four samples for each of six micro-batches."""
    small = {stage.name: stage.spec for stage in smoke(every_kind(tmp_path)).stages}
    dense, half, levels, shared = (small[name] for name in ("dense", "half", "levels", "shared"))
    assert isinstance(dense, TrainSpec)
    assert isinstance(half, PruneSpec)
    assert isinstance(levels, QuantizeSpec)
    assert isinstance(shared, QuantizeSpec)
    assert (dense.train.epochs, dense.batch, dense.data.limit) == (1, 24, STEPS * 24)
    assert [phase.name for phase in phases(half)] == ["admm", "retrain"]
    assert [phase.name for phase in phases(levels)] == ["admm"] * UPDATES + ["snap"] * 2
    assert [phase.name for phase in phases(shared)] == ["admm", "centroids"]
    for spec in (dense, half, levels, shared, small["compact"]):
        assert isinstance(spec, StageSpec)
        assert all(phase.epochs == 1 for phase in phases(spec))
    least, best = small["least"], small["best"]
    assert isinstance(least, Search)
    assert isinstance(best, Select)
    assert (least.stage.batch, least.stage.data.limit) == (2, STEPS * 2)
    assert (least.trials, least.most, least.tolerance) == (2, 8, 100)
    assert best.budget == {"rate": 1.5}


def without_amounts(config: Config) -> list[Any]:
    """All that a smoke run leaves as it is."""
    gone = {"batch", "admm", "retrain", "train", "snap", "centroids"}
    found = []
    for stage in config.stages:
        spec = trained(stage.spec)
        settings = {} if spec is None else spec.model_dump(exclude=gone)
        settings.get("data", {}).pop("limit", None)
        found.append((stage.name, stage.parents, type(stage.spec), settings))
    return found


def test_what_stays(tmp_path: Path) -> None:
    """Stages, parents, networks, constraints, the cluster; not the store, and no W&B. The given one is as it was."""
    whole = every_kind(tmp_path)
    small = smoke(whole)
    assert without_amounts(small) == without_amounts(whole)
    assert (small.top.cluster, small.top.engine) == (whole.top.cluster, whole.top.engine)
    assert small.top.store == f"{whole.top.store}/smoke"
    assert small.top.monitor.wandb == "disabled"
    assert whole == every_kind(tmp_path)
    assert {type(stage.spec) for stage in small.stages} >= {
        TrainSpec,
        PruneSpec,
        QuantizeSpec,
        ShrinkSpec,
        Search,
        Select,
    }


@pytest.mark.parametrize(("gpus", "precision"), [("0", "fp32"), ("1", "bf16")])
def test_bf16_is_for_gpus(tmp_path: Path, gpus: str, precision: str) -> None:
    config = load(str(extended(tmp_path, "")), ["precision=bf16", f"cluster.gpus={gpus}"])[0]
    assert {trained(stage.spec).precision for stage in smoke(config).stages} == {precision}  # type: ignore[union-attr]


def test_a_place_in_a_pool_is_what_it_was() -> None:
    """It has nothing that could shrink."""
    place = Replace(kind="replace", metric="rate", candidate=1)
    stage = configuration.Stage("pool", ("a", "b", "c"), place, 0, frozenset())
    whole = Config("file.yaml", configuration.Top(name="x", store="s3://bucket/runs/"), (stage,), {})
    small = smoke(whole)
    assert small.stages == (stage,)
    assert small.top.store == "s3://bucket/runs/smoke"


def test_a_limit_that_is_smaller_stays(tmp_path: Path) -> None:
    config = load(str(extended(tmp_path, "")), ["data.limit=5", "batch=4"])[0]
    assert {trained(stage.spec).data.limit for stage in smoke(config).stages} == {5}  # type: ignore[union-attr]


def test_no_key_is_a_real_one(tmp_path: Path) -> None:
    """Not even of a configuration that is as short already."""
    path = str(extended(tmp_path, ENTRIES))
    config, problems = load(path, ["batch=4"])
    real = {p.node.key for p in planning.make(config, problems)[1]}
    small = {p.node.key for p in planning.make(smoke(config), problems)[1]}
    assert len(small) == len(real)
    assert real.isdisjoint(small)


@pytest.mark.slow
def test_a_run(tmp_path: Path) -> None:
    """Of every kind of stage on real Ray processes; again, it runs all again. The store itself is left alone."""
    path = extended(tmp_path, ENTRIES)
    text = re.sub(r"data: \{.*\}", "data: {source: digits, mean: [0.3], std: [0.38]}", path.read_text())
    path.write_text(text)
    arguments = ("run", str(path), "--smoke", "--json", "--set", "stages.least.batch=64")
    code, lines = dualprune(tmp_path, *arguments)
    assert code == 0, "\n".join(lines)
    rows = {row["name"]: row for row in json_of(lines)["stages"]}
    assert {row["state"] for row in rows.values()} == {"done"}
    assert {"dense", "levels", "shared", "compact", "small-4x", "least@1", "least@8", "least", "best"} <= set(rows)
    assert rows["half"]["rate"] == pytest.approx(2, rel=1e-3)
    assert Folder(str(tmp_path / "store")).names() == ["smoke"]
    code, again = dualprune(tmp_path, *arguments, "--only", "levels")
    assert code == 0, "\n".join(again)
    states = {row["name"]: row["state"] for row in json_of(again)["stages"]}
    assert {name for name, state in states.items() if state == "done"} == {"levels"}

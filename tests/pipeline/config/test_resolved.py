"""A configuration written out loads to the same stages, whatever is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline import dag
from dualprune.pipeline.config.load import RECIPES, read
from dualprune.pipeline.config.resolved import resolved, text
from dualprune.pipeline.config.yamlfile import parse
from tests.pipeline.common import config, extended

ENTRIES = """
- name: rungs
  kind: prune
  parent: dense
  teacher: other
  ladder: [2, 4]
  data: {limit: 50}
  constraints: [{set: cardinality, tensors: "*"}]
  admm: [null, {updates: 2, lr: 1e-3, rho: 1e-3}]
  retrain: {epochs: 1, lr: 1e-3}
  distill: {weight: 0.5}
- name: pool
  kind: prune
  parent: rungs
  beam: {pool: [6, 7], targets: [8, 9]}
  constraints: [{set: cardinality, tensors: "*"}]
  admm: {updates: 2, lr: 1e-5, rho: 1e-3}
  retrain: {epochs: 1, lr: 1e-3}
- name: found
  kind: prune
  parent: dense
  search: {tolerance: 1, trials: 3, most: 4}
  constraints: [{set: cardinality, tensors: ["8.*", "!0.*"], keep: 0.5}]
  admm: null
  retrain: {epochs: 1, lr: 1e-3}
- {name: bits, kind: quantize, parent: half, constraints: [{set: levels, tensors: "*", bits: 3}],
   admm: {updates: 1, lr: 1e-3, rho: 1e-3}}
- {name: best, kind: select, parents: [rungs, pool, found], budget: {nonzeros: 30000}}
"""


def keys(path: str, overrides: list[str] | None = None) -> dict[str, str]:
    """Of all stages, by name; data is taken as it is named."""
    draft = read(path, overrides)
    draft.problems.stop()
    nodes = dag.build(draft.stages, lambda spec: (str(spec.data.origin), str(spec.data.origin)))
    return {node.name: node.key for node in nodes}


def again(path: str, folder: Path, overrides: list[str] | None = None) -> dict[str, str]:
    """Keys of what a file is written out as."""
    written = folder / "written.yaml"
    written.write_text(text(resolved(path, overrides)))
    return keys(str(written))


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.yaml")))
def test_recipes(tmp_path: Path, name: str) -> None:
    assert again(name, tmp_path) == keys(name)


def test_all_sorts_of_entries(tmp_path: Path) -> None:
    path = str(extended(tmp_path, ENTRIES))
    assert len(keys(path)) > 15
    assert again(path, tmp_path) == keys(path)


def test_overrides_are_in_it(tmp_path: Path) -> None:
    """Those of all stages, and those of one."""
    overrides = ["seed=3", "stages.half.batch=32", "cluster.workers=2", "model.weights={file: w.pth, skip: '8.*'}"]
    path = str(config(tmp_path))
    assert again(path, tmp_path, overrides) == keys(path, overrides) != keys(path)
    found = resolved(path, overrides)
    assert (found["seed"], found["cluster"]["workers"]) == (3, {"min": 2, "max": 2})
    assert [one["batch"] for one in found["stages"] if "batch" in one] == [32]


def test_defaults_are_in_it(tmp_path: Path) -> None:
    found = resolved(str(config(tmp_path)))
    assert (found["precision"], found["data"]["crop"], found["retry"]["lost"]) == ("fp32", 224, 3)
    assert found["stages"][1]["admm"]["schedule"] == "constant"


@pytest.mark.parametrize("value", ["010", "0o17", "1:30", "yes", "1e3", "1_000", "null", "~", "2024-01-01", "", "a: b"])
def test_texts_stay_texts(value: str) -> None:
    """Also those that are numbers in one kind of YAML and not in another."""
    found: dict[str, Any] = {"name": value, "list": [1e-05, 3, True, None, 0.1]}
    assert parse(text(found), "")[0] == found

"""Whatever stands in whatever place of a configuration: it is taken, or refused with its place, and never a traceback.

The files are made: each value of each recipe, and of one file with every setting that there is, is replaced by
one of each wrong kind in turn.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from dualprune.pipeline.choices.search import Search
from dualprune.pipeline.choices.select import Select
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.load import RECIPES, drafted, load
from dualprune.pipeline.config.problems import ConfigError, Problems
from dualprune.pipeline.config.recipes import Beam
from dualprune.pipeline.config.schema import Top
from dualprune.pipeline.config.yamlfile import Path as Place
from dualprune.pipeline.config.yamlfile import parse
from dualprune.pipeline.output import BAD_INPUT, DONE
from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.sets import SETS
from tests.kinds import KINDS_SAID
from tests.pipeline.common import config

EVERYTHING = """
name: everything
store: ./runs
cluster: {address: null, workers: {min: 1, max: 2}, cpus: 1, gpus: 0, lanes: 2}
engine: {zero: 1, offload: false, accumulate: 1, evaluate: 100, checkpoint_steps: 10, threads: 1, compile: false}
retry: {lost: 3, preempted: 2, passing: 3, nonfinite: 0}
monitor: {wandb: disabled, project: mine, upload: true, tensorboard: false}
model: {name: digits_cnn, args: {}, classes: 10, weights: {file: w.pt, skip: "8.*"}, sha256: null}
data:
  source: mnist
  args: {}
  cut: {val: 0.1, test: 0.1, seed: 0}
  folder: ./mnist
  shards: null
  mean: [0.3]
  std: [0.38]
  shift: 1
  flip: true
  limit: 1000
  crop: 8
  resize: 8
  scale: [0.5, 1]
  ratio: [0.9, 1.1]
  randaugment: {operations: 1, magnitude: 3}
  decode: cpu
  window: 4
  max_pixels: 1000
  bad: 0.1
  workers: 1
  cache: 1000
seed: 1
batch: 64
precision: fp32
smoothing: 0.1
objective: {name: classify, args: {}}
mix: {mixup: 0.2, cutmix: 1}
optimizer: {name: sgd, momentum: 0.8, weight_decay: 1e-4, clip: 1}
stages:
  - name: dense
    kind: train
    train: {epochs: 1, lr: 0.1, schedule: step, every: 0.5, factor: 0.2, ema: 0.9, sam: {radius: 0.1, adaptive: true}}
    recalibrate: null
  - name: filters
    kind: prune
    parent: dense
    teacher: dense
    constraints:
      - {set: filter, tensors: ["0.weight", "!8.*"], layers: Conv2d, count: 12}
      - {set: cardinality, tensors: "[268].weight", rate: 2, scope: global, floor: 2, scale: rms}
    admm: {updates: 2, epochs: 1, interval: 3, lr: 0.1, schedule: cosine, every: null, factor: 0.1, lr_restart: false,
      rho: 0.1, rho_growth: 1.5, rho_balance: false, rho_schedule: null, rate_from: null, ramp: 0.75, sg: true,
      weigh: null, tolerance: 0.1}
    retrain: {epochs: 1, lr: 0.1}
    regrow: true
    duals: carry
    distill: {weight: 0.5, temperature: 3, maps: 1, hidden: {weight: 2, modules: ["*"], layers: [Linear]},
              attention: {layers: [Linear]}}
  - name: blocks
    kind: prune
    parent: dense
    constraints:
      - {set: block, tensors: "8.weight", keep: 0.5, p: 2, q: 2}
      - {set: nm, tensors: "6.weight", n: 2, m: 4}
      - {set: lowrank, tensors: "2.weight", rank: 4, energy: null, view: spatial}
    admm: null
    retrain: {epochs: 1, lr: 0.1}
  - name: heads
    kind: prune
    parent: dense
    constraints: [{set: head, tensors: "6.weight", keep: 0.5, heads: 2, parts: 1}]
    admm: null
    retrain: {epochs: 1, lr: 0.1}
  - name: coupled
    kind: prune
    parent: dense
    constraints: [{set: filter, tensors: "*", macs: 0.5, coupled: true, multiple: 8}]
    admm: null
    retrain: {epochs: 1, lr: 0.1}
  - name: narrow
    kind: shrink
    parent: coupled
    multiple: 8
    blocks: {remove: 1, samples: 100}
    resolution: 6
    retrain: {epochs: 1, lr: 0.1}
    distill: {weight: 0.5}
  - name: narrower
    kind: shrink
    parent: narrow
    constraints: [{set: channel, tensors: "*", keep: 0.5, coupled: true}]
  - name: closed
    kind: gates
    parent: dense
    constraints: [{tensors: "*"}]
    macs: 0.5
    weights: null
    train: {epochs: 1, lr: 0.1}
    ramp: 0.4
    interval: 2
    distill: {weight: 0.5}
  - name: found
    kind: joint
    parent: dense
    constraints: [{tensors: "*"}]
    macs: 0.5
    resolutions: [6]
    train: {epochs: 1, lr: 0.1}
    pairs: 2
    rate: 0.1
    weight: 1.0
    distill: {weight: 0.5}
  - name: shot
    kind: layerwise
    parent: dense
    constraints: [{set: cardinality, tensors: "*", rate: 2}]
    samples: 8
    iterations: 10
    damping: 0.1
  - name: scored
    kind: scores
    parent: dense
    constraints: [{set: filter, tensors: "*"}]
    macs: 0.5
    train: {epochs: 1, lr: 0.1}
    scores_lr: 0.1
  - name: part
    kind: partial
    parent: dense
    constraints: [{tensors: "*", share: 0.5, strength: 0.1}]
    train: {epochs: 1, lr: 0.1}
    interval: 2
    distill: {weight: 0.5}
  - name: low
    kind: trp
    parent: dense
    constraints: [{tensors: "*", energy: 0.1, view: spatial}]
    train: {epochs: 1, lr: 0.1}
    interval: 2
    nuclear: 0.001
    distill: {weight: 0.5}
  - name: rungs
    kind: prune
    parent: dense
    constraints: [{set: cardinality, tensors: "*"}]
    admm: [{updates: 1, lr: 0.1, rho: 0.1}, null]
    retrain: {epochs: [1, 2], lr: 0.1}
    ladder: [2, 4]
  - name: wide
    kind: prune
    parent: dense
    constraints: [{set: cardinality, tensors: "*"}]
    admm: {updates: 1, lr: 0.1, rho: 0.1}
    retrain: {epochs: 1, lr: 0.1}
    beam: {pool: [2.5, 3.5], targets: [4.5, 5], metric: rate}
  - name: least
    kind: prune
    parent: dense
    constraints: [{set: cardinality, tensors: "*", rate: 2}]
    admm: null
    retrain: {epochs: 1, lr: 0.1}
    search: {tolerance: 0.5, trials: 5, most: 4}
  - name: best
    kind: select
    parents: [rungs, wide, least]
    metric: rate
    budget: {val_accuracy: 90, milliseconds: 5}
    latency: {machine: fast, backend: torch, device: cpu, batch: 1, threads: 1}
  - name: bits
    kind: quantize
    parent: best
    constraints: [{set: levels, tensors: "*", levels: power, bits: 3}]
    admm: {updates: 1, lr: 0.1, rho: 0.1}
    snap: {rounds: 2, share: 0.3, epochs: 1, lr: 0.1}
    retrain: {epochs: 1, lr: 0.1}
  - name: shared
    kind: quantize
    parent: best
    constraints: [{set: clusters, tensors: "*", count: 8}]
    admm: {updates: 1, lr: 0.1, rho: 0.1}
    centroids: {epochs: 1, lr: 0.1}
    retrain: {epochs: 1, lr: 0.1}
    distill: {weight: 0.5}
"""
WRONG = {
    "mapping": {"no": "such"},
    "list": ["x", 1],
    "number": 7,
    "truth": True,
    "text": "such",
    "null": None,
    "date": datetime.date(2024, 1, 1),
    "very long": "x" * 5000,
    "non-ASCII": "ü数\u202e\udcff\n",
}
ODD = WRONG | {
    "empty mapping": {},
    "list of lists": [["x"], {"y": [None]}],
    "empty list": [],
    "other number": -3.5,
    "large number": 10**99,
    "infinity": float("inf"),
    "empty text": "",
}
"""For the one file with everything in it."""
FILES = {file.stem: file.read_text() for file in RECIPES.glob("*.yaml")} | {"all": EVERYTHING}


def places(value: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """All values, mappings and lists among them, and where they stand."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, one in inner:
        yield (*at, part), one
        yield from places(one, (*at, part))


def replaced(value: Any, at: Place, other: Any) -> Any:
    """The same with another value at a place."""
    if not at:
        return other
    copy = value.copy()
    copy[at[0]] = replaced(value[at[0]], at[1:], other)
    return copy


def dotted(at: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def told(raw: dict[str, Any], lines: dict[Place, int]) -> list[str]:
    """What is wrong with a file's values, in so many words as fit on a screen, in characters that can be printed."""
    found: list[str] = []
    try:
        drafted(raw, Problems("file.yaml", lines, {})).sound()
    except ConfigError as error:
        found = error.problems or ["nothing"]
    assert all(len(problem) < 4200 for problem in found)
    return found


OTHERS: Mapping[str | int, type] = {"weights": str, "tensors": str, "layers": str, "modules": str}
"""What may stand in other places as well: a text for several, or for {file, skip}. Elsewhere it is a number, for a
ladder's targets, {min, max} or {weight, ...}."""


def sort(value: Any) -> type:
    """What YAML has a value for: a mapping, a list, a number, text, ..."""
    return float if type(value) is int else type(value)


@pytest.mark.parametrize(
    "file",  # that with every setting says what recipes do
    [pytest.param(file, marks=[pytest.mark.soak] * (file not in ("all", "digits"))) for file in FILES],
)
def test_every_place_takes_or_refuses_everything(file: str) -> None:
    """What is of another type than what stands there is refused, and blamed itself, whatever else is wrong then."""
    raw, lines = parse(FILES[file], "file.yaml")
    assert told(raw, lines) == []
    for at, before in places(raw):
        if "args" in at[:-1]:
            continue  # what is right there, the network or the objective knows
        heads = tuple(dotted(at[:length]) for length in range(1, len(at) + 1))
        for kind, other in (ODD if file == "all" else WRONG).items():
            found = told(replaced(raw, at, other), lines)
            if before is None or other is None or sort(other) is sort(before):
                continue  # such a value may be taken, and others may depend on it
            if not found:
                assert isinstance(before, list | dict), (at, kind)
                assert sort(other) is OTHERS.get(at[-1], float), (at, kind)
            else:
                assert any(problem.partition(": ")[2].startswith(heads) for problem in found), (at, kind, found[:3])


def fields(model: Any) -> Iterator[str]:
    """Names of a model's settings and of those within them."""
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, Settings):
                yield from fields(inner)


def test_the_file_with_everything_has_every_setting() -> None:
    """So that a new one is put into it."""
    raw, _ = parse(EVERYTHING, "file.yaml")
    said = {part for at, _ in places(raw) for part in at if isinstance(part, str)}
    models: list[Any] = [Top, Beam, Select, *(kind.settings for kind in KINDS.values()), *SETS.values()]
    lacking = {name for model in models for name in fields(model)} - said
    assert lacking == set()
    assert Search.model_fields.keys() - said == {"stage"}


@pytest.mark.parametrize("key", ["1", "null", "~", "no", "2024-01-01", "1.5", "''", "ü", "x" * 900, "{a: b}", "[a]"])
def test_a_key_may_be_anything(key: str, tmp_path: Path) -> None:
    """It is an unknown setting, wherever it stands, or no key at all."""
    file = tmp_path / "file.yaml"
    for place in ("cluster: {", "optimizer: {", "train: {", "- {set: filter, ", "search: {", "budget: {", "beam: {"):
        assert place in EVERYTHING
        file.write_text(EVERYTHING.replace(place, f"{place}{key}: 1, ", 1))
        with pytest.raises(ConfigError) as caught:
            load(str(file))
        (found,) = caught.value.problems
        number = file.read_text()[: file.read_text().index(place)].count("\n") + 1
        assert found.startswith(f"file.yaml:{number}: ")
        assert "unknown setting" in found or "a key must be a plain value" in found or ".budget." in found


@pytest.mark.parametrize(
    "place",
    [
        *("name", "store", "data", "data.shards", "model.name", "model.weights", "cluster.address", "stages"),
        *("stages.dense.kind", "stages.half.parent", "stages.half.constraints.0.set"),
    ],
)
def test_the_command_line_takes_or_refuses_everything(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what is sound as a setting, and fails where it is used: places that are none, names too long for files."""
    monkeypatch.chdir(tmp_path)
    file = str(config(tmp_path))
    for kind, other in WRONG.items():
        value = other.isoformat() if isinstance(other, datetime.date) else json.dumps(other)
        code = cli.main(["plan", file, "--set", f"{place}={value}"])
        said = capsys.readouterr().err
        assert code in (BAD_INPUT, DONE), (kind, said)
        assert code == DONE or 0 < len(said) < 12_000, (kind, len(said))


def test_the_real_command_line_refuses_a_mapping_for_a_word(tmp_path: Path) -> None:
    """With exit code 2 and the place, and no traceback."""
    file = config(tmp_path, ("kind: train", "kind: {no: such}"))
    found = subprocess.run(
        [sys.executable, "-m", "dualprune", "plan", str(file)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == BAD_INPUT
    assert f"file.yaml:10: stages[0].kind: must be one of {KINDS_SAID}, not {{'no': 'such'}}" in found.stderr
    assert "Traceback" not in found.stderr

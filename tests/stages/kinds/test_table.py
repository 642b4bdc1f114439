"""The table of kinds: what holds of each of its lines, and a new line from outside that works like the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import torch
from pydantic import Field, ValidationError

from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.stages.artefacts import artefact
from dualprune.stages.coupling.cut import Cut, cut
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import Kind, Phase, Row, State
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.job import StageJob, key_material
from dualprune.stages.kinds.table import KINDS, parse, phases
from dualprune.stages.networks.build import build_model
from dualprune.stages.settings.training import Model, StageSpec, Training
from dualprune.stages.training.run import Run
from dualprune.stages.training.stage import run_stage
from tests.kinds import STAGES_SAID
from tests.pipeline.common import extended
from tests.stages.conftest import MakeTask

EXAMPLES: dict[str, dict[str, Any]] = {
    "train": {"train": {"epochs": 2, "lr": 0.1}},
    "prune": {
        "constraints": [{"set": "cardinality", "tensors": "*", "rate": 4}],
        "admm": {"updates": 2, "lr": 0.1, "rho": 0.1},
        "retrain": {"epochs": 1, "lr": 0.1},
    },
    "shrink": {"retrain": {"epochs": 1, "lr": 0.1}},
    "quantize": {
        "constraints": [{"set": "levels", "tensors": "*", "bits": 3}],
        "admm": {"updates": 2, "lr": 0.1, "rho": 0.1},
        "snap": {"rounds": 2, "lr": 0.1},
    },
    "partial": {
        "constraints": [{"tensors": "*", "share": 0.5, "strength": 0.01}],
        "train": {"epochs": 2, "lr": 0.1},
    },
    "gates": {"constraints": [{"tensors": "*"}], "macs": 0.5, "train": {"epochs": 2, "lr": 0.1}},
    "joint": {"constraints": [{"tensors": "*"}], "macs": 0.5, "train": {"epochs": 2, "lr": 0.1}},
    "scores": {
        "constraints": [{"set": "filter", "tensors": "*"}],
        "macs": 0.5,
        "train": {"epochs": 2, "lr": 0.1},
    },
    "trp": {"constraints": [{"tensors": "*", "energy": 0.1}], "train": {"epochs": 2, "lr": 0.1}},
    "layerwise": {
        "constraints": [{"set": "cardinality", "tensors": "*", "rate": 4}],
        "retrain": {"epochs": 1, "lr": 0.1},
    },
}
"""The least of each kind's settings. A new kind needs one here."""


@cache
def parted() -> Cut:
    """What can be cut of their network."""
    return cut(build_model(Model(name="digits_cnn")), (torch.zeros(2, 1, 8, 8),), {})


def example(kind: str) -> StageSpec:
    """Settings of a kind."""
    common = {"kind": kind, "model": {"name": "digits_cnn"}, "data": {"source": "digits"}}
    return parse(common | EXAMPLES[kind])


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_keeps_the_contract(name: str) -> None:
    kind, spec = KINDS[name], example(name)
    assert type(spec) is kind.settings
    assert get_args(kind.settings.model_fields["kind"].annotation) == (name,)
    assert set(kind.varies) <= set(kind.settings.model_fields) - set(StageSpec.model_fields)
    plan = phases(spec)
    assert plan
    assert all(isinstance(phase, Phase) and phase.epochs > 0 for phase in plan)
    remembered = json.loads(json.dumps(asdict(kind.state())))
    assert kind.state(**remembered) == kind.state()
    assert key_material(spec, "data", [])["method"] == kind.version
    room = check(spec, parted)
    assert bool(room.kinds) == bool(kind.constraints(spec))
    assert kind.regrows(spec) is False
    assert not kind.prunes or room.rate > 1
    assert parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("settings", [{"kind": "nosuch"}, {"kind": None}, {}, 3, None])
def test_what_is_of_no_kind_is_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=f"kind must be one of {STAGES_SAID}, not"):
        parse(settings)


class NoiseSpec(StageSpec):
    """Gaussian noise on every weight, then training."""

    kind: Literal["noise"]
    sigma: float = Field(gt=0)
    train: Training


@dataclass
class Noisy(State):
    """What is remembered of it."""

    added: float = 0.0
    steps: int = 0


def _start(run: Run[NoiseSpec]) -> None:
    generator = torch.Generator().manual_seed(run.spec.seed)
    for name in run.engine.parameters:
        noise = run.spec.sigma * torch.randn(run.engine.shape(name), generator=generator)
        run.engine.set(name, run.engine.get(name) + noise)
        run.state.added += float(noise.square().sum())


def _stepped(run: Run[NoiseSpec], phase: Phase) -> None:
    run.state.steps += 1


def _leave(run: Run[NoiseSpec], phase: Phase) -> Row:
    return {"noise": run.state.added}


NOISE = Kind(
    settings=NoiseSpec,
    version=1,
    phases=lambda spec: [Phase("train", spec.train.epochs, spec.train)],
    state=Noisy,
    varies=("sigma",),
    start=_start,
    stepped=_stepped,
    leave=_leave,
    facts=lambda run: {"noise": {"added": run.state.added, "steps": run.state.steps}},
)
"""What somebody else would write into a file of theirs."""


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind in the table: the one line."""
    monkeypatch.setitem(KINDS, "noise", NOISE)


def test_a_kind_from_outside_is_configured_and_planned(noise: None, tmp_path: Path) -> None:
    """As a ladder, even, whose targets vary what it lets them; and what is wrong with it has its place."""
    entry = """
    - name: noisy
      kind: noise
      parent: dense
      ladder: [1, 2]
      sigma: [0.1, 0.2]
      train: {epochs: 1, lr: 0.1}
    """
    _, plan = planning.make(*load(str(extended(tmp_path, entry))))
    found = {p.node.name: p.node for p in plan if p.node.name.startswith("noisy")}
    assert {name: node.spec.sigma for name, node in found.items()} == {"noisy-1x": 0.1, "noisy-2x": 0.2}  # type: ignore[union-attr]
    assert found["noisy-2x"].material["method"] == 1
    with pytest.raises(ValidationError):
        parse(example("train").model_dump() | {"kind": "noise"})


def test_a_kind_from_outside_runs_and_resumes(
    noise: None, make_task: MakeTask, one_rank: None, stops_after: Callable[[int], Callable[[], bool]]
) -> None:
    """With its own state in checkpoints, its row, and its word in the manifest."""
    spec = {"kind": "noise", "sigma": 0.05, "train": {"epochs": 2, "lr": 0.01}}
    whole, cut = make_task(spec, store="whole"), make_task(spec, store="cut")
    rows: list[Row] = []
    manifest = run_stage(whole, rows.append)
    assert manifest is not None
    assert manifest["noise"]["steps"] == manifest["metrics"]["steps"] > 0
    assert rows[-1]["noise"] == manifest["noise"]["added"] > 0
    assert run_stage(cut, rows.append, stops_after(3)) is None
    assert run_stage(cut, rows.append) is not None
    one, other = (artefact.load(Folder(task.store) / task.key) for task in (whole, cut))
    assert one.manifest["noise"] == other.manifest["noise"]
    assert all(torch.equal(tensor, other.network[name]) for name, tensor in one.network.items())


@pytest.fixture
def stops_after() -> Callable[[int], Callable[[], bool]]:
    """A function that makes what says after so many times that it is asked that a stage is to stop."""

    def make(times: int) -> Callable[[], bool]:
        asked = iter(range(10**6))
        return lambda: next(asked) >= times

    return make


def test_a_task_of_it_crosses_processes(noise: None, make_task: MakeTask) -> None:
    task = make_task({"kind": "noise", "sigma": 0.05, "train": {"epochs": 2, "lr": 0.01}})
    assert StageJob.model_validate(json.loads(json.dumps(task.model_dump()))) == task

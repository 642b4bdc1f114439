"""What stages constrain, whatever their kind: of each line of the table, and of a kind from outside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from dualprune.pipeline.config.load import load
from dualprune.pipeline.config.problems import ConfigError
from dualprune.pipeline.plan import make as planning
from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.base import Kind, Phase, State
from dualprune.stages.kinds.constrained import check
from dualprune.stages.kinds.table import KINDS, parse
from dualprune.stages.networks.parameters import Parameters
from dualprune.stages.settings.base import Problem, SpecError
from dualprune.stages.settings.sets import Support
from dualprune.stages.settings.training import StageSpec, Training
from dualprune.stages.solver import admm
from dualprune.stages.solver.targets import Targets
from dualprune.stages.training.run import Run
from dualprune.stages.training.stage import run_stage
from tests.pipeline.common import extended
from tests.stages.conftest import MakeTask
from tests.stages.kinds.test_table import EXAMPLES, example


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.constraints(example(name))])
def test_a_kind_that_constrains_tensors_says_where_its_settings_dont_fit(name: str) -> None:
    constraints = EXAMPLES[name]["constraints"]
    spec = parse(example(name).model_dump() | {"constraints": [*constraints, constraints[0] | {"tensors": "nosuch"}]})
    with pytest.raises(SpecError, match=r"^constraints\.1\.tensors: 'nosuch' matches no tensor of digits_cnn"):
        check(spec)


class OnceSpec(StageSpec):
    """The weights are projected as they are, then trained without what that pruned."""

    kind: Literal["once"]
    constraints: list[Support]
    train: Training


def _once(run: Run[OnceSpec]) -> None:
    admm.start(run.engine, run.targets, {})
    run.state.residual = {"total": admm.project(run.engine, run.targets).residual.total}


def _enter(run: Run[OnceSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = True


def _one_tensor(spec: OnceSpec, targets: Targets, parameters: Parameters) -> list[Problem]:
    return [(("constraints",), "the first tensor stays whole")] if next(iter(parameters)) in targets.kinds else []


@dataclass
class Projected(State):
    """What is remembered of it."""

    residual: dict[str, float] | None = None


ONCE = Kind(
    settings=OnceSpec,
    version=1,
    phases=lambda spec: [Phase("train", spec.train.epochs, spec.train)],
    state=Projected,
    varies=("constraints",),
    needs_parent=True,
    constraints=lambda spec: spec.constraints,
    prunes=True,
    check=_one_tensor,
    start=_once,
    enter=_enter,
)
"""A kind that constrains tensors, from outside."""


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the table, with example settings."""
    monkeypatch.setitem(KINDS, "once", ONCE)


LADDER = """
    - name: once
      kind: once
      parent: dense
      ladder: [2, 4]
      constraints:
        - {set: cardinality, tensors: "[!0]*"}
      train: {epochs: 1, lr: 0.1}
    """


def test_a_kind_from_outside_that_constrains_tensors_is_planned_like_a_prune(once: None, tmp_path: Path) -> None:
    """A ladder's targets are its rates, and a plan says what it leaves."""
    _, plan = planning.make(*load(str(extended(tmp_path, LADDER))))
    sizes = {p.node.name: p.size for p in plan if p.node.name.startswith("once")}
    assert {name: size and size.rate and round(size.rate, 2) for name, size in sizes.items()} == {
        "once-2x": 2.0,
        "once-4x": 4.0,
    }
    assert all(size is not None and size.counts is not None for size in sizes.values())


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("[!0]*", "fc*", r"constraints\[0\]\.tensors", r"'fc\*' matches no tensor of digits_cnn"),
        ("[!0]*", "*", "constraints", "the first tensor stays whole"),
        ("[2, 4]", "[4, 2]", "constraints", r"once-2x: asks for \d+ weights .*once-4x leaves only \d+; keep fewer$"),
        ("parent: dense", "parent:", "", "a once needs a `parent`"),
    ],
)
def test_what_is_wrong_with_a_kind_from_outside_has_its_place(
    once: None, tmp_path: Path, old: str, new: str, place: str, words: str
) -> None:
    """Its patterns, its own check, more weights than there are, no parent."""
    with pytest.raises(ConfigError) as caught:
        planning.make(*load(str(extended(tmp_path, LADDER.replace(old, new)))))
    assert any(re.search(rf"stages\[\d\]\.?{place}: .*{words}", problem) for problem in caught.value.problems)


def test_a_kind_from_outside_holds_its_tensors_to_their_sets(once: None, make_task: MakeTask, one_rank: None) -> None:
    """And leaves masks to the stages after it."""
    constraint = {"set": "cardinality", "tensors": "5.*", "rate": 4}
    task = make_task({"kind": "once", "constraints": [constraint], "train": {"epochs": 1, "lr": 0.01}})
    manifest = run_stage(task, lambda row: None)
    assert manifest is not None
    assert manifest["metrics"]["rate"] == pytest.approx(4, rel=0.01)
    assert manifest["metrics"]["residual"] > 0
    found = artefact.load(Folder(task.store) / task.key)
    (name,) = found.holds
    assert torch.equal(found.holds[name], (found.network[name] != 0).float())

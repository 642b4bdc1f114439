"""Objectives of a user's own, by `package.module:NAME`; what they are refused for, with their line; stages for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.blame import origin
from dualprune.pipeline.config.load import load
from dualprune.stages.files.source import source_digest
from dualprune.stages.objectives.base import Objective
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.measure import measure
from dualprune.stages.training.stage import run_stage
from tests.pipeline.common import config, problems
from tests.stages.conftest import MakeTask
from tests.stages.objectives.common import stage
from tests.stages.training.test_stage import prune, quiet

MINE = """\
from torch.nn import functional as F

from dualprune.stages.objectives.base import Metric, Objective

def loss(logits, batch):
    return F.multi_margin_loss(logits, batch["label"], reduction="sum")

def mean_loss(logits, batch):
    return F.multi_margin_loss(logits, batch["label"])

def apart(given, wanted, batch, temperature):
    return (given - wanted).square().sum()

def margin(reduction="sum", share=False, distil=None, best="margin"):
    metric = Metric(mean_loss if share else loss, lambda total, count: total / count, higher=False, unit="")
    return Objective(
        call=lambda network, batch: network(batch["image"]).float(),
        loss=loss if reduction == "sum" else mean_loss,
        good=lambda batch: (batch["label"] >= 0).sum(),
        metrics={"margin": metric},
        best=best,
        distil=apart if distil else None,
    )

def broken():
    return 1 / 0

fixed = margin()
number = 5
"""
TRAIN: dict[str, Any] = {"kind": "train", "train": {"epochs": 4, "lr": 0.01}}
BAD = "import torch\n\nwhat = torch.there_is_no_such_thing\n"


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The file that a user has beside the configuration."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "mytask.py").write_text(MINE)
    (folder / "badtask.py").write_text(BAD)
    monkeypatch.syspath_prepend(str(folder))
    yield str(folder / "mytask.py")
    sys.modules.pop("mytask", None)
    sys.modules.pop("badtask", None)


def refused(name: str, args: dict[str, Any] | None = None, **settings: Any) -> SpecError:
    """How an objective is refused."""
    with pytest.raises(SpecError) as caught:
        objective(stage(name, args, **settings))
    return caught.value


def test_one_is_found_made_or_not() -> None:
    """An `Objective`, or a function that makes one of the arguments."""
    assert isinstance(objective(stage("mytask:fixed")), Objective)
    assert objective(stage("mytask:margin")).distil is None
    assert objective(stage("mytask:margin", {"distil": True})).distil is not None


@pytest.mark.parametrize(
    ("name", "args", "place", "text"),
    [
        ("clasify", {}, "objective", "must be one of classify, multilabel, regress, tokens, landmarks, or `package."),
        ("mytsk:margin", {}, "objective", "there is no module mytsk"),
        ("mytask:margn", {}, "objective", "has no margn"),
        ("mytask:number", {}, "objective", "is no `Objective`, and no function that makes one, but a int"),
        ("mytask:loss", {"logits": 1, "batch": 2}, "objective.name", "mytask:loss raised TypeError"),
        ("mytask:fixed", {"best": "x"}, "objective.args", "takes none: it is no function"),
        ("mytask:margin", {"bets": "x"}, "objective.args", "can't be called with these: got an unexpected keyword"),
        ("mytask:margin", {"best": "x"}, "objective.name", "is chosen by 'x', which is none of its metrics: margin"),
        ("mytask:broken", {}, "objective", "mytask:broken raised ZeroDivisionError: division by zero"),
        ("badtask:what", {}, "objective", "importing badtask raised AttributeError"),
        ("classify", {"smoothing": 1}, "objective.args.smoothing", "unknown setting; there are inputs, output, target"),
        ("regress", {"loss": "l3"}, "objective.args.loss", "must be 'mse', 'mae' or 'huber', not 'l3'"),
        ("regress", {"los": "mse"}, "objective.args.los", "unknown setting; there are inputs, output, target, loss"),
        ("tokens", {"inputs": []}, "objective.args.inputs", "at least 1 item"),
        ("tokens", {"inputs": {"x": 1}}, "objective.args.inputs.x", "valid string, not 1"),
        ("landmarks", {"normalise": [1]}, "objective.args.normalise", "two points are needed, not [1]"),
    ],
)
def test_what_can_not_be_had_is_refused(name: str, args: dict[str, Any], place: str, text: str) -> None:
    """With its place."""
    found = refused(name, args).problems
    assert place in [".".join(map(str, at)) for at, _ in found]
    assert any(text in one for _, one in found), found


def test_errors_of_theirs_have_their_line(mine: str) -> None:
    """Of the import, and of the function."""
    assert origin(refused("mytask:broken")) == f"{mine}:26: return 1 / 0"
    where = mine.replace("mytask", "badtask")
    assert origin(refused("badtask:what")) == f"{where}:3: what = torch.there_is_no_such_thing"
    assert origin(refused("mytask:nothing")) is None


@pytest.mark.parametrize("name", ["regress", "mytask:fixed"])
def test_what_is_for_classification_alone_is_refused(name: str) -> None:
    """Nothing that a user asked for is skipped."""
    text = f"is for `objective: classify`, and this is {name}; leave it out"
    found = refused(name, smoothing=0.1, mix={"mixup": 0.2}).problems
    assert found == [(("smoothing",), text), (("mix",), text)]


def test_a_teacher_needs_a_distance() -> None:
    learns = {**prune(distill={"weight": 0.5}), "train": None}
    assert objective(stage("mytask:margin", {"distil": True}, **learns)).distil
    (found,) = refused("mytask:margin", **learns).problems
    assert found[0] == ("distill",)


def test_a_file_says_what_is_wrong_with_its_line(tmp_path: Path, mine: str) -> None:
    """In a configuration: place in the file, words, and the user's own line."""
    wide = ("data:", 'objective: {name: "mytask:margin", args: {share: false}}\ndata:')
    settings, _ = load(str(config(tmp_path, wide)))
    assert settings.stages[0].spec.objective.name == "mytask:margin"
    (found, *_) = problems(config(tmp_path, ("data:", "objective: mytask:broken\ndata:")))
    assert found.startswith("file.yaml:6: objective: mytask:broken raised ZeroDivisionError")
    assert found.endswith(f", at {mine}:26: return 1 / 0")
    (found, *_) = problems(config(tmp_path, ("data:", "objective: {name: regress, args: {best: f1}}\ndata:")))
    assert found == "file.yaml:6: objective.args.best: must be 'r2', 'mse' or 'mae', not 'f1'"
    (found, *_) = problems(config(tmp_path, ("data:", "objective: 5\ndata:")))
    assert found == "file.yaml:6: objective: a name is needed, or a mapping with `name` and `args`, not 5"


def test_code_that_is_not_what_was_planned_is_refused() -> None:
    """As a network's is."""
    planned = stage("mytask:margin")
    here = planned.objective.model_copy(update={"source": source_digest("mytask")})
    assert objective(planned.model_copy(update={"objective": here})).best
    other = planned.objective.model_copy(update={"source": "0" * 64})
    with pytest.raises(SpecError, match="the code of mytask:margin here is not the code that its stage was planned"):
        objective(planned.model_copy(update={"objective": other}))


def test_a_stage_is_trained_for_one(make_task: MakeTask, shards: str, one_rank: None) -> None:
    """And measured from its artefact alone, by its own metric."""
    task = make_task(
        {
            "kind": "train",
            "objective": {"name": "mytask:margin", "args": {"distil": True}},
            "train": {"epochs": 4, "lr": 0.01},
        }
    )
    manifest = run_stage(task, quiet)
    assert manifest is not None
    assert manifest["metrics"]["val_margin"] < 0.3
    assert manifest["spec"]["objective"] == {"name": "mytask:margin", "args": {"distil": True}}
    measured = measure(f"{task.store}/{task.key}", shards)
    assert measured == {name: pytest.approx(manifest["metrics"][name]) for name in ("val_margin", "test_margin")}


@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize(
    ("args", "text", "line"),
    [
        ({"reduction": "mean"}, "its loss gives ", 8),
        ({"share": True}, "its metric margin gives ", 8),
    ],
)
def test_a_mean_is_noticed_before_training(
    make_task: MakeTask, one_rank: None, mine: str, args: dict[str, Any], text: str, line: int, zero: int
) -> None:
    """With the line where it is computed; no epoch was trained."""
    events: list[dict[str, Any]] = []
    task = make_task({**TRAIN, "objective": {"name": "mytask:margin", "args": args}}, zero=zero)
    with pytest.raises(SpecError) as caught:
        run_stage(task, events.append)
    told = [one for _, one in caught.value.problems if text in one]
    assert len(told) == 1
    assert "where a sum over samples gives twice as much; a sum is needed, no mean" in told[0]
    assert told[0].endswith(f", at {mine}:{line}")
    assert [event["event"] for event in events] == ["training"]


def test_digits_as_numbers_are_pruned_and_distilled(make_task: MakeTask, shards: str, one_rank: None) -> None:
    """A built-in objective from dense to pruned: what is chosen by gets better, and holds; nothing says accuracy."""
    wide = {
        "model": {"name": "noisy", "classes": 1},
        "objective": {"name": "regress", "args": {"inputs": ["image"], "target": "label"}},
    }
    first = run_stage(make_task({"kind": "train", "train": {"epochs": 12, "lr": 0.01}, **wide}, "dense"), quiet)
    assert first is not None
    assert first["metrics"]["val_r2"] > 0.3
    pruned = run_stage(make_task({**prune(2.0, distill={"weight": 0.5}), **wide}, "pruned", "dense"), quiet)
    assert pruned is not None
    assert pruned["metrics"]["rate"] >= 2
    assert pruned["metrics"]["val_r2"] > 0.3
    assert not [name for name in pruned["metrics"] if "accuracy" in name]
    assert pruned["objective"]["best"] == "r2"

"""`dualprune.run`: what the command does, from Python; its results by stage, its errors as exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import dualprune
from dualprune.cluster.errors import ClusterError, ClusterGone
from dualprune.cluster.failures import Failure
from dualprune.pipeline.run import driver
from tests.pipeline.cli.test_main import finished, scripted
from tests.pipeline.common import config

NAMES = ["dense", "half", "v1.5-quarter", "other"]


def given(folder: Path) -> dict[str, Any]:
    """The small configuration as a mapping."""
    values: dict[str, Any] = yaml.safe_load(config(folder).read_text().replace("e-3", ".0e-3"))
    return values


@pytest.mark.parametrize("form", ["path", "text", "mapping"])
def test_results_by_stage(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what their manifests say, and where they are; a mapping stays as it was."""
    scripted(monkeypatch, {})
    finished(tmp_path, "dense")
    path, values = config(tmp_path), given(tmp_path)
    found = dualprune.run({"path": path, "text": str(path), "mapping": values}[form])
    assert values == given(tmp_path)
    assert list(found) == NAMES
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(NAMES, "done") | {"dense": "cached"}
    for one in found.values():
        assert one.artefact == f"{tmp_path}/store/{one.key}"
        assert one.metrics["val_accuracy"] == 97.5
        assert one.why is None
    again = dualprune.run(path)
    assert {one.state for one in again.values()} == {"cached"}
    assert [one.key for one in again.values()] == [one.key for one in found.values()]


def test_some_stages_with_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--only` and `--set` say; others are left out."""
    scripted(monkeypatch, {})
    path = config(tmp_path)
    found = dualprune.run(path, {"stages.dense.train.epochs": 3, "seed": 1}, only="dense")
    states = {name: one.state for name, one in found.items()}
    assert states == dict.fromkeys(NAMES, "left out") | {"dense": "done"}
    assert found["half"].metrics == {}
    assert found["half"].artefact is None
    with pytest.raises(dualprune.ConfigError, match="half needs dense, which is not done"):
        dualprune.run(path, only=["half"])
    forced = dualprune.run(path, {"stages.dense.train.epochs": 3, "seed": 1}, only="dense", force="dense")
    assert forced["dense"].state == "done"


def test_what_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """In the results, and on standard error even where nothing else is shown."""
    scripted(monkeypatch, {"half": [Failure("error", "ValueError Exception", "broke")]})
    found = dualprune.run(config(tmp_path), keep_going=True, quiet=True)
    assert {name: one.state for name, one in found.items()} == {
        "dense": "done",
        "half": "failed",
        "v1.5-quarter": "skipped",
        "other": "done",
    }
    assert "broke" in (found["half"].why or "")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "half failed" in printed.err


def test_bad_input_is_a_config_error(tmp_path: Path) -> None:
    """With all that is wrong, each with its place."""
    values = given(tmp_path)
    values["stages"][1]["constraints"][0]["rate"] = 0.5
    values["sed"] = 1
    with pytest.raises(dualprune.ConfigError) as caught:
        dualprune.run(values)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith("the configuration: 2 problems\n")
    assert any("sed: unknown setting" in problem for problem in caught.value.problems)
    assert any(problem.startswith("stages[1].constraints[0].rate: ") for problem in caught.value.problems)
    with pytest.raises(dualprune.ConfigError, match="there is no such file, and no such recipe"):
        dualprune.run("nothing")
    with pytest.raises(dualprune.ConfigError, match=r"--set cluster.workers=0"):
        dualprune.run(config(tmp_path), {"cluster.workers": 0})


def test_what_modules_of_ones_own_need_is_here() -> None:
    from dualprune.stages.objectives import base

    assert dualprune.Objective is base.Objective
    assert dualprune.Metric is base.Metric
    assert {"Objective", "Metric", "Pruner", "run", "load", "cardinality"} <= set(dir(dualprune))


@pytest.mark.parametrize(("error", "told"), [(ClusterError, dualprune.ConfigError), (ClusterGone, ClusterGone)])
def test_a_cluster_that_cannot_be_used(
    error: type[Exception], told: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is bad input where the configuration names it, and an error of its own where it went away."""

    def fail(*_: Any) -> Any:
        raise error("nobody answers")

    monkeypatch.setattr(driver, "Lanes", fail)
    with pytest.raises(told, match="nobody answers"):
        dualprune.run(config(tmp_path))


def test_inline(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Real stages in this process, choices among them; on one worker where the configuration has two, which is said."""
    values = {
        "name": "inline",
        "store": str(tmp_path / "store"),
        "cluster": {"workers": 2, "cpus": 64},
        "monitor": {"wandb": "disabled"},
        "model": {"name": "digits_cnn"},
        "data": {"source": "digits", "limit": 256},
        "stages": [
            {"name": "one", "kind": "train", "train": {"epochs": 1, "lr": 4e-3}},
            {"name": "two", "kind": "train", "train": {"epochs": 1, "lr": 2e-3}},
            {"name": "dense", "kind": "select", "parents": ["one", "two"]},
            {
                "name": "small",
                "kind": "prune",
                "parent": "dense",
                "constraints": [{"set": "cardinality", "tensors": "*", "rate": 2}],
                "admm": None,
                "retrain": {"epochs": 1, "lr": 2e-3},
                "search": {"tolerance": 90, "trials": 2, "most": 4},
            },
        ],
    }
    found = dualprune.run(values, inline=True)
    assert {one.state for one in found.values()} == {"done"}
    assert len(found) == 6
    assert found["small"].metrics["rate"] > 2
    assert "without Ray, on one worker in place of 2" in capsys.readouterr().out
    again = dualprune.run(values, inline=True, quiet=True)
    assert {one.state for one in again.values()} == {"cached"}

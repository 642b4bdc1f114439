"""Whole runs as a user starts them: the command line, real Ray processes, real DeepSpeed, real shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualprune.stages.artefacts import artefact
from dualprune.stages.files.folder import Folder
from tests.pipeline.trackers.wandbfiles import mirrored
from tests.running import CONFIG, dualprune, json_of, stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LEFT = {
    "prune-4x": {"0.weight": 72, "2.weight": 2304, "6.weight": 16384, "8.weight": 320},
    "prune-8x": {"0.weight": 50, "2.weight": 576, "6.weight": 8192, "8.weight": 160},
}


def test_states_and_numbers(undisturbed: tuple[Path, list[str]]) -> None:
    """Each stage is done, with all that the JSON promises."""
    rows = json_of(undisturbed[1])["stages"]
    assert [row["state"] for row in rows] == ["done"] * 3
    assert [row["kind"] for row in rows] == ["train", "prune", "prune"]
    assert rows[0]["rate"] == 1.0
    assert rows[0]["residual"] is None
    for row in rows[1:]:
        assert row["nonzeros"] == sum(LEFT[row["name"]].values())
        assert row["rate"] == pytest.approx(71568 / row["nonzeros"])
        assert 0 < row["residual"] < 1
    assert all(row["val_accuracy"] > 80 and row["test_accuracy"] > 80 and row["seconds"] > 0 for row in rows)


def test_no_log_spam(undisturbed: tuple[Path, list[str]]) -> None:
    """The terminal holds our own lines only; where the rest went is named, and it is there."""
    folder, lines = undisturbed
    assert not [
        line for line in lines if any(word in line.lower() for word in ("warning", "deepspeed", "raylet", "info"))
    ]
    logs = Path(next(line for line in lines if line.startswith("logs: ")).removeprefix("logs: "))
    assert (folder / logs / "lane-0-rank-1.log").stat().st_size > 0


def test_weights_left_and_lineage(undisturbed: tuple[Path, list[str]]) -> None:
    """Every constrained tensor holds exactly what was asked for; masks shrink from parent to child."""
    folder, lines = undisturbed
    found = {}
    for name, left in LEFT.items():
        found[name] = artefact.load(Folder(str(folder / "runs" / stage(lines, name)["key"])))
        assert {n: int(found[name].network[n].count_nonzero()) for n in left} == left
        assert {n: int(m.sum()) for n, m in found[name].holds.items()} == left
    child, parent = found["prune-8x"], found["prune-4x"]
    assert child.manifest["parents"] == [{"name": "prune-4x", "key": stage(lines, "prune-4x")["key"]}]
    assert parent.manifest["parents"] == [{"name": "dense", "key": stage(lines, "dense")["key"]}]
    for name, mask in child.holds.items():
        assert bool((mask <= parent.holds[name]).all())


def test_evaluation_from_the_artefact_alone(undisturbed: tuple[Path, list[str]]) -> None:
    """A new process that reads nothing but the artefact and the shards finds the table's accuracies."""
    folder, lines = undisturbed
    code, output = dualprune(folder, "evaluate", "small.yaml", "--json")
    assert code == 0
    for row in json_of(output)["stages"]:
        shown = stage(lines, row["name"])
        assert row["test_accuracy"] == pytest.approx(shown["test_accuracy"], abs=1e-9)
        assert row["val_accuracy"] == pytest.approx(shown["val_accuracy"], abs=1e-9)


def test_again_runs_nothing(undisturbed: tuple[Path, list[str]]) -> None:
    """The same command runs nothing and prints the same table, whatever the number of workers; so does `status`."""
    folder, lines = undisturbed

    def table(output: list[str]) -> list[str]:
        start = next(i for i, line in enumerate(output) if line.startswith("stage "))
        return output[start : start + 4]

    for extra in ([], ["--set", "cluster.workers=1"], ["--set", "engine.zero=2"]):
        code, output = dualprune(folder, "run", "small.yaml", "--json", *extra)
        assert code == 0
        assert [row["state"] for row in json_of(output)["stages"]] == ["cached"] * 3
        assert table(output) == table(lines)
    code, output = dualprune(folder, "status", "small.yaml", "--json")
    assert code == 0
    assert json_of(output) == json_of(lines)


def test_plan_says_what_a_change_re_runs(undisturbed: tuple[Path, list[str]]) -> None:
    """Changing one stage's setting re-runs it and what comes after it, and the plan says why."""
    folder, _ = undisturbed
    code, output = dualprune(folder, "plan", "small.yaml", "--json", "--set", "stages.prune-4x.retrain.epochs=7")
    assert code == 0
    plan = json_of(output)["stages"]
    assert [(row["state"], row["parents"]) for row in plan] == [
        ("cached", []),
        ("run", ["dense"]),
        ("run", ["prune-4x"]),
    ]
    assert "retrain.epochs: 6 -> 7" in plan[1]["why"]
    assert "prune-4x runs again" in plan[2]["why"]


def test_wandb_holds_what_was_logged(undisturbed: tuple[Path, list[str]]) -> None:
    """Each stage is one offline W&B run in one group, with the losses and residuals of its metrics file, beside that of
    all; that they are offline, and why, is among the first lines, and how they are sent, once, among the last."""
    folder, lines = undisturbed
    assert lines.index("W&B: offline as monitor.wandb says") < lines.index("Ray starts")
    assert sum("wandb sync" in line for line in lines) == 1
    found = mirrored(folder / "runs" / "logs")
    assert set(found) == {"dense", "prune-4x", "prune-8x", "small"}
    for name, one in found.items():
        assert (one.run.run_group, one.code) == ("small", 0)
        if name == "small":
            continue
        assert one.run.job_type == stage(lines, name)["kind"]
        metrics = (folder / "runs" / stage(lines, name)["key"] / "metrics.jsonl").read_text().splitlines()
        for key, shown in (("loss", "loss"), ("residual", "primal"), ("val_accuracy", "val_accuracy")):
            assert one.series(shown) == pytest.approx([r[key] for r in map(json.loads, metrics) if key in r])


def test_the_store_shows_what_the_run_left(undisturbed: tuple[Path, list[str]]) -> None:
    """All stages, whole, with their lineage; the configuration has a use for each of them."""
    folder, lines = undisturbed
    code, output = dualprune(folder, "store", "ls", "--json")
    assert code == 0
    listed = {row["name"]: row for row in json_of(output)["stages"]}
    for row in json_of(lines)["stages"]:
        for field in ("key", "kind", "rate", "val_accuracy", "test_accuracy"):
            assert listed[row["name"]][field] == row[field]
    code, output = dualprune(folder, "store", "show", stage(lines, "prune-8x")["key"][:8])
    assert code == 0
    shown = [" ".join(line.split()) for line in output]
    assert [line.split()[0] for line in shown[shown.index("parents") + 1 :][:2]] == ["prune-4x", "dense"]
    assert any(line.startswith("0.weight 16 x 1 x 3 x 3 144 50 34.72 % cardinality 0.") for line in shown)
    code, output = dualprune(folder, "store", "verify", "--json")
    assert (code, json_of(output)["damages"], json_of(output)["artefacts"]) == (0, [], 3)
    code, output = dualprune(folder, "store", "gc", "small.yaml")
    assert (code, output[-1]) == (0, "nothing can go")


def test_failing_stage(tmp_path: Path) -> None:
    """A stage that fails gives exit code 1, a clear reason and skipped descendants; `status` still knows it."""
    (tmp_path / "small.yaml").write_text(CONFIG)
    arguments = ["small.yaml", "--json", "--set", "stages.dense.train.lr=1e30", "--set", "cluster.workers=1"]
    code, output = dualprune(tmp_path, "run", *arguments)
    assert code == 1, "\n".join(output)
    row = next(line for line in output if line.startswith("{"))
    states = [(row["state"], row["why"]) for row in json.loads(row)["stages"]]
    assert [state for state, _ in states] == ["failed", "skipped", "skipped"]
    assert "the loss is" in states[0][1]
    assert "Traceback" not in "\n".join(output)
    code, output = dualprune(tmp_path, "status", *arguments)
    assert json_of(output)["stages"][0]["state"] == "failed"
    assert "the loss is" in json_of(output)["stages"][0]["why"]

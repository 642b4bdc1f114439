"""`dualprune store`: what is listed, shown and found damaged; what can go, and what never does."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.store import garbage, inventory
from dualprune.pipeline.store.locks import Held, Holder, Locks, living, run_lock, stage_lock
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import own_hash
from dualprune.stages.files.folder import Folder, canonical, sha256
from dualprune.stages.files.outage import StoreError
from dualprune.stages.networks.build import build_model
from dualprune.stages.objectives.measures import Measure, Measures
from dualprune.stages.settings.training import Model
from tests.pipeline.common import config, loaded
from tests.pipeline.store.test_locks import elsewhere

DENSE, HALF, QUARTER = "a" * 16, "ab" * 8, "c" * 16
SCORED = {
    "objective": Measures("score", {"score": Measure("", higher=False)}).said(),
    "metrics": {"rate": None, "val_score": 0.125, "test_score": 0.25},
}
"""What the manifest of a stage says that was trained for something else than classifying."""
HOUR_AGO = time.time() - 2 * 3600


def finished(
    store: str, key: str, name: str, parent: tuple[str, str] | None = None, own: Mapping[str, Any] | None = None
) -> None:
    """Put a finished stage into a store, with all that a manifest has, or with some facts of its `own`."""
    folder = Folder(store) / key
    data = {name: f"{key}/{name}".encode() for name in ("model.safetensors", "holds.safetensors", "metrics.jsonl")}
    for file, content in data.items():
        folder.write(file, content)
    whole: dict[str, Any] = {
        "name": name,
        "kind": "prune" if parent else "train",
        "key": key,
        "spec": {"kind": "prune", "admm": {"updates": 3, "rho": 0.01}, "batch": 64},
        "parents": [{"name": parent[0], "key": parent[1]}] if parent else [],
        "tensors": {"0.weight": {"shape": [8, 1, 3, 3], "size": 72, "nonzeros": 36, "sets": ["cardinality"]}},
        "residuals": {"0.weight": 0.125} if parent else {},
        "metrics": {"rate": 2.0 if parent else None, "val_accuracy": 97.5, "test_accuracy": 96.25, "nonzeros": 36},
        "files": {file: {"sha256": sha256(content), "bytes": len(content)} for file, content in data.items()},
        **(own or {}),
    }
    folder.write_json("manifest.json", whole | {"sha256": own_hash(whole)})


def part(store: str, key: str, step: int, data: bytes = b"tensors") -> None:
    """Put a whole checkpoint of one rank into a store."""
    facts = {"steps": step}
    stem = f"{key}/checkpoints/step-{step:08d}/part-0-of-1"
    Folder(store).write(f"{stem}.safetensors", data)
    Folder(store).write_json(f"{stem}.json", {"sha256": sha256(data + canonical(facts)), "progress": facts})


@pytest.fixture
def store(tmp_path: Path) -> str:
    """dense <- half, both finished; a third that has checkpoints; a fourth that failed."""
    url = str(tmp_path / "store")
    finished(url, DENSE, "dense")
    finished(url, HALF, "half", ("dense", DENSE))
    for step in (5, 10):
        part(url, QUARTER, step)
    Store(url).note_failure("f" * 16, "ValueError: broke")
    Store(url).note_plan("tiny", {"quarter": {"key": QUARTER, "spec": {"kind": "prune"}}})
    Folder(url).write("logs/tiny/driver.log", b"...")
    return url


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = output.DONE) -> tuple[str, str]:
    """Run the command line; what it printed on stdout and stderr."""
    assert cli.main(["store", *arguments]) == code
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_the_flags_are_these() -> None:
    """As for the other verbs: a new one is a decision that changes this list."""
    (verbs,) = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    (commands,) = [a for a in verbs.choices["store"]._actions if isinstance(a, argparse._SubParsersAction)]
    flags = {
        verb: [" ".join(action.option_strings) or action.dest for action in parser._actions]
        for verb, parser in commands.choices.items()
    }
    assert flags == {
        "ls": ["-h --help", "--store", "--json"],
        "show": ["-h --help", "key", "--store", "--json"],
        "verify": ["-h --help", "--store", "--json"],
        "gc": ["-h --help", "configs", "--yes", "--set", "--store", "--json"],
    }


def test_a_list_for_people(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A row a stage, the unfinished ones first."""
    rows = [row.split() for row in told(capsys, "ls", "--store", store)[0].splitlines()]
    assert [row[0] for row in rows[1:3]] == [QUARTER, "f" * 16]
    by_key = {row[0]: row for row in rows[1:5]}
    assert by_key[HALF][1:7] == ["half", "prune", "2.00x", "-", "97.50", "96.25"]
    assert by_key[HALF][-1] == "finished"
    assert " ".join(by_key[QUARTER][1:3] + by_key[QUARTER][-5:]) == "quarter prune unfinished, checkpoint at step 10"
    assert by_key["f" * 16][-1] == "failed"
    assert rows[5] == [f"{store}:", "4", "stages,", *rows[5][3:]]


def test_a_list_as_json(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of stdout; sizes are those on disk, times those of the manifests."""
    (Path(store) / DENSE / "manifest.json").write_text("{")
    out, err = told(capsys, "ls", "--store", store, "--json")
    value = json.loads(out)
    assert "4 stages" in err
    assert value["store"] == store
    by_key = {stage["key"]: stage for stage in value["stages"]}
    states = {HALF: "finished", DENSE: "damaged", QUARTER: "unfinished", "f" * 16: "failed"}
    assert {key: stage["state"] for key, stage in by_key.items()} == states
    for key, stage in by_key.items():
        assert stage["bytes"] == sum(f.stat().st_size for f in (Path(store) / key).rglob("*") if f.is_file())
    assert by_key[HALF]["finished"] == (Path(store) / HALF / "manifest.json").stat().st_mtime
    assert (by_key[QUARTER]["checkpoint"], by_key["f" * 16]["why"]) == (10, "ValueError: broke")


def test_an_empty_store_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one that is not there is bad input, for every command."""
    assert told(capsys, "ls", "--store", str(tmp_path))[0] == f"{tmp_path}: 0 stages, 0 B\n"
    for arguments in (["ls"], ["show", "a"], ["verify"], ["gc", str(config(tmp_path))]):
        url = str(tmp_path / "nowhere")
        assert url in told(capsys, *arguments, "--store", url, code=output.BAD_INPUT)[1]
    assert not (tmp_path / "nowhere").exists()


def test_a_stage_is_shown_with_its_parents(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, tensors, residuals and files too; the beginning of a key is enough."""
    printed = told(capsys, "show", "aba", "--store", store)[0]
    rows = [" ".join(row.split()) for row in printed.splitlines()]
    assert f"dense {DENSE} -, val 97.50 %" in rows
    assert "admm: {rho: 0.01, updates: 3}" in rows or "admm: {updates: 3, rho: 0.01}" in rows
    assert "0.weight 8 x 1 x 3 x 3 72 36 50.00 % cardinality 0.125" in rows
    data = f"{HALF}/metrics.jsonl".encode()
    assert f"metrics.jsonl {len(data)} {sha256(data)}" in rows
    out, _ = told(capsys, "show", HALF, "--store", store, "--json")
    assert json.loads(out) == Folder(store).read_json(f"{HALF}/manifest.json")


def test_what_was_taken_out_is_shown(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    shrunk = {
        "weights": [1000, 400],
        "macs": [20000.0, 9000.0],
        "units": {"0.weight": [8, 4]},
        "factorised": {"fc": 3},
        "blocks": {"layer1.2": 0.25},
        "part": {"2.weight": 3},
        "refused": {"head": "code fails"},
        "difference": 1.5e-7,
    }
    finished(store, QUARTER, "small", own={"shrunk": shrunk})
    printed = told(capsys, "show", QUARTER, "--store", store)[0]
    rows = [" ".join(row.split()) for row in printed.splitlines()]
    begin = rows.index("taken out")
    assert rows[begin + 1 : begin + 9] == [
        "weights 1,000 -> 400 (40.0 %)",
        "multiply-accumulates 20,000 -> 9,000 (45.0 %)",
        "0.weight 8 -> 4",
        "fc two layers, of rank 3",
        "layer1.2 block gone; loss on validation without it 0.25",
        "2.weight 3 stay that are zero in a part of what makes or reads them",
        "head can't be cut: code fails",
        "its outputs, before training, differ by 1.5e-07 of the largest",
    ]


def test_a_stage_whose_parent_is_gone_says_so(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It can be shown all the same."""
    Folder(store).remove(DENSE)
    assert "not in this store" in told(capsys, "show", "ab", "--store", store)[0]


def test_an_unfinished_stage_is_shown(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as it got, or why it failed."""
    assert "checkpoint at step 10" in told(capsys, "show", "c", "--store", store)[0]
    assert "ValueError: broke" in told(capsys, "show", "f", "--store", store)[0]


@pytest.mark.parametrize(("prefix", "text"), [("a", "is the beginning of 2 keys"), ("0", "no stage whose key begins")])
def test_a_key_that_names_no_one_stage(store: str, capsys: pytest.CaptureFixture[str], prefix: str, text: str) -> None:
    """Is bad input."""
    assert text in told(capsys, "show", prefix, "--store", store, code=output.BAD_INPUT)[1]


def test_a_stage_is_shown_by_its_name(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is the only one; an unfinished one, by its plan's."""
    assert HALF in told(capsys, "show", "half", "--store", store)[0]
    assert QUARTER in told(capsys, "show", "quarter", "--store", store)[0]
    assert "did you mean 'half'?" in told(capsys, "show", "halv", "--store", store, code=output.BAD_INPUT)[1]
    finished(store, "d" * 16, "half")
    err = told(capsys, "show", "half", "--store", store, code=output.BAD_INPUT)[1]
    assert f"2 stages in {store} are named half: " in err
    assert "`dualprune store show CONFIG half`" in err


def test_a_stage_of_a_configuration_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the store that it names, or in another one."""
    settings, problems = loaded(tmp_path)
    plan = {one.node.name: one.node.key for one in planning.make(settings, problems)[1]}
    path = str(config(tmp_path))
    for store, where in ((settings.top.store, []), (str(tmp_path / "b"), ["--store", str(tmp_path / "b")])):
        finished(store, plan["dense"], "dense")
        finished(store, DENSE, "dense")
        assert plan["dense"] in told(capsys, "show", path, "dense", *where)[0]
    assert f"has nothing of half, whose key is {plan['half']}" in told(capsys, "show", path, "half", code=2)[1]
    assert "there is no stage 'halv'; did you mean 'half'?" in told(capsys, "show", path, "halv", code=2)[1]
    assert "one stage is meant" in told(capsys, "show", path, "half", "dense", code=2)[1]


def test_a_whole_store_verifies(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was never finished is no damage: files without a manifest, tensors without their JSON."""
    Folder(store).write(f"{'d' * 16}/model.safetensors", b"half of it")
    Folder(store).write(f"{QUARTER}/checkpoints/step-00000015/part-0-of-2.safetensors", b"half of it")
    printed = told(capsys, "verify", "--store", store)[0]
    assert printed == f"{store}: 2 artefacts and 2 parts of checkpoints, nothing damaged\n"


def test_every_damage_is_told(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its file, on stderr; the exit code is 1."""
    changed = {
        f"{DENSE}/model.safetensors": b"other",
        f"{DENSE}/metrics.jsonl": None,
        f"{HALF}/manifest.json": Folder(store).read(f"{HALF}/manifest.json").replace(b"97.5", b"98.5"),
        f"{QUARTER}/checkpoints/step-00000005/part-0-of-1.safetensors": b"tensor",
        f"{QUARTER}/checkpoints/step-00000010/part-0-of-1.safetensors": None,
    }
    for file, content in changed.items():
        path = Path(store) / file
        path.unlink() if content is None else path.write_bytes(content)
    out, err = told(capsys, "verify", "--store", store, "--json", code=1)
    rows = [row for row in err.splitlines() if "parts of checkpoints, 5 damaged" not in row]
    assert len(rows) == len(changed)
    for file in changed:
        assert any(file.removesuffix(".safetensors") in row for row in rows), file
    assert json.loads(out)["damages"] == rows
    # Damaged artefacts count as absent from then on, and are listed as what they are.
    assert json.loads(told(capsys, "verify", "--store", store, "--json", code=1)[0])["artefacts"] == 0
    listed = json.loads(told(capsys, "ls", "--store", store, "--json")[0].splitlines()[-1])["stages"]
    assert {stage["key"] for stage in listed if stage["state"] == "damaged"} == {DENSE, HALF}


def planned(folder: Path) -> dict[str, str]:
    """CONFIG's stages in its own store: key by name. dense is finished, and half has a checkpoint."""
    settings, problems = loaded(folder)
    keys = {p.node.name: p.node.key for p in planning.make(settings, problems)[1]}
    finished(settings.top.store, keys["dense"], "dense")
    part(settings.top.store, keys["half"], 7)
    return keys


def aged(path: Path) -> None:
    """As if it had been written some time ago."""
    os.utime(path, (HOUR_AGO, HOUR_AGO))


def left(store: str) -> set[str]:
    """What is in a store but for locks."""
    return {name for name in Folder(store).files() if not name.startswith("locks/")}


def test_what_no_configuration_needs_goes(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --yes, at once; what the configuration needs stays, finished or not."""
    keys = planned(tmp_path)
    part(store, keys["dense"], 3)
    for file in ("data/other/train-000000.tar", f"{keys['half']}/model.safetensors.0123abcd.part", ".probe-0", "notes"):
        Folder(store).write(file, b"x" * 1000)
        aged(Path(store) / file)
    Folder(store).write("logs/x.part", b"just now")
    for key in (keys["dense"], HALF):
        Folder(store).write(f"saliency/{key}.json", b"{}")
    before = left(store)
    printed = told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes")[0]
    gone = {path for path in before if path[:16] in (DENSE, HALF, QUARTER, "f" * 16)}
    gone |= {path for path in before if path.startswith(f"{keys['dense']}/checkpoints/")}
    gone |= {"data/other/train-000000.tar", f"{keys['half']}/model.safetensors.0123abcd.part", ".probe-0"}
    gone |= {f"saliency/{HALF}.json"}
    assert before - left(store) == gone
    for text in (f"{HALF}  ", "data/other  1 kB", f"{keys['dense']}/checkpoints  ", "9 things can go", "removed 9"):
        assert text in printed
    assert "nothing can go" in told(capsys, "gc", str(config(tmp_path)), "--store", store)[0]
    assert told(capsys, "verify", "--store", store)[0].startswith(f"{store}: 1 artefacts and 1 parts")
    assert living(Folder(store)) == {}
    assert not Folder(store).exists(f"locks/names/{stage_lock(HALF)}")


def test_shards_that_are_being_written_stay(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody holds a lock of them; the manifest comes last."""
    planned(tmp_path)
    for name in ("writing", "left", "whole"):
        Folder(store).write(f"data/{name}/train-000000.tar", b"x" * 1000)
    Folder(store).write("data/whole/manifest.json", b"{}")
    aged(Path(store) / "data/left/train-000000.tar")
    told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes")
    assert Folder(store).names("data") == ["writing"]


def test_a_searchs_next_trial_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has checkpoints, though no plan lists it; a search's stage is not begun before its trials are done."""
    retrain = "    retrain: &retrain {epochs: 1, lr: 2e-3}\n"
    path = config(tmp_path, (retrain, retrain + "    search: {tolerance: 0.5, trials: 3, most: 4}\n"))
    url, settings = str(tmp_path / "store"), load(str(path))
    dense = planning.make(*settings)[1][0].node
    finished(url, dense.key, "dense")
    _, plan = planning.make(*settings)
    (trial,) = [trial for planned in plan for trial in planned.trials]
    part(url, trial.key, 5)
    assert "nothing can go" in told(capsys, "gc", str(path), "--store", url, "--yes")[0]
    assert Folder(url).exists(f"{trial.key}/checkpoints")


def test_settings_that_runs_were_given_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was made with `--set` is of the configuration with the same `--set`."""
    url = str(tmp_path / "store")
    settings, problems = loaded(tmp_path, overrides=["seed=3"])
    finished(url, planning.make(settings, problems)[1][0].node.key, "dense")
    path = str(config(tmp_path))
    assert "dense: stays" not in told(capsys, "gc", path, "--store", url, code=output.BAD_INPUT)[0]
    printed = told(capsys, "gc", path, "--store", url, "--yes", "--set", "seed=3")[0]
    assert "dense: stays" in printed
    assert "nothing can go" in printed


def test_a_full_disk_is_made_room_on(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for a lock before something went."""
    keys = planned(tmp_path)
    part(store, keys["dense"], 3)
    create, full = Locks.try_take, True

    def full_at_first(self: Locks, name: str) -> Holder | None:
        nonlocal full
        if full:
            full = False
            raise StoreError("no space left")
        return create(self, name)

    monkeypatch.setattr(Locks, "try_take", full_at_first)
    printed = told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes")[0]
    assert "stayed" not in printed
    assert not {DENSE, HALF, QUARTER, "f" * 16} & set(Folder(store).names(""))


def test_weights_that_no_configuration_starts_from_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others stay."""
    weights, url = tmp_path / "w.safetensors", str(tmp_path / "store")
    weights.write_bytes(safetensors.torch.save(build_model(Model(name="digits_cnn")).state_dict()))
    path = config(tmp_path, ("{name: digits_cnn}", f"{{name: digits_cnn, weights: {weights}}}"))
    Folder(url).write(f"weights/{'0' * 64}", b"others")
    printed = told(capsys, "gc", str(path), "--store", url, "--yes")[0]
    assert f"weights/{'0' * 64}  6 B  weights that no given configuration starts from" in printed
    assert Folder(url).names("weights") == [sha256(weights.read_bytes())]


def test_all_given_configurations_are_kept(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing else."""
    other = tmp_path / "other"
    keys = planned(tmp_path) | {f"other {name}": key for name, key in planned(_changed(other)).items()}
    for key in keys.values():
        finished(store, key, "x")
    out, _ = told(
        capsys, "gc", str(tmp_path / "file.yaml"), str(other / "file.yaml"), "--store", store, "--yes", "--json"
    )
    value = json.loads(out)
    assert set(value["stays"]) == set(keys.values())
    assert sorted(goes["path"] for goes in value["goes"]) == sorted(
        [DENSE, HALF, QUARTER, "f" * 16, f"{keys['half']}/checkpoints"]
    )
    assert set(inventory.keys(Store(store))) == set(keys.values())


def _changed(folder: Path) -> Path:
    folder.mkdir()
    config(folder, ("epochs: 2", "epochs: 3"))
    return folder


@pytest.mark.parametrize(
    ("answer", "agreed"), [("y\n", True), ("yes\n", True), ("\n", False), ("", False), ("n\n", False)]
)
def test_on_a_terminal_it_asks(
    store: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    agreed: bool,
) -> None:
    """And only a clear yes is one."""
    master, slave = os.openpty()
    os.write(master, answer.encode() or b"\x04")
    planned(tmp_path)
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        printed = told(capsys, "gc", str(config(tmp_path)), "--store", store)[0]
    os.close(master)
    assert "? [y/N] " in printed
    assert Folder(store).exists(HALF) is not agreed


def test_without_a_terminal_it_must_be_told(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What would go is listed, and nothing goes."""
    planned(tmp_path)
    before = left(store)
    out, err = told(capsys, "gc", str(config(tmp_path)), "--store", store, code=output.BAD_INPUT)
    assert HALF in out
    assert "--yes" in err
    assert left(store) == before


def test_nothing_that_a_live_run_needs_goes(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the stages of its plan, nor the stage at work, nor shards; also if it runs on another machine."""
    planned(tmp_path)
    Folder(store).write("data/other/train-000000.tar", b"x")
    with elsewhere(Locks(Folder(store), "tiny", beat=0.05)) as locks:
        locks.take(run_lock("tiny"))
        locks.take(stage_lock(HALF))
        Store(store).note_plan("tiny", {"quarter": {"key": QUARTER, "spec": {"kind": "prune"}}})
        printed = told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes")[0]
    assert f"{stage_lock(HALF)} is held by " in printed
    assert "2 things can go" in printed
    assert [key for key in (DENSE, HALF, QUARTER, "f" * 16) if Folder(store).exists(key)] == [HALF, QUARTER]
    assert Folder(store).exists("data/other/train-000000.tar")


def test_a_run_that_is_just_beginning_stops_it(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its plan is that of the time before, or there is none."""
    planned(tmp_path)
    before = left(store)
    for run in ("tiny", "new"):
        with Locks(Folder(store), run) as locks:
            locks.take(run_lock(run))
            aged(Path(store) / "plans/tiny.json")
            err = told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes", code=output.BAD_INPUT)[1]
            assert f"the run {run} of " in err
    assert left(store) == before


def test_what_came_into_use_while_it_was_asked_stays(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run began to work on a stage after the list was made."""
    planned(tmp_path)
    with Locks(Folder(store), "late") as locks:
        remove = garbage.remove

        def late(*args: Any) -> Any:
            locks.take(stage_lock(HALF))
            return remove(*args)

        monkeypatch.setattr(garbage, "remove", late)
        printed = told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes")[0]
        assert f"{HALF} stayed: a run has begun to use it" in printed
        assert Folder(store).exists(f"{HALF}/model.safetensors")
        assert not Folder(store).exists(DENSE)
        with pytest.raises(Held), Locks(Folder(store), "x") as other:
            other.take(stage_lock(HALF))


@pytest.mark.parametrize("what", ["an artefact", "shards", "weights"])
def test_what_was_removed_between_plan_and_lock_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """By a cleaning that could not know of the run: nothing is begun, and the same command plans anew."""
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(safetensors.torch.save(build_model(Model(name="digits_cnn")).state_dict()))
    shards = ("shards: " + str(tmp_path / "shards"), "source: digits")
    path = config(tmp_path, ("{name: digits_cnn}", f"{{name: digits_cnn, weights: {weights}}}"), shards)
    url = str(tmp_path / "store")
    dense = planning.make(*load(str(path)))[1][0].node
    if what == "an artefact":
        finished(url, dense.key, "dense")
    gone = {"an artefact": dense.key, "shards": "data/digits", "weights": f"weights/{sha256(weights.read_bytes())}"}[
        what
    ]
    before = Locks.take

    def late(self: Locks, name: str, wait: bool = False) -> None:
        Folder(url).remove(gone)
        before(self, name, wait)

    monkeypatch.setattr(Locks, "take", late)
    assert cli.main(["run", str(path)]) == output.FAILED
    err = capsys.readouterr().err
    assert f"{gone}" in err
    assert "the same command plans anew" in err


def test_data_stays_once_a_run_has_begun(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look and the removal."""
    planned(tmp_path)
    for path in ("data/other/manifest.json", "data/other/train-000000.tar", f"weights/{'0' * 64}"):
        Folder(store).write(path, b"{}")
    with Locks(Folder(store), "late") as locks:
        remove = garbage.remove

        def late(*args: Any) -> Any:
            locks.take(run_lock("late"))
            return remove(*args)

        monkeypatch.setattr(garbage, "remove", late)
        printed = told(capsys, "gc", str(config(tmp_path)), "--store", store, "--yes")[0]
    assert "data/other stayed: a run has begun to use it" in printed
    assert Folder(store).exists("data/other/manifest.json")
    assert Folder(store).exists(f"weights/{'0' * 64}")


def test_other_metrics_go_by_their_names(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside accuracies, alone, and for programs; of an objective that only a plan names nothing is known."""
    scored, late, best = "e" * 16, "1" * 16, "2" * 16
    plan = {"late": {"key": late, "spec": {"kind": "train", "model": {}, "objective": "scores"}}}
    plan["best"] = {"key": best, "spec": {"kind": "select"}, "parents": [late]}
    Store(store).note_plan("other", plan)
    Store(store).note_failure(late, "broke")
    Store(store).note_failure(best, "broke")
    alone = str(tmp_path / "alone")
    for url in (store, alone):
        finished(url, scored, "scored", own=SCORED)
    last, table = told(capsys, "ls", "--store", store, "--json")
    by_key = {line.split()[0]: " ".join(line.split()) for line in table.splitlines()}
    assert " train - - score 0.125 score 0.25 " in by_key[scored]
    assert " 97.50 % 96.25 % " in by_key[HALF]
    found = {stage["key"]: stage for stage in json.loads(last)["stages"]}
    assert (found[scored]["val_score"], found[scored]["test_score"]) == (0.125, 0.25)
    assert (found[HALF]["val_accuracy"], found[HALF]["test_accuracy"]) == (97.5, 96.25)
    assert found[QUARTER]["val_accuracy"] is None
    for key in (scored, late, best):
        assert not [name for name in found[key] if "accuracy" in name or name in ("val", "test", "measures")]
    above, titles, row, *_ = told(capsys, "ls", "--store", alone)[0].splitlines()
    assert above.split() == ["score", "score"]
    assert titles.split()[6:8] == ["val", "test"]
    assert row.split()[5:7] == ["0.125", "0.25"]

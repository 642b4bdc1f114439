"""`dualprune speed`: networks of a store beside their dense ancestors, as tables, sentences and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.output import BAD_INPUT, DONE
from dualprune.pipeline.reports import speed as reports
from dualprune.pipeline.store import speeds
from dualprune.pipeline.store.store import Store
from dualprune.stages.artefacts.manifest import check, own_hash
from dualprune.stages.export.speed import Place, Speed
from dualprune.stages.export.timing import Spread
from dualprune.stages.files.folder import Folder
from tests.pipeline.cli.finished import KEYS, chain

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with digits, and dense -> half -> quarter, in the order of their pruning."""
    folder = tmp_path_factory.mktemp("speed")
    chain(folder)
    return folder


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    shutil.copytree(finished / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the verb quickly; its exit code and what it printed."""

    def call(*arguments: str | Path, quick: bool = True) -> tuple[int, str, str]:
        measured = ["--backend", "torch", "--repeats", "2", "--batch", "1,3"] if quick else []
        code = cli.main(["speed", *map(str, arguments), *measured])
        return code, *capsys.readouterr()

    return call


def test_results_beside_the_dense_one(store: Path, run: Run) -> None:
    code, out, _ = run("quarter", "half", "--store", store)
    assert code == DONE
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row[1:2] == ["71,754"]] == ["dense", "quarter", "half"]
    places = [(row[0], row[5]) for row in rows if row[1:3] == ["cpu,", "1"]]
    assert places == [(name, batch) for batch in "13" for name in ("dense", "quarter", "half")]
    assert sum("1.00x" in row for row in rows if row[:2] == ["dense", "cpu,"]) == 2


def test_json(store: Path, run: Run) -> None:
    code, out, said = run(KEYS["half"][:6], "--store", store, "--json")
    assert code == DONE
    found = json.loads(out)
    assert [one["name"] for one in found["networks"]] == ["dense", "half"]
    dense, half = found["networks"]
    assert (dense["dense"], half["dense"]) == (None, "dense")
    assert dense["parameters"] == half["parameters"] == 71754
    assert half["nonzeros"] < 40000
    assert dense["macs"] == half["macs"] == 370944
    assert half["bytes"] < dense["bytes"]
    (first, *_), last = found["speeds"], found["speeds"][-1]
    assert (first["name"], first["verdict"], first["ratio"]) == ("dense", "dense", {"low": 1, "middle": 1, "high": 1})
    assert (last["name"], last["device"], last["backend"], last["batch"]) == ("half", "cpu", "torch", 3)
    assert (last["threads"], last["rounds"]) == (1, 2)
    assert last["throughput"] == pytest.approx(3 / last["latency"]["middle"])
    assert "speed-up" in said, "tables go to standard error"


def test_a_dense_network_alone(store: Path, run: Run) -> None:
    code, out, _ = run("dense", "--store", store)
    assert code == DONE
    assert out.count("dense") == 3


def test_a_folder_without_its_parents_or_data(store: Path, tmp_path: Path, run: Run) -> None:
    """Copied to another machine: the dense network is built from the settings, and called with noise."""
    shutil.copytree(store / KEYS["half"], tmp_path / "copied")
    code, out, _ = run(tmp_path / "copied", "--noise", "1,8,8")
    assert code == DONE
    assert "dense of half" in out
    code, _, said = run(tmp_path / "copied")
    assert code == BAD_INPUT
    assert "the data that it was made with is not at" in said
    assert "--data" in said
    assert "--noise" in said
    assert run(tmp_path / "copied", "--data", store / "data" / "digits")[0] == DONE


def test_a_teacher_with_another_network_is_no_dense_ancestor(store: Path, run: Run) -> None:
    path = store / KEYS["dense"] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["spec"]["model"]["name"] = "lenet5"
    manifest["sha256"] = own_hash(manifest)
    path.write_text(json.dumps(manifest))
    code, out, _ = run("quarter", "--store", store)
    assert code == DONE
    assert "dense of quarter" in out


def test_stages_of_one_name_in_two_stores(store: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(store, tmp_path / "other")
    code, out, _ = run(store / KEYS["half"], tmp_path / "other" / KEYS["half"])
    assert code == DONE
    assert f"half ({'a' * 8})" in out
    assert f"dense ({'d' * 8})" in out


def test_bad_input(store: Path, tmp_path: Path, run: Run) -> None:
    (store / ("c" * 16)).mkdir()
    (store / ("c" * 16) / "failure.json").write_text('{"reason": "it failed"}')
    for arguments, expected in (
        (("quater", "--store", store), "did you mean 'quarter'?"),
        (("half", "--store", tmp_path / "nowhere"), "there is no store at"),
        (("cccc", "--store", store), "its stage is not done"),
        (("half", "--store", store, "--device", "tpu"), "no device 'tpu'; there are cpu and cuda"),
        (("half", "--store", store, "--device", "cuda"), "no CUDA device"),
        (
            ("half", "--store", store, "--noise", "1,4,4"),
            "dense: 1 problem\n  the network can't take samples of 1 x 4 x 4: RuntimeError: ",
        ),
        ((tmp_path / "nowhere.yaml", "half"), "nowhere.yaml"),
        (("half", "--store", store, "--data", tmp_path), "holds no manifest.json"),
    ):
        code, _, said = run(*arguments)
        assert code == BAD_INPUT, arguments
        assert expected in said
    code, _, said = run("half", "--store", store, "--backend", "torch,tensorrt", quick=False)
    assert code == BAD_INPUT
    assert "there is no backend 'tensorrt'; there are torch, compile, csr, 2:4, onnx" in said
    code, _, said = run("half", "--store", store, "--backend", "2:4", "--device", "cpu", quick=False)
    assert code == BAD_INPUT
    assert "2:4 runs on cuda alone, and cpu is timed here" in said


@pytest.mark.parametrize(
    "option",
    [
        ("--batch", "0"),
        ("--batch", "1,x"),
        ("--threads", "-1"),
        ("--seconds", "0"),
        ("--seconds", "nan"),
        ("--repeats", "1.5"),
    ],
)
def test_numbers_that_are_none(run: Run, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("half", *option, quick=False)
    assert ended.value.code == BAD_INPUT
    assert f"argument {option[-2]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize("stage", ["half", "dense"])
def test_damaged(store: Path, run: Run, name: str, stage: str) -> None:
    """A dense one without a readable manifest counts as not there; any other file's damage is told."""
    path = store / KEYS[stage] / name
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(bytes(data))
    code, out, said = run(KEYS["half"], "--store", store)
    if (stage, name) == ("dense", "manifest.json"):
        assert code == DONE
        assert "dense of half" in out
        return
    assert code == BAD_INPUT
    assert f"{name} has changed since it was written" in said


def test_a_backend_that_is_not_installed(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused if it was asked for, and told if not."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else object())
    code, _, said = run("half", "--store", store, "--backend", "onnx", quick=False)
    assert code == BAD_INPUT
    assert "ONNX Runtime needs onnx and onnxscript and onnxruntime: pip install 'dualprune[onnx]'" in said
    monkeypatch.setattr("dualprune.pipeline.cli.speed.USUAL", ("torch", "onnx"))
    code, out, _ = run("half", "--store", store, "--repeats", "2", "--batch", "1", quick=False)
    assert code == DONE
    assert out.endswith("pip install 'dualprune[onnx]'\n")


def speed(name: str, batch: int, verdict: Any, *why: str, backend: str = "torch", device: str = "cpu") -> Speed:
    """A row."""
    place = Place(device, backend, batch, 1)
    if verdict is None:
        return Speed(name, place, why=why)
    return Speed(name, place, Spread(0.001, 0.002, 0.003), Spread(1.1, 1.2, 1.3), 0.6, 9, verdict, why)


def test_sentences_say_where_a_reason_holds() -> None:
    rows = [
        speed("a", 1, "no gain", "x", "y"),
        speed("a", 8, "no gain", "x", "y"),
        speed("a", 8, "no gain", "x", "y", backend="onnx", device="cuda"),
        speed("a", 1, "slower", "x"),
        speed("b", 1, "gain", "z"),
        speed("b", 8, "gain"),
        speed("b", 8, None, "it can't"),
        speed("dense", 8, "dense"),
    ]
    assert list(reports.verdicts(rows)) == [
        "a: no gain on this backend (torch, batch 1 and 8; ONNX Runtime on cuda, batch 8): x; y",
        "a: slower than dense on this backend (torch, batch 1): x",
        "b: faster, but by less than its MACs are fewer (torch, batch 1): z",
        "b: not timed (torch, batch 8): it can't",
    ]
    busy = [replace(speed("dense", 1, "dense"), waited=waited) for waited in (0.05, 0.31)]
    assert list(reports.verdicts(busy[:1])) == []
    (said,) = reports.verdicts(busy)
    assert said.startswith("the machine is busy: up to 31 % of the time")


def test_what_was_measured_is_left_for_reports(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the artefact, which is as sound as before; where that can't be, the measurement stands."""
    code, out, _ = run("half", "--store", store, "--json")
    assert code == DONE
    found = speeds.left(Store(str(store)), KEYS["half"])
    assert found == [row for row in json.loads(out)["speeds"] if row["name"] == "half"]
    assert [row["batch"] for row in found] == [1, 3]
    assert check(Folder(str(store / KEYS["half"]))) is not None
    assert speeds.left(Store(str(store)), KEYS["dense"]) == [], "it is what others are compared with"

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(speeds, "leave", full)
    code, out, _ = run("half", "--store", store)
    assert (code, "reports won't have its speed: no space left" in out) == (DONE, True)

"""`dualprune saliency`: networks of a store beside their dense ancestors, as a table, pictures, JSON and records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.output import BAD_INPUT, DONE
from dualprune.pipeline.reports.saliency import record
from dualprune.stages.artefacts.manifest import own_hash
from tests.pipeline.cli.finished import KEYS, chain

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with digits, and dense -> half -> quarter, in the order of their pruning."""
    folder = tmp_path_factory.mktemp("saliency")
    chain(folder)
    return folder / "store"


@pytest.fixture
def store(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, which a test may change."""
    shutil.copytree(finished, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs the verb quickly; its exit code and what it printed."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        small = ["--samples", "20", "--show", "2", "--classes", "1", "--steps", "4"]
        code = cli.main(["saliency", *map(str, arguments), *small])
        return code, *capsys.readouterr()

    return call


def change(store: Path, key: str, **spec: object) -> None:
    """Change an artefact's settings."""
    path = store / key / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["spec"] |= spec
    manifest["sha256"] = own_hash(manifest)
    path.write_text(json.dumps(manifest))


def test_results_beside_the_dense_one(store: Path, run: Run) -> None:
    code, out, _ = run("quarter", "half", "--store", store)
    assert code == DONE
    rows = [line.split() for line in out.splitlines()]
    assert [row[0] for row in rows if row[1:2] == ["20"]] == ["dense", "quarter", "half"]
    assert "compared with dense" in out
    shares = [(float(row[2]), float(row[4])) for row in rows if row[1:2] == ["20"] and len(row) > 2]
    assert all(same + changed == pytest.approx(100) for same, changed in shares)


def test_json(store: Path, run: Run) -> None:
    code, out, said = run(KEYS["half"][:6], "--store", store, "--json")
    assert code == DONE
    (found,) = json.loads(out)["looks"]
    assert found["dense"] == {"name": "dense", "key": KEYS["dense"]}
    assert (found["split"], found["samples"], found["field"], found["kind"]) == ("val", 20, "image", "picture")
    (half,) = found["networks"]
    assert half["name"] == "half"
    assert len(half["changed"]) == round(20 * (1 - half["agreement"]))
    assert half["product"]["low"] <= half["product"]["high"]
    assert len(half["each"]) == 20
    assert sum(half["each"]) / 20 == pytest.approx(half["product"]["mean"], abs=1e-3)
    (scores,) = found["scores"].values()
    assert all(one["end"] > one["start"] for one in scores.values())
    assert "same answer" in said, "tables go to standard error"


def test_pictures_and_numbers(store: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("half", "quarter", "--store", store, "--out", tmp_path / "out")
    assert code == DONE
    assert "3 pictures, and all numbers in saliency.json" in out
    found = json.loads((tmp_path / "out" / "saliency.json").read_text())
    assert {one["file"] for one in found["figures"]} == {file.name for file in (tmp_path / "out").glob("*.svg")}
    for file in (tmp_path / "out").glob("*.svg"):
        tree = ElementTree.parse(file).getroot()
        images = tree.findall(".//{http://www.w3.org/2000/svg}image")
        assert len(images) == (4 if file.name.startswith("sample") else 3)
        assert all(name in tree.attrib["aria-label"] for name in ("dense", "half", "quarter"))
    for shown in found["shown"]:
        maps = shown["networks"]
        assert list(maps) == ["dense", "half", "quarter"]
        assert all((len(one["product"]), len(one["product"][0]), one["along"]) == (8, 8, None) for one in maps.values())


def test_a_record_is_left(store: Path, run: Run) -> None:
    assert run("half", "quarter", "--store", store)[0] == DONE
    assert {file.stem for file in (store / "saliency").iterdir()} == {KEYS["half"], KEYS["quarter"]}
    found = json.loads((store / "saliency" / f"{KEYS['half']}.json").read_text())
    assert [one["name"] for one in found["networks"]] == ["half"]
    assert found["left_out"] == 0
    assert len(found["figures"]) == 3
    assert all("quarter" not in one["svg"] for one in found["figures"])


def test_a_record_stays_small(store: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "KEPT", 6000)
    assert run("half", "--store", store)[0] == DONE
    file = store / "saliency" / f"{KEYS['half']}.json"
    assert file.stat().st_size <= 6000
    found = json.loads(file.read_text())
    assert found["left_out"] + len(found["figures"]) == 3
    assert found["left_out"] > 0


def test_a_dense_network_alone(store: Path, run: Run) -> None:
    code, out, _ = run("dense", "--store", store)
    assert code == DONE
    assert "compared with" not in out
    found = json.loads((store / "saliency" / f"{KEYS['dense']}.json").read_text())
    assert (found["networks"], len(found["figures"])) == ([], 3)


def test_a_folder_without_its_parents(store: Path, tmp_path: Path, run: Run) -> None:
    """Copied to another machine: there is nothing to compare it with, and its data is named."""
    shutil.copytree(store / KEYS["half"], tmp_path / "copied" / KEYS["half"])
    code, _, said = run(tmp_path / "copied" / KEYS["half"])
    assert code == BAD_INPUT
    assert "the data that it was made with is not at" in said
    assert "--data" in said
    code, out, _ = run(tmp_path / "copied" / KEYS["half"], "--data", store / "data" / "digits")
    assert code == DONE
    assert "half: its dense network is not in the store; there is nothing to compare it with" in out


def test_no_samples_shown_and_no_classes(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["saliency", "half", "--store", str(store), "--show", "0", "--classes", "0", "--json"]
    assert cli.main(arguments) == DONE
    (found,) = json.loads(capsys.readouterr().out)["looks"]
    assert found["scores"] == {}
    assert json.loads((store / "saliency" / f"{KEYS['half']}.json").read_text())["figures"] == []


def test_bad_input(store: Path, tmp_path: Path, run: Run) -> None:
    for arguments, expected in (
        (("quater", "--store", store), "did you mean 'quarter'?"),
        (("half", "--store", tmp_path / "nowhere"), "there is no store at"),
        (("half", "--store", store, "--data", tmp_path), "holds no manifest.json"),
        (("half", "--store", store, "--vocabulary", tmp_path / "none"), "--vocabulary: 1 problem"),
    ):
        code, _, said = run(*arguments)
        assert code == BAD_INPUT, arguments
        assert expected in said
    (tmp_path / "file").write_text("")
    code, _, said = run("half", "--store", store, "--out", tmp_path / "file")
    assert code == BAD_INPUT
    assert "can't be written" in said


def test_an_objective_without_classes(store: Path, run: Run) -> None:
    change(store, KEYS["dense"], objective="regress")
    code, _, said = run("dense", "--store", store)
    assert code == BAD_INPUT
    assert "the objective regress gives numbers and no classes" in said

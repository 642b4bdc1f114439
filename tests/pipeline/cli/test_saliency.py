"""`dualprune saliency`: networks of a store beside their dense ancestors, as a table, pictures, JSON and records."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.output import BAD_INPUT, DONE
from dualprune.pipeline.reports.saliency import record
from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.manifest import own_hash
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.sources import write_source
from dualprune.stages.files.folder import Folder
from dualprune.stages.files.source import source_digest
from dualprune.stages.kinds.table import parse
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


OWN = """
import torch
from torch import nn
from torch.nn import functional as F

from dualprune.stages.objectives.base import Metric, Objective


class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.lstm(F.one_hot(x, 4).float())[0].amax(1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.table(x).mean(1))


def loss(scores, batch):
    return F.cross_entropy(scores, batch["label"], reduction="sum")


def right(scores, batch):
    return (scores.argmax(1) == batch["label"]).sum()


mine = Objective(
    call=lambda network, batch: network(batch["x"]).float(),
    loss=loss,
    good=lambda batch: torch.tensor(len(batch["label"])),
    metrics={"right": Metric(right, lambda total, samples: 100 * total / samples)},
    best="right",
)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that makes a store with a network of a user's own on sequences of these lengths."""
    (tmp_path / "own_letters.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_letters", raising=False)

    def make(network: str, objective: object, lengths: tuple[int, int]) -> Path:
        url = str(tmp_path / "store")
        Folder(url).establish()
        random = np.random.default_rng(0)
        splits = {
            split: [
                {"x": random.integers(0, 4, random.integers(*lengths)).astype(np.int8), "label": n % 3}
                for n in range(12)
            ]
            for split in ("train", "val", "test")
        }
        write_source(f"{url}/data/own", "own", splits)
        for name, key in KEYS.items():
            if name != "quarter":
                finished_own(url, key, name, network, objective)
        return Path(url)

    return make


def finished_own(url: str, key: str, name: str, network: str, objective: object) -> None:
    """A finished stage of a user's own network; `half` has random weights at half."""
    module = importlib.import_module("own_letters")
    torch.manual_seed(0)
    weights = getattr(module, network)().state_dict()
    own: dict[str, object] = {"kind": "train", "train": {"epochs": 1, "lr": 0.01}}
    if name == "half":
        for value in weights.values():
            value[torch.rand_like(value) < 0.5] = 0
        own = {"kind": "prune", "constraints": [{"set": "cardinality", "tensors": "*", "rate": 2}], "admm": None}
        own |= {"retrain": {"epochs": 1, "lr": 0.01}}
    model = {"name": f"own_letters:{network}", "classes": 3, "source": source_digest("own_letters")}
    spec = {"model": model, "objective": objective, "batch": 8, **own}
    manifest = {
        "name": name,
        "key": key,
        "spec": parse({**spec, "data": {"source": "own:data"}}).model_dump(mode="json"),
        "data": digest(read_manifest(f"{url}/data/own")),
        "parents": [] if name == "dense" else [{"name": "dense", "key": KEYS["dense"]}],
        "tensors": {tensor: {"sets": ["cardinality"] if name == "half" else []} for tensor in weights},
        "fixed": {},
        "metrics": {"rate": 2.0 if name == "half" else 1.0},
        "rows": [],
    }
    artefact.commit(Folder(f"{url}/{key}"), manifest, dict(weights), {}, {})


def test_letters_and_scores_along_them(own: Callable[..., Path], tmp_path: Path, run: Run) -> None:
    """Sequences of letters that the network makes of numbers, read by an LSTM."""
    store = own("Letters", {"name": "classify", "args": {"inputs": ["x"]}}, (20, 21))
    assert run("half", "--store", store, "--out", tmp_path / "out")[0] == DONE
    found = json.loads((tmp_path / "out" / "saliency.json").read_text())
    assert (found["kind"], found["field"]) == ("sequence", "x")
    for shown in found["shown"]:
        for one in shown["networks"].values():
            assert len(one["product"]) == len(one["along"]["forward"]) == one["along"]["all"] == 20
    (made,) = found["optimal"].values()
    assert all(
        len(one["weights"]) == 20 and sum(one["weights"][0]) == pytest.approx(1, abs=1e-3) for one in made.values()
    )
    for file in (tmp_path / "out").glob("sample-*.svg"):
        tree = ElementTree.parse(file).getroot()
        letters = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}text") if one.text and len(one.text) == 1]
        assert letters
        assert set(letters) <= set("ACGT")
        assert len(tree.findall("{http://www.w3.org/2000/svg}polyline")) == 4, "both ways, of both networks"


def test_words_of_any_number(own: Callable[..., Path], tmp_path: Path, run: Run) -> None:
    """Padded tokens: what is padded is in no map and in no picture."""
    store = own("Tokens", {"name": "tokens", "args": {"inputs": ["x"], "mask_as": None}}, (3, 9))
    (tmp_path / "words").write_text("good\nbad\n<b>\nugly\n")
    code, _, said = run("half", "--store", store, "--out", tmp_path / "out", "--vocabulary", tmp_path / "words")
    assert code == DONE, said
    found = json.loads((tmp_path / "out" / "saliency.json").read_text())
    assert found["kind"] == "tokens"
    for shown in found["shown"]:
        assert 3 <= len(shown["input"]) < 9
        assert all(len(one["product"]) == len(shown["input"]) for one in shown["networks"].values())
        file = tmp_path / "out" / f"sample-{shown['sample']}.svg"
        texts = [one.text for one in ElementTree.parse(file).getroot().iter("{http://www.w3.org/2000/svg}text")]
        assert texts[-len(shown["input"]) :] == [["good", "bad", "<b>", "ugly"][n] for n in shown["input"]]
    (made,) = found["optimal"].values()
    assert all(set(one["tokens"]) <= {"good", "bad", "<b>", "ugly"} for one in made.values())


def test_an_objective_of_ones_own(own: Callable[..., Path], run: Run) -> None:
    """Its scores are taken for those of classes; which answers are right is not known."""
    store = own("Letters", "own_letters:mine", (20, 21))
    code, out, said = run("half", "--store", store, "--json")
    assert code == DONE, said
    (half,) = json.loads(out)["looks"][0]["networks"]
    assert (half["better"], half["worse"]) == (None, None)
    assert 0 <= half["agreement"] <= 1

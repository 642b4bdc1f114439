"""`dualprune init`: what it writes is sound as it is, and says what there is to prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.load import load
from dualprune.pipeline.dag import trained
from dualprune.pipeline.output import BAD_INPUT, DONE
from dualprune.stages.files.folder import Folder
from tests.pipeline.common import shards

NETWORK = """
from torch import nn

def small(width=8):
    return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, 1))

def pair(outputs=2):
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, outputs))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 4)
"""
DATA = """
def numbers():
    return [{"x": [float(n)] * 10, "target": [float(n)]} for n in range(200)]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and data of a user's own, in which the commands are given."""
    (tmp_path / "startnet.py").write_text(NETWORK)
    (tmp_path / "startdata.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def coloured(where: Path) -> str:
    """Shards of pictures of three channels, as far as a plan looks at them."""
    shards(where)
    manifest = Folder(str(where)).read_json("manifest.json")
    for split in manifest["splits"].values():
        split["shape"] = [3, 64, 64]
    Folder(str(where)).write_json("manifest.json", manifest | {"labels": 7})
    return str(where)


CASES: dict[str, list[str]] = {
    "built in": ["--model", "digits_cnn", "--data", "digits"],
    "torchvision on shards": ["--model", "torchvision:resnet18", "--data", "SHARDS"],
    "of one's own": ["--model", "startnet:small", "--data", "startdata:numbers", "--objective", "regress"],
    "with arguments": [
        *("--model", "startnet:small", "--args", "{width: 3}"),
        *("--data", "startdata:numbers", "--objective", "regress"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_can_be_planned(folder: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    """As it is."""
    arguments = [coloured(folder / "shards") if word == "SHARDS" else word for word in CASES[case]]
    assert cli.main(["init", *arguments, "-o", "mine.yaml"]) == DONE
    assert cli.main(["plan", "mine.yaml"]) == DONE
    assert "prune-2x" in capsys.readouterr().out


def test_patterns_and_layers_are_the_networks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the classes that the data has; a line for each type of layers."""
    assert cli.main(["init", "--model", "torchvision:resnet18", "--data", coloured(folder / "shards")]) == DONE
    printed = capsys.readouterr().out
    assert "#   Conv2d   20 of  11,166,912 weights: conv1.weight, layer1.0.conv1.weight, ..." in printed
    assert "#   Linear    1 of       3,584 weights: fc.weight\n" in printed
    assert "classes: 7" in printed
    assert all(len(line) <= 100 for line in printed.splitlines() if not line.startswith(("data:", "# torchvision:")))


def made(folder: Path, *arguments: str) -> Any:
    """The first stage of what is written."""
    (folder / "mine.yaml").unlink(missing_ok=True)
    assert cli.main(["init", *arguments, "-o", "mine.yaml"]) == DONE
    config, _ = load("mine.yaml")
    return trained(config.stages[0].spec)


def test_trained_weights(folder: Path) -> None:
    """Are taken as they are, or without a head of another size, which is trained then."""
    network = ("--model", "torchvision:resnet18", "--weights", "torchvision", "--data", coloured(folder / "shards"))
    spec = made(folder, *network, "--classes", "1000")
    assert (spec.model.weights, spec.train.epochs) == ("torchvision", 0)
    spec = made(folder, *network)
    assert (spec.model.skip, spec.train.epochs) == (("fc.*",), 20)


def test_what_recipes_know_of_data(folder: Path) -> None:
    """Their normalisation."""
    spec = made(folder, "--model", "lenet5", "--data", "mnist")
    assert (spec.data.mean, spec.data.std, spec.data.shift) == ([0.1307], [0.3081], 1)


@pytest.mark.parametrize(
    ("column", "objective"),
    [(("--label", "kind"), "classify"), (("--target", "y"), "regress")],
    ids=["label", "target"],
)
def test_a_table_says_what_is_trained_for(folder: Path, column: tuple[str, str], objective: str) -> None:
    """Its columns of numbers are what the network is called with."""
    rows = [f"{n % 7},{n % 5},{'ab'[n % 2]},{n}" for n in range(80)]
    (folder / "table.csv").write_text("\n".join(["a,b,kind,y", *rows]))
    assert cli.main(["shards", "table.csv", "made", *column, "--columns", "a,b", "--cut", "0.2,0.2"]) == DONE
    network = ("--model", "startnet:pair", *(() if objective == "classify" else ("--args", "{outputs: 1}")))
    spec = made(folder, *network, "--data", "made")
    assert (spec.objective.name, spec.objective.args) == (objective, {"inputs": ["numbers"]})
    assert cli.main(["plan", "mine.yaml"]) == DONE


WRONG: dict[str, tuple[list[str], str]] = {
    "no such network": (["--model", "lenet9", "--data", "mnist"], "--model: there is no model 'lenet9'"),
    "no shards": (["--model", "lenet5", "--data", "/nowhere"], "--data: /nowhere holds no manifest.json"),
    "nothing to prune": (["--model", "startnet:Words", "--data", "digits"], "no weights that can be pruned"),
    "no classes": (["--model", "lenet5", "--data", "mnist", "--classes", "-1"], "classes: must be greater"),
    "a file that is there": (["--model", "lenet5", "--data", "mnist", "-o", "startnet.py"], "is there already"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_it_cannot_be_made_of(capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    """One message."""
    arguments, text = WRONG[wrong]
    assert cli.main(["init", *arguments]) == BAD_INPUT
    assert text in capsys.readouterr().err

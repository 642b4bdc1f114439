"""The verbs that help to write a configuration: what they print, in 80 columns, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.config.described import document
from dualprune.pipeline.config.load import RECIPES
from dualprune.pipeline.output import BAD_INPUT, DONE


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints."""
    assert cli.main(arguments) == DONE
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["recipes"], ["explain"], ["explain", "prune"], ["explain", "rho"]])
def test_lines_fit_the_terminal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    lines = printed(capsys, *arguments).splitlines()
    assert lines
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith(" ")]


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    """By name; as JSON too."""
    lines = printed(capsys, "recipes").splitlines()
    assert "digits  digits_cnn on digits, 1 train, 3 prune" in lines
    found = json.loads(printed(capsys, "recipes", "--json").splitlines()[-1])["recipes"]
    assert [one["name"] for one in found] == sorted(file.stem for file in RECIPES.glob("*.yaml"))


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "explain", "stages.admm.rho").splitlines() == [
        "stages.admm.rho  of prune, quantize",
        "  Weight of the penalty rho/2 |W - Z + U|^2 before the first update.",
        "  type     number (above 0)",
        "  default  none: it has to be given",
    ]
    (found,) = json.loads(printed(capsys, "explain", "data.crop", "--json").splitlines()[-1])["explained"]
    assert (found["name"], found["default"]) == ("data.crop", "224")


def test_a_name_that_cannot_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "data.crob"]) == BAD_INPUT
    assert "did you mean 'data.crop'?" in capsys.readouterr().err


def test_the_schema_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, "schema")) == document()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    """Verbs, and what can be explained."""
    pytest.importorskip("shtab")
    found = printed(capsys, "completion", shell)
    assert all(word in found for word in ("explain", "--keep-going", "cardinality"))


def test_none_of_it_imports_torch() -> None:
    """They answer at once."""
    run = "import sys; from dualprune.pipeline.cli.main import main"
    calls = "; ".join(f"main({arguments})" for arguments in (["recipes"], ["explain", "prune"], ["schema"]))
    done = subprocess.run(
        [sys.executable, "-c", f"{run}; {calls}; sys.exit('torch' in sys.modules)"], capture_output=True, check=False
    )
    assert done.returncode == 0

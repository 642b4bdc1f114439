"""`dualprune compare`: runs side by side, of one store or of several."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dualprune.pipeline.output import BAD_INPUT, DONE
from tests.pipeline.cli.conftest import Called
from tests.pipeline.reports.page.made import CHOICE, LADDER, Made, make

pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(called: Called) -> Told:
    """A function that runs the verb in an empty folder; its exit code and what it printed."""
    return partial(called, "compare")


def test_runs_of_one_store(tmp_path: Path, told: Told) -> None:
    url = make(str(tmp_path / "store"), LADDER, "ladder").url
    make(url, CHOICE, "choice")
    code, out, said = told("ladder", "choice", "--store", url, "--json", "--figures", "pictures")
    assert code == DONE
    found = json.loads(out)
    assert [group["name"] for group in found["groups"]] == ["ladder", "choice"]
    assert [run["run"] for run in found["runs"]] == ["ladder", "choice"]
    assert {"setting": "stage prune-25x", "values": {"ladder": "there", "choice": "not there"}} in found["differences"]
    assert said.startswith("compare.html: ")
    assert found["verdict"] in said
    assert found["verdict"] in Path("compare.html").read_text()
    assert {"tradeoff.svg", "layers.png"} <= {path.name for path in Path("pictures").iterdir()}


def test_runs_of_two_stores(tmp_path: Path, told: Told) -> None:
    urls = [make(str(tmp_path / name), LADDER, "same").url for name in ("a", "b")]
    code, out, _ = told(f"same@{urls[0]}", f"same@{urls[1]}", "--out", "page.html")
    assert code == DONE
    assert "differ by their seeds alone" in out


def test_what_can_t_be_compared(tmp_path: Path, told: Told) -> None:
    url = make(str(tmp_path / "store"), LADDER, "ladder").url
    make(url, (Made("alone", kind="train", failed="no"),), "nothing", ended="failed")
    for words, text in (
        (("ladder",), "two runs or more are needed"),
        (("ladder", "ladder"), "two runs or more are needed"),
        (("ladder", "nothing"), "the run nothing has no finished network to compare"),
        (("ladder", "that"), "has no run 'that'"),
    ):
        code, _, err = told(*words, "--store", url)
        assert (code, text in err) == (BAD_INPUT, True), err
    assert not list(Path().iterdir())

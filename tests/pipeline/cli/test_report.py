"""`dualprune report`: what names a run, what is written, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dualprune.pipeline.output import BAD_INPUT, DONE
from dualprune.pipeline.reports.page import drawing
from tests.pipeline.cli.conftest import Called
from tests.pipeline.reports.page.made import CHOICE, LADDER, make

pytest.importorskip("vl_convert", reason="vl-convert-python is not installed")

CONFIG = """\
name: made
store: {store}
model: {{name: digits_cnn}}
data: {{source: digits}}
stages:
  - {{name: dense, kind: train, train: {{epochs: 1, lr: 0.1}}}}
"""
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(called: Called) -> Told:
    """A function that runs the verb in an empty folder; its exit code and what it printed."""
    return partial(called, "report")


def test_a_run_by_its_name(tmp_path: Path, told: Told) -> None:
    store = make(str(tmp_path / "store"), LADDER)
    code, out, _ = told("made", "--store", store.url)
    assert code == DONE
    page = Path("made.html")
    assert out.startswith(f"made.html: {page.stat().st_size:,} bytes; the run has finished\n")
    assert "prune-25x keeps one weight in" in page.read_text()


def test_a_run_by_its_configuration(tmp_path: Path, told: Told) -> None:
    """Which is asked for its name and its store alone."""
    make(str(tmp_path / "store"), LADDER)
    (tmp_path / "mine.yaml").write_text(CONFIG.format(store=tmp_path / "store"))
    assert told(str(tmp_path / "mine.yaml"), "--out", "one/page.html")[0] == DONE
    assert "prune-25x" in Path("one/page.html").read_text()
    (tmp_path / "mine.yaml").write_text(CONFIG.format(store=tmp_path / "elsewhere"))
    assert told(str(tmp_path / "mine.yaml"), "--set", f"store={tmp_path}/store")[0] == DONE
    assert told(str(tmp_path / "mine.yaml"), "--store", f"{tmp_path}/store")[0] == DONE


def test_a_recipe_s_name_is_that_of_a_run_first(tmp_path: Path, told: Told) -> None:
    store = make(str(tmp_path / "store"), LADDER[:1], "digits")
    assert told("digits", "--store", store.url)[0] == DONE
    code, _, err = told("mnist_lenet5", "--store", store.url)
    assert code == BAD_INPUT
    assert "has no run 'mnist-lenet5'; it has digits" in err


def test_json_and_figures(tmp_path: Path, told: Told) -> None:
    store = make(str(tmp_path / "store"), CHOICE)
    code, out, said = told("made", "--store", store.url, "--json", "--figures", "pictures")
    assert code == DONE
    found = json.loads(out)
    assert (found["file"], found["run"], found["chosen"]) == ("made.html", "made", "quantize")
    assert found["stages"][0]["metrics"] == store.artefact(CHOICE[0].key)["metrics"]  # type: ignore[index]
    assert "made.html: " in said
    names = {path.name for path in Path("pictures").iterdir()}
    assert {"tradeoff.svg", "tradeoff.png", "graph.svg", "convergence.png"} <= names
    assert Path("pictures/graph.svg").read_text().startswith("<svg")


def test_another_stage(tmp_path: Path, told: Told) -> None:
    store = make(str(tmp_path / "store"), CHOICE)
    assert told("made", "--store", store.url, "--stage", "at-once-10x")[0] == DONE
    assert "at-once-10x keeps one weight in" in Path("made.html").read_text()
    code, _, err = told("made", "--store", store.url, "--stage", "other")
    assert code == BAD_INPUT
    assert "the run made has no finished stage 'other'" in err


def test_what_is_missing_is_told(tmp_path: Path, told: Told) -> None:
    store = make(str(tmp_path / "store"), LADDER, ended=None)
    store.folder.remove(LADDER[3].key)
    _, out, _ = told("made", "--store", store.url)
    assert "the run was killed" in out
    assert "prune-25x: it was done, and its artefact is not in the store any more" in out


def test_runs_and_stores_that_are_not_there(tmp_path: Path, told: Told) -> None:
    code, _, err = told("made")
    assert (code, "there is no store at ./runs" in err) == (BAD_INPUT, True)
    store = make(str(tmp_path / "store"), LADDER)
    code, _, err = told("that", "--store", store.url)
    assert (code, "has no run 'that'; it has made" in err) == (BAD_INPUT, True)
    assert not list(Path().iterdir())


def test_a_place_that_can_t_be_written(tmp_path: Path, told: Told) -> None:
    store = make(str(tmp_path / "store"), LADDER)
    Path("file").write_text("")
    code, _, err = told("made", "--store", store.url, "--out", "file/page.html")
    assert (code, "file/page.html can't be written" in err) == (BAD_INPUT, True)


def test_a_run_s_name_is_no_path(tmp_path: Path, told: Told) -> None:
    """Names of runs that were made by hand may have anything in them."""
    make(str(tmp_path / "store"), LADDER[:1], "a/../b")
    code, _, _ = told("a/../b", "--store", str(tmp_path / "store"))
    assert code in (DONE, BAD_INPUT)
    assert [path.name for path in Path().iterdir()] in ([], ["a-..-b.html"])


def test_without_what_draws_figures(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(spec: object) -> str:
        raise drawing.NoDrawing(drawing.NEEDED)

    monkeypatch.setattr(drawing, "svg", absent)
    store = make(str(tmp_path / "store"), LADDER)
    code, _, err = told("made", "--store", store.url)
    assert (code, "pip install 'dualprune[report]'" in err) == (BAD_INPUT, True)
    assert not list(Path().iterdir())

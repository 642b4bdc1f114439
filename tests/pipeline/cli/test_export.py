"""`dualprune export`: what names an artefact, what is said of its file, and what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualprune.pipeline import output
from dualprune.pipeline.cli import export as verb
from dualprune.pipeline.cli import main as cli
from dualprune.stages.export.formats import FORMATS
from tests.stages.export.finished import KEY, committed


@pytest.fixture
def store(tmp_path: Path) -> str:
    """A store with one pruned network."""
    return committed(tmp_path / "runs", {"name": "digits_cnn"}).url


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = output.DONE) -> tuple[str, str]:
    """Run the command line; what it printed on stdout and stderr."""
    assert cli.main(["export", *arguments, "--noise", "1,8,8"]) == code
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_all_formats_can_be_asked_for() -> None:
    assert tuple(FORMATS) == verb.FORMATS


@pytest.mark.parametrize("given", ["key", "name", "folder"])
def test_an_artefact_by_any_of_its_names(
    given: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The beginning of its key, its stage's name, its folder; the facts as JSON, the same for people."""
    words = {"key": [KEY[:5], "--store", store], "name": ["small", "--store", store], "folder": [f"{store}/{KEY}/"]}
    out, err = told(capsys, *words[given], "--format", "sparse", "--out", str(tmp_path / "out"), "--json")
    facts = json.loads(out)
    file = tmp_path / "out" / "small.dps"
    assert facts["file"] == str(file)
    assert facts["bytes"] == file.stat().st_size < facts["dense_bytes"] / 3
    assert (facts["key"], facts["format"], facts["apart"]) == (KEY, "sparse", 0)
    assert f"{facts['bytes']:,} bytes" in err
    assert Path(facts["card"]).read_text().startswith("# small, as sparse\n")


def test_what_is_wrong_is_bad_input(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And no file is left."""
    wanted = [
        (["nothing", "--store", store, "--format", "torch"], "holds no stage"),
        (["small", "--store", str(tmp_path / "nowhere"), "--format", "torch"], "there is no store"),
        (["small", "--store", store, "--format", "onnx", "--half"], "--half is for sparse"),
        (["small", "--store", store, "--format", "torch", "--out", f"{store}/{KEY}/manifest.json"], "can't be written"),
    ]
    for words, said in wanted:
        assert said in told(capsys, *words, code=output.BAD_INPUT)[1]
    assert not list(tmp_path.glob("small*"))


def test_samples_of_another_shape_are_bad_input(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "small", "--store", store, "--format", "onnx", "--noise", "3,9,9"]) == output.BAD_INPUT
    assert "can't take samples of 3 x 9 x 9" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "small", "--store", store, "--format", "onnx", "--noise", "3,x"])
    assert "sizes are needed" in capsys.readouterr().err

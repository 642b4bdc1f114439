"""`run` with --force, --from, --only and --keep-going, and `plan --dot`: exit codes, what runs, what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dualprune.cluster.failures import Failure
from dualprune.pipeline import output
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.plan import make as planning
from dualprune.pipeline.run import driver
from dualprune.stages.files.folder import Folder
from tests.pipeline.cli.test_main import finished
from tests.pipeline.common import config, loaded
from tests.pipeline.run.test_driver import Script, Scripted

ALL = ("dense", "half", "v1.5-quarter", "other")


class Ran:
    """One `dualprune run` of CONFIG."""

    def __init__(
        self,
        folder: Path,
        patch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        *options: str,
        script: Script | None = None,
    ) -> None:
        self.lanes = Scripted(script or {})
        patch.setattr(driver, "Lanes", lambda *_: self.lanes)
        self.code = cli.main(["run", str(config(folder)), "--json", *options])
        printed = capsys.readouterr()
        self.out, self.err = printed.out, printed.err

    @property
    def states(self) -> dict[str, str]:
        """By name."""
        return {row["name"]: row["state"] for row in json.loads(self.out.splitlines()[-1])["stages"]}


def keys(folder: Path) -> dict[str, str]:
    """Of CONFIG's stages."""
    return {p.node.name: p.node.key for p in planning.make(*loaded(folder))[1]}


def kept(folder: Path) -> set[str]:
    """Names of the stages whose artefacts are there."""
    store = Folder(str(folder / "store"))
    return {name for name, key in keys(folder).items() if store.exists(f"{key}/manifest.json")}


def test_force_runs_a_stage_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And none of those after it: their results are what they were."""
    finished(tmp_path, *ALL)
    run = Ran(tmp_path, monkeypatch, capsys, "--force", "half")
    assert (run.code, run.lanes.submitted) == (output.DONE, ["half"])
    assert run.states == {"dense": "cached", "half": "done", "v1.5-quarter": "cached", "other": "cached"}
    assert kept(tmp_path) == set(ALL)


def test_force_deletes_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that nobody takes the old result for the new one; a failure leaves none."""
    finished(tmp_path, *ALL)
    error = Failure("error", "ValueError Exception", "broke")
    run = Ran(tmp_path, monkeypatch, capsys, "--force", "half", script={"half": [error]})
    assert run.code == output.FAILED
    assert kept(tmp_path) == {"dense", "v1.5-quarter", "other"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--force", "half", "--only", "other"], "half is not among the stages to run, so --force can't run it"),
        (["--force", "dense", "--only", "half"], "half needs dense, which is not done; run that first"),
        (["--force", "hafl"], "--force: 1 problem\n  there is no stage 'hafl'; did you mean 'half'?"),
        (["--force", "half", "--from", "nowhere"], "--from: 1 problem\n  there is no stage 'nowhere'"),
    ],
)
def test_what_is_refused_deletes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    """Bad input, with all artefacts where they were."""
    finished(tmp_path, *ALL)
    run = Ran(tmp_path, monkeypatch, capsys, *options)
    assert run.code == output.BAD_INPUT
    assert words in run.err
    assert kept(tmp_path) == set(ALL)


@pytest.mark.parametrize(
    ("options", "submitted"),
    [
        (["--from", "half"], ["half", "v1.5-quarter"]),
        (["--only", "half"], ["half"]),
        (["--only", "half", "--only", "other"], ["half", "other"]),
        (["--from", "dense"], ["half", "other", "v1.5-quarter"]),
    ],
)
def test_some_stages_alone_are_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    submitted: list[str],
) -> None:
    """What is done among them is not; all others are left out."""
    finished(tmp_path, "dense")
    run = Ran(tmp_path, monkeypatch, capsys, *options)
    assert run.code == output.DONE
    assert run.lanes.submitted == submitted
    assert {name for name, state in run.states.items() if state == "left out"} == set(ALL[1:]) - set(submitted)
    assert "4 stages, 1 of them done" in run.out + run.err


@pytest.mark.parametrize("options", [[], ["--keep-going"]])
def test_keep_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """A failure is an exit code of 1 in any case; what runs is tried again; what does not depend on it may go on."""
    finished(tmp_path, "dense")
    script: Script = {"half": [Failure("lost", "", "died"), None], "other": [Failure("error", "ValueError", "broke")]}
    run = Ran(tmp_path, monkeypatch, capsys, *options, script=script)
    assert run.code == output.FAILED
    assert (run.states["half"], run.states["other"]) == ("done", "failed")
    assert run.states["v1.5-quarter"] == ("done" if options else "skipped")


def test_a_plans_graph_is_all_that_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that it can be piped."""
    finished(tmp_path, "dense")
    assert cli.main(["plan", str(config(tmp_path)), "--dot"]) == output.DONE
    printed = capsys.readouterr().out
    assert printed.startswith("digraph plan {")
    assert printed.rstrip().endswith("}")
    assert '"dense" -> "half";' in printed

"""What is checked, sent and said for a Ray cluster's sake, with jobs that follow a script."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualprune.cluster.errors import ClusterError
from dualprune.cluster.jobs import Listed, State
from dualprune.pipeline.cli import main as cli
from dualprune.pipeline.cli.jobs import PACKAGE, SENT, exit_code, package, told
from dualprune.pipeline.output import BAD_INPUT, DONE, FAILED, STOPPED
from dualprune.pipeline.store.store import Store
from tests.pipeline.common import config

ADDRESS = "http://head:8265"
RUNNING = State("RUNNING", False, None, "")
STATES = {
    "done": (State("SUCCEEDED", True, 0, ""), DONE, "succeeded"),
    "done by an old Ray, which tells no code": (State("SUCCEEDED", True, None, ""), DONE, "succeeded"),
    "a stage failed": (State("FAILED", True, 1, "...logs..."), FAILED, "failed with exit code 1"),
    "bad input": (State("FAILED", True, 2, "...logs..."), BAD_INPUT, "failed with exit code 2"),
    "killed": (State("FAILED", True, -9, "...logs..."), 137, "failed with exit code -9"),
    "never began": (State("FAILED", True, None, "no such wheel"), FAILED, "failed before its command ended: no such"),
    "stopped": (State("STOPPED", True, None, ""), STOPPED, "stopped; what it has done is kept"),
}


class Scripted:
    """Stands in for cluster.jobs.Jobs."""

    def __init__(self, state: State = RUNNING, output: str = "", error: Exception | None = None) -> None:
        self.address, self.output, self.error = ADDRESS, output, error
        self.states = [state]
        self.sent: dict[str, Any] = {}
        self.there = [
            Listed("tiny-20260102-000000-aaaa", "RUNNING", 100.0, None, ""),
            Listed("tiny-20260101-000000-bbbb", "FAILED", 10.0, 75.0, "..."),
        ]

    def __call__(self, address: str) -> Scripted:
        """As a class is called."""
        if isinstance(self.error, ClusterError):
            raise self.error
        self.address = address
        return self

    def submit(self, name: str, command: str, folder: Path, modules: list[Path]) -> str:
        """Note what is sent."""
        assert all((module / "__init__.py").exists() for module in modules)
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.sent = {"name": name, "command": command, "files": files}
        return f"{name}-1"

    def state(self, job: str) -> State:
        """The state now."""
        return self.states[-1]

    def all(self) -> list[Listed]:
        """The newest first."""
        if self.error is not None and isinstance(self.error, ClusterError):
            raise self.error
        return self.there

    def log(self, job: str) -> str:
        """All output."""
        return self.output

    def follow(self, job: str, write: Callable[[str], None]) -> State:
        """All output, and then what the script says."""
        write(self.output)
        if self.error is not None:
            raise self.error
        return self.states[-1]

    def stop(self, job: str) -> State:
        """It stops."""
        self.states.append(STATES["stopped"][0])
        return self.states[-1]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    """Puts jobs by a script in the place of real ones."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)

    def put(*args: Any, **kwargs: Any) -> Scripted:
        scripted = Scripted(*args, **kwargs)
        monkeypatch.setattr("dualprune.cluster.jobs.Jobs", scripted)
        return scripted

    return put


def test_submit(jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code and the file go, nothing is written to the store, and what to type next is said."""
    scripted = jobs()
    path = config(tmp_path)
    settings = ["--set", "stages.dense.train.epochs=3", "--set", "data={shards: s3://a bucket/shards}"]
    assert cli.main(["submit", str(path), "--address", ADDRESS, *settings, "--keep-going", "--smoke"]) == DONE
    assert scripted.sent["name"] == "tiny"
    assert scripted.sent["files"]["configs/file.yaml"] == path.read_bytes()
    given = [*settings, "--set", "cluster.address=auto", "--keep-going", "--smoke"]
    words = shlex.split(scripted.sent["command"])
    assert words[words.index("-m") :] == ["-m", "dualprune", "run", "configs/file.yaml", *given]
    assert not (tmp_path / "store").exists()
    printed = capsys.readouterr().out
    assert "tiny-1: submitted to http://head:8265, 4 stages" in printed
    assert "dualprune logs tiny-1 --address http://head:8265 --follow" in printed
    assert "dualprune stop tiny-1 --address http://head:8265\n" in printed
    assert f"dualprune status {path} {shlex.join(settings)}\n" in printed


def test_the_address_may_come_from_the_environment(
    jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the variable that Ray's own command line knows; it need not be typed again then."""
    scripted = jobs()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ADDRESS)
    assert cli.main(["submit", str(config(tmp_path))]) == DONE
    assert scripted.address == ADDRESS
    assert "dualprune stop tiny-1\n" in capsys.readouterr().out


def test_without_an_address(jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is asked for."""
    jobs()
    with pytest.raises(SystemExit) as ended:
        cli.main(["submit", str(config(tmp_path))])
    assert ended.value.code == BAD_INPUT
    assert "--address" in capsys.readouterr().err


def test_all_problems_at_once_and_nothing_sent(
    jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Places that other machines don't have, beside what is wrong in any case."""
    scripted = jobs(error=ClusterError("is not asked"))
    path = config(tmp_path, ("rate: 2", "rate: 0.5"))
    wrong = ["--set", "store=./runs", "--set", "data={source: mnist, folder: ~/mnist}"]
    assert cli.main(["submit", str(path), "--address", ADDRESS, *wrong]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "3 problems" in printed.err
    assert "file.yaml:16: stages[1].constraints[0].rate" in printed.err
    assert "--set store=./runs: store: ./runs would be another place on the cluster's machines" in printed.err
    assert "data.folder: ~/mnist would be another place" in printed.err
    assert scripted.sent == {}


def test_modules_that_are_not_there_are_told_before_anything_is_sent(
    jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the data too, which is not looked at here; and a network's folder is where the cluster's machines are."""
    scripted = jobs(error=ClusterError("is not asked"))
    path = config(tmp_path)
    wrong = ["--set", "data={source: 'no_such_data:rows'}", "--set"]
    bert = "model={name: 'transformers:BertModel', args: {config: no/such/folder}}"
    assert cli.main(["submit", str(path), "--address", ADDRESS, *wrong, bert]) == BAD_INPUT
    printed = capsys.readouterr().err
    assert "there is no module no_such_data, neither beside the configuration nor" in printed
    assert "no/such/folder would be another place on the cluster's machines" in printed
    assert scripted.sent == {}


def test_paths_that_mean_something_here_only(
    jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is told once, with its line, also where stages have their own."""
    jobs()
    path = config(
        tmp_path,
        (f"store: {tmp_path / 'store'}\n", ""),
        ("    train: {epochs: 2, lr: 4e-3}", "    train: {epochs: 2, lr: 4e-3}\n    data: {shards: there}"),
        ("model: {name: digits_cnn}", "model: {name: digits_cnn, weights: ./w.pth}"),
    )
    assert cli.main(["submit", str(path), "--address", ADDRESS]) == BAD_INPUT
    printed = capsys.readouterr().err
    assert "3 problems" in printed
    assert "file.yaml:4: model.weights: ./w.pth would be" in printed
    assert "file.yaml:1: store: ./runs would be" in printed
    assert "file.yaml:11: stages[0].data.shards: there would be" in printed
    assert "an absolute path on a filesystem that all machines share, or a bucket's URL" in printed


@pytest.mark.parametrize("place", ["/shared/runs", "file:///shared/runs", "s3://bucket/runs", "gs://bucket"])
def test_places_that_all_machines_have(jobs: Callable[..., Scripted], tmp_path: Path, place: str) -> None:
    """They need not be reached from here."""
    jobs()
    for also in (f"store={place}", f"model.weights={place}/w.pth", "model.weights=torchvision"):
        sets = ["--set", f"store={place}", "--set", also]
        assert cli.main(["submit", str(config(tmp_path)), "--address", ADDRESS, *sets]) == DONE


@pytest.mark.parametrize("verb", [["submit", "CONFIG"], ["logs", "tiny-1"], ["stop", "tiny-1"], ["jobs"]])
def test_a_cluster_that_says_no(
    jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    """One message, no traceback."""
    jobs(error=ClusterError("http://head:8265 wants a token"))
    arguments = [str(config(tmp_path)) if word == "CONFIG" else word for word in verb]
    assert cli.main([*arguments, "--address", ADDRESS]) == BAD_INPUT
    assert capsys.readouterr().err == f"--address {ADDRESS}: 1 problem\n  http://head:8265 wants a token\n"


@pytest.mark.parametrize(("state", "code", "text"), STATES.values(), ids=STATES)
def test_how_a_job_ended(state: State, code: int, text: str) -> None:
    """As an exit code, and in words."""
    assert exit_code(state) == code
    assert told(state).startswith(text)


@pytest.mark.parametrize(("state", "code", "text"), STATES.values(), ids=STATES)
@pytest.mark.parametrize("verb", [["submit", "CONFIG"], ["logs", "tiny-1"]])
def test_following_ends_as_the_job_does(
    jobs: Callable[..., Scripted],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    state: State,
    code: int,
    text: str,
    verb: list[str],
) -> None:
    """With all that it printed, and a word on an end that was not good."""
    jobs(state, "first\n[red]second\n")
    arguments = [str(config(tmp_path)) if word == "CONFIG" else word for word in verb]
    assert cli.main([*arguments, "--address", ADDRESS, "--follow"]) == code
    printed = capsys.readouterr().out
    assert "first\n[red]second\n" in printed
    assert (f"tiny-1: {text}" in printed) == (code != DONE)


@pytest.mark.parametrize("verb", [["submit", "CONFIG"], ["logs", "tiny-1"]])
def test_leaving_a_job_that_is_followed(
    jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    """Ctrl-C ends the following, not the job, and says so."""
    scripted = jobs(output="first\n", error=KeyboardInterrupt())
    arguments = [str(config(tmp_path)) if word == "CONFIG" else word for word in verb]
    assert cli.main([*arguments, "--address", ADDRESS, "--follow"]) == STOPPED
    printed = capsys.readouterr().out
    assert "tiny-1 goes on" in printed
    assert f"To stop it: dualprune stop tiny-1 --address {ADDRESS}\n" in printed
    assert scripted.states == [RUNNING]


def test_json(jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on stdout, all else on stderr."""
    jobs(STATES["a stage failed"][0], "output\n")
    arguments = ["submit", str(config(tmp_path)), "--address", ADDRESS, "--json"]
    assert cli.main(arguments) == DONE
    expected: dict[str, Any] = {"run": "tiny", "job": "tiny-1", "address": ADDRESS}
    assert json.loads(capsys.readouterr().out) == expected
    assert cli.main([*arguments, "--follow"]) == FAILED
    printed = capsys.readouterr()
    assert json.loads(printed.out) == expected | {"exit_code": FAILED}
    assert "output\n" in printed.err


def test_logs(jobs: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    """What it has printed on stdout, how it is on stderr."""
    jobs(RUNNING, "first\nsecond\n")
    assert cli.main(["logs", "tiny-1", "--address", ADDRESS]) == DONE
    printed = capsys.readouterr()
    assert printed.out == "first\nsecond\n"
    assert printed.err == "tiny-1: running\n"


def test_stop(jobs: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    """Says when it has stopped; and of a job that had ended, that it had."""
    scripted = jobs(RUNNING)
    assert cli.main(["stop", "tiny-1", "--address", ADDRESS]) == DONE
    assert "tiny-1: stopped; what it has done is kept" in capsys.readouterr().out
    assert len(scripted.states) == 2
    assert cli.main(["stop", "tiny-1", "--address", ADDRESS]) == DONE
    assert "tiny-1 had ended: stopped" in capsys.readouterr().out
    assert len(scripted.states) == 2


def test_jobs(jobs: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    """A row each; as JSON too."""
    scripted = jobs()
    assert cli.main(["jobs", "--address", ADDRESS]) == DONE
    head, *rows, last = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head == ["job", "state", "started", "took"]
    assert [row[:2] for row in rows] == [[one.job, one.status.lower()] for one in scripted.there]
    assert (rows[1][-1], last) == ("1:05", [f"{ADDRESS}:", "2", "jobs"])
    assert cli.main(["jobs", "--address", ADDRESS, "--json"]) == DONE
    value = json.loads(capsys.readouterr().out)
    assert (value["address"], value["jobs"][1]["ended"]) == (ADDRESS, 75.0)


def test_a_job_by_its_run(jobs: Callable[..., Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the run's name or by its configuration: the newest; and by its id as before."""
    scripted = jobs(RUNNING, "first\n")
    newest, old = (one.job for one in scripted.there)
    for given, found in (("tiny", newest), (str(config(tmp_path)), newest), (old, old), ("other", "other")):
        assert cli.main(["logs", given, "--address", ADDRESS]) == DONE
        assert capsys.readouterr().err == f"{found}: running\n"
    assert cli.main(["stop", "tiny", "--address", ADDRESS]) == DONE
    assert f"{newest}: stopped" in capsys.readouterr().out


def test_a_package_is_all_that_a_run_needs(tmp_path: Path) -> None:
    """A plan can be made in a folder of it, with nothing else of ours on the path; and nothing else is in it.

    A network of the user's own goes with it.
    """
    odd = config(tmp_path, ("{name: digits_cnn}", '{name: "sent_net:make"}')).rename(tmp_path / "odd name.yaml")
    own = {
        "sent_net.py": b"from dualprune.stages.networks.builtin import digits_cnn\ndef make(): return digits_cnn(10)\n"
    }
    command = package(odd, ["--set", f"store={tmp_path}/a store"], tmp_path / "sent", own)
    files = [str(file.relative_to(tmp_path / "sent")) for file in (tmp_path / "sent").rglob("*") if file.is_file()]
    assert not [file for file in files if not file.endswith((".py", ".yaml", "py.typed", ".html", ".css", ".js"))]
    assert {file.split("/")[0] for file in files} == {PACKAGE, SENT}
    assert {file for file in files if file.startswith(SENT)} == {"job/configs/odd name.yaml", "job/configs/sent_net.py"}
    # As a cluster's head does it, with `python` found on its path.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    site = str(Path(pytest.__file__).parent.parent)
    path = f"{tmp_path / 'sent'}:{site}"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": path, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace("dualprune run", "dualprune plan")],
        cwd=tmp_path / "sent" / SENT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == DONE, done.stderr
    assert "v1.5-quarter" in done.stdout
    assert Store(f"{tmp_path}/a store").folder.exists()

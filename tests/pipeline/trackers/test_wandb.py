"""Weights & Biases: what is mirrored is read back from its offline files; what is broken harms nothing."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from dualprune.cluster.monitor import USED, Monitor, choose

LOSSES = {"half": [0.5, 0.25, 0.125], "other": [1.5, 1.25]}
RESIDUALS = {"half": [0.3, 0.2, 0.1], "other": [0.9, 0.7]}


@pytest.fixture
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account, no network, and nothing written but below `tmp_path`."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-own"))


def records(path: Path) -> Iterator[Any]:
    """The whole records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + size > len(data):
            return
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def runs(folder: Path) -> dict[str, tuple[Any, list[dict[str, Any]], dict[str, Any], int | None]]:
    """Of each run by name: its description, its rows, its summary's changes, its exit code."""
    found = {}
    for path in folder.rglob("*.wandb"):
        # W&B's own process may write a moment after the run was finished.
        limit = time.monotonic() + 20.0
        while not any(r.WhichOneof("record_type") == "exit" for r in records(path)) and time.monotonic() < limit:
            time.sleep(0.05)
        run, rows, summary, code = None, [], {}, None
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run = record.run
            elif kind == "history":
                rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.history.item})
            elif kind == "summary":
                summary |= {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
            elif kind == "exit":
                code = record.exit.exit_code
        assert run is not None
        found[run.display_name] = (run, rows, summary, code)
    return found


@pytest.mark.usefixtures("_offline")
def test_two_tasks_at_once_are_mirrored(tmp_path: Path) -> None:
    """Each has a run of its own, all in one group, with just the rows and the summary that were given."""
    monitor = Monitor("auto", "project", "group", tmp_path / "logs")
    monitor.start("half", "tiny-0123", "prune", {"spec": {"admm": {"rho": 0.003}}})
    monitor.start("other", "tiny-4567", "train", {})
    for epoch in range(3):
        for task in ("half", "other"):
            if epoch < len(LOSSES[task]):
                row = {"epoch": epoch, "loss": LOSSES[task][epoch], "residual": RESIDUALS[task][epoch]}
                monitor.log(task, row, 10 * (epoch + 1))
    monitor.finish("half", {"val_accuracy": 97.5, "rate": None}, failed=False)
    monitor.finish("other", {}, failed=True)
    monitor.close(60.0)
    found = runs(tmp_path / "logs")
    assert sorted(found) == ["half", "other"]
    for task, (run, rows, _, _) in found.items():
        assert (run.project, run.run_group) == ("project", "group")
        assert [row["loss"] for row in rows] == LOSSES[task]
        assert [row["residual"] for row in rows] == RESIDUALS[task]
        assert [row["_step"] for row in rows] == [10 * (n + 1) for n in range(len(rows))]
    (half, _, summary, code), (other, _, _, failed) = found["half"], found["other"]
    assert (half.run_id, half.job_type, other.run_id, other.job_type) == ("tiny-0123", "prune", "tiny-4567", "train")
    config = {item.key: json.loads(item.value_json) for item in half.config.update}
    assert config["spec"] == {"admm": {"rho": 0.003}}
    assert summary["val_accuracy"] == 97.5
    assert (code, failed) == (0, 1)


@pytest.mark.usefixtures("_offline")
def test_close_finishes_what_is_open(tmp_path: Path) -> None:
    """As failed: nobody said that it came to a good end."""
    monitor = Monitor("offline", "project", "group", tmp_path / "logs")
    monitor.start("half", "tiny-0123", "prune", {})
    monitor.log("half", {"loss": math.inf}, 1)
    monitor.close(60.0)
    assert runs(tmp_path / "logs")["half"][3] == 1


def test_a_broken_wandb_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every call returns; what went wrong is in the log."""
    import wandb

    def init(**_: Any) -> None:
        raise OSError("no service")

    monkeypatch.setattr(wandb, "init", init)
    with caplog.at_level(logging.WARNING):
        monitor = Monitor("offline", "project", "group", tmp_path / "logs")
        monitor.start("half", "tiny-0123", "prune", {})
        monitor.log("half", {"loss": 1.0}, 1)
        monitor.finish("half", {}, failed=False)
        monitor.close()
    assert not monitor._thread.is_alive()
    messages = [record.getMessage() for record in caplog.records if record.name == "dualprune.cluster.monitor"]
    assert messages[0] == "W&B: start failed; training goes on"
    assert all(message.endswith("training goes on") for message in messages)


def test_a_run_that_breaks_later_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that can't be logged is lost; the rows of other tasks are not."""
    import wandb

    class Run:
        def __init__(self, name: str) -> None:
            self.name, self.rows, self.summary, self.code = name, [], {}, -1

        def log(self, row: dict[str, Any], step: int) -> None:
            if self.name == "half":
                raise RuntimeError("broken")
            self.rows.append((row, step))

        def finish(self, exit_code: int) -> None:
            self.code = exit_code

    made: dict[str, Run] = {}
    monkeypatch.setattr(wandb, "init", lambda name, **_: made.setdefault(name, Run(name)))
    monitor = Monitor("offline", "project", "group", tmp_path / "logs")
    for task in ("half", "other"):
        monitor.start(task, task, "prune", {})
        monitor.log(task, {"loss": 1.0}, 1)
        monitor.finish(task, {"rate": 2.0}, failed=False)
    monitor.close()
    assert made["other"].rows == [({"loss": 1.0}, 1)]
    assert [(run.code, run.summary) for run in made.values()] == [(0, {"rate": 2.0})] * 2


def test_a_slow_wandb_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No call waits for it, and `close` no longer than it is told to."""
    import wandb

    released = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **_: released.wait(30.0))
    monitor = Monitor("offline", "project", "group", tmp_path / "logs")
    began = time.monotonic()
    monitor.start("half", "tiny-0123", "prune", {})
    monitor.log("half", {"loss": 1.0}, 1)
    monitor.close(0.1)
    assert time.monotonic() - began < 10.0
    assert "left behind" in caplog.text
    released.set()
    monitor._thread.join()


def test_disabled_is_nothing_at_all(tmp_path: Path) -> None:
    """No thread, no files, and nothing waits."""
    monitor = Monitor("disabled", "project", "group", tmp_path / "logs")
    monitor.start("half", "tiny-0123", "prune", {})
    monitor.log("half", {}, 1)
    monitor.finish("half", {}, failed=False)
    monitor.close()
    assert not monitor._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


KEY = "0123456789" * 4
LOGIN = f"machine {{host}} login user password {KEY}"
FILES = "[default]\nmode = offline\n"


@pytest.fixture
def _asked_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wandb reads its settings and keys once a process: here once a test, in a folder without any."""
    import wandb
    from wandb.sdk.lib import wbauth

    def forget() -> None:
        wandb.teardown()
        wbauth.unauthenticate_session(update_settings=False)

    forget()
    monkeypatch.chdir(tmp_path)
    yield
    forget()


@pytest.mark.parametrize(
    ("environment", "login", "files", "expected"),
    [
        ({}, None, None, "offline as wandb has no key for "),
        ({"WANDB_API_KEY": KEY}, None, None, "online at "),
        ({"WANDB_API_KEY": "short"}, None, None, "offline as wandb takes no key for .*WANDB_API_KEY invalid"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, None, None, "offline as WANDB_MODE says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, None, None, "offline as WANDB_MODE says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, None, None, "disabled as WANDB_MODE says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "nonsense"}, None, None, "disabled as wandb does not take .*nonsense"),
        ({"WANDB_API_KEY": KEY, "WANDB_DISABLED": "true"}, None, None, "disabled as WANDB_DISABLED says$"),
        ({"WANDB_API_KEY": KEY}, None, FILES, "offline as .*/wandb/settings says$"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, None, FILES, "online at "),
        ({"WANDB_API_KEY": KEY}, None, FILES.replace("offline", "disabled"), "disabled as .*/wandb/settings says$"),
        ({}, LOGIN.format(host="api.wandb.ai"), None, "online at "),
        ({}, LOGIN.format(host="example.org"), None, "offline as wandb has no key for "),
        (
            {"WANDB_BASE_URL": "https://example.org:8080"},
            LOGIN.format(host="example.org:8080"),
            None,
            "online at .*:8080",
        ),
        ({}, "not a netrc file", None, "offline as wandb has no key for "),
    ],
)
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_auto_is_what_wandb_itself_would_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    login: str | None,
    files: str | None,
    expected: str,
) -> None:
    """By its variables, its files of settings and the keys that it finds; it says which, and nothing of its own."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if login is not None:
        (tmp_path / "no-netrc").write_text(login)
        (tmp_path / "no-netrc").chmod(0o600)
    if files is not None:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text(files)
    chosen = choose("auto")
    assert re.match(expected, f"{chosen.mode} {chosen.why}"), chosen
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("number", range(len(USED)))
@pytest.mark.parametrize("wanted", ["auto", "online"])
def test_a_wandb_that_lacks_what_is_used_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, wanted: Literal["auto", "online"], number: int
) -> None:
    """Whichever of its names another version calls otherwise; it says so, and training goes on without."""
    module, name = USED[number]
    used = (*USED[:number], (module, f"{name}_no_more"), *USED[number + 1 :])
    monkeypatch.setattr("dualprune.cluster.monitor.USED", used)
    chosen = choose(wanted)
    text = rf"as wandb \S+ lacks {module}\.{name}_no_more, which dualprune uses: install one of the versions "
    assert chosen.mode == "disabled"
    assert re.match(text, chosen.why)


@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_a_login_is_found(tmp_path: Path) -> None:
    """Under whichever host this wandb writes it down; `wandb offline` goes before it, in its folder."""
    code = f"import wandb; wandb.login(key={KEY!r}, verify=False)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"WANDB_SILENT": "true"})
    assert KEY in (tmp_path / "no-netrc").read_text()
    code = "from dualprune.cluster.monitor import choose; print(choose('auto').mode)"

    def mode() -> str:
        return subprocess.run([sys.executable, "-c", code], check=True, stdout=-1, text=True).stdout

    assert mode() == "online\n"
    subprocess.run([sys.executable, "-m", "wandb", "offline"], check=True)
    assert mode() == "offline\n"


@pytest.mark.parametrize(
    ("wanted", "environment", "expected"),
    [
        ("online", {}, "offline though monitor.wandb says online, as wandb has no key"),
        ("online", {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "online at "),
        ("offline", {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "offline as monitor.wandb says"),
        ("disabled", {"WANDB_API_KEY": KEY, "WANDB_MODE": "online"}, "disabled as monitor.wandb says"),
    ],
)
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_a_mode_that_is_configured_goes_before_wandbs_own(
    monkeypatch: pytest.MonkeyPatch, wanted: Any, environment: dict[str, str], expected: str
) -> None:
    """As an argument of `wandb.init` does. Nobody is asked for a key."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = choose(wanted)
    assert f"{chosen.mode} {chosen.why}".startswith(expected)


@pytest.mark.parametrize(("given", "project"), [(None, "theirs"), ("ours", "ours")])
@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_the_project_is_wandbs_own_where_none_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, project: str
) -> None:
    """WANDB_PROJECT, that is, or `wandb init`'s."""
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monitor = Monitor("offline", given, "group", tmp_path / "logs")
    monitor.close()
    assert monitor.project == project


class Refuses(BaseHTTPRequestHandler):
    """A service that takes nothing."""

    def do_POST(self) -> None:
        """Say so, as W&B's does of a project that is not there."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b'{"errors": [{"message": "no such project"}]}')

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.mark.usefixtures("_offline", "_asked_anew")
def test_a_service_that_takes_no_run_leaves_offline_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And that is told, as the first line said otherwise."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    told: list[str] = []
    monitor = Monitor("auto", "project", "group", tmp_path / "logs", told.append)
    assert str(monitor).startswith(f"W&B: online at http://127.0.0.1:{server.server_port}")
    for task in ("half", "other"):
        monitor.start(task, f"tiny-{task}", "prune", {})
        monitor.log(task, {"loss": 1.0}, 1)
        monitor.finish(task, {}, failed=False)
    monitor.close(120.0)
    server.shutdown()
    for path in (tmp_path / "logs").glob("wandb/run-*/*.wandb"):
        path.unlink()  # what is left of the try to be online
    assert {name: [row["loss"] for row in rows] for name, (_, rows, _, _) in runs(tmp_path / "logs").items()} == {
        "half": [1.0],
        "other": [1.0],
    }
    assert len(told) == 1
    assert re.match(r"W&B: offline from here on, in .*/logs, because it took no run: .*no such project", told[0])

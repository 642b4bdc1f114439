"""A Ray cluster with token authentication: runs submitted to it, watched, stopped; and a driver that is not on it.

Its nodes have dualprune's dependencies but not dualprune: the packages are sent along.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.processes import marked
from tests.running import CONFIG, Running, dualprune, json_of, stage
from tests.test_own import put
from tests.test_run import LEFT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Cluster:
    """A head and two more nodes on this machine, of one CPU each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token, self.mark = folder, secrets.token_hex(32), secrets.token_hex(8)
        self.port, self.dashboard, self.client = free_ports(3)
        self.address = f"http://127.0.0.1:{self.dashboard}"
        # Ray's sockets lie in it, and their paths have to be short.
        self.session = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        venv.create(folder / "bare", with_pip=False)
        self.python = folder / "bare" / "bin" / "python"
        self.nodes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Start all nodes."""
        port, client = self.port, self.client
        head = ["--head", f"--port={port}", f"--temp-dir={self.session}", f"--ray-client-server-port={client}"]
        dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        self.start(*head, *dashboard)
        for _ in range(2):
            self.start(f"--address=127.0.0.1:{port}")

    @property
    def environment(self) -> dict[str, str]:
        """Of its nodes: the dependencies without the .pth files that editable installs work by, and a token."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "WANDB_", "VIRTUAL_ENV", "DUALPRUNE"))}
        return own | {
            "PATH": f"{self.python.parent}:{own['PATH']}",
            "PYTHONPATH": str(Path(torch.__file__).parent.parent),
            "HOME": str(self.home(self.token)),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "DUALPRUNE_MARK": self.mark,
        }

    def home(self, token: str | None) -> Path:
        """A home folder of somebody who has a token, or none."""
        folder = self.folder / "homes" / (token or "none")
        (folder / ".ray").mkdir(parents=True, exist_ok=True)
        if token is not None:
            (folder / ".ray" / "auth_token").write_text(token)
        return folder

    def start(self, *arguments: str) -> None:
        """One more node, in the foreground, so that its end is the end of its processes and of no other's."""
        command = [str(self.python), "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block", *arguments]
        command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        # Ray gives its processes half a minute to start, in which a busy machine may not do it.
        assert any(self.started(command) for _ in range(5)), (self.folder / "node.log").read_text()

    def started(self, command: list[str]) -> bool:
        """Whether a node comes up."""
        path = self.folder / "node.log"
        with path.open("wb") as log:
            node = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.nodes.append(node)
        wait(lambda: "Ray runtime started" in path.read_text() or node.poll() is not None, path.read_text)
        return node.poll() is None

    def end(self) -> None:
        """End all nodes, the head last; nothing of it is left after that."""
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(timeout=120)
        wait(lambda: not marked(self.mark), lambda: str(marked(self.mark)))
        shutil.rmtree(self.session, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 300) -> None:
    """Return once a condition holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, what()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose processes are all gone after the last test."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        call = [cluster.python, "-c", "import dualprune"]
        if subprocess.run(call, env=cluster.environment, cwd="/", capture_output=True, check=False).returncode == 0:
            pytest.skip("dualprune is installed as a copy into site-packages, so no environment here lacks it")
        cluster.begin()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def home(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Makes this machine's user one who has a token, or none; it begins with the right one."""

    def put(token: str | None) -> None:
        monkeypatch.setenv("HOME", str(cluster.home(token)))

    put(cluster.token)
    return put


@pytest.fixture
def submit(cluster: Cluster, home: object, tmp_path: Path) -> list[str]:
    """Arguments of a submission: of a network, a data set and an objective of the user's own."""
    put(tmp_path)
    own = CONFIG.replace("{name: digits_cnn}", "{name: 'mynet:small', args: {width: 16}}\nobjective: 'mytask:digits'")
    own = own.replace("{source: digits,", "{source: 'mydata:samples', args: {most: 1700},")
    assert own.count("my") == 3
    (tmp_path / "small.yaml").write_text(own)
    return ["submit", "small.yaml", "--address", cluster.address, "--set", f"store={tmp_path / 'runs'}"]


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_without_the_token(
    cluster: Cluster, submit: list[str], home: Callable[[str | None], None], tmp_path: Path, token: str | None
) -> None:
    """One message that says what is wanted and where it is put, from each verb; nothing has run."""
    home(token)
    refused = "wants a token, and there is none here" if token is None else "refuses the token in "
    for verb in (submit, ["logs", "some-job", "--address", cluster.address]):
        code, output = dualprune(tmp_path, *verb)
        assert code == 2, "\n".join(output)
        assert len(output) == 2
        assert f"{cluster.address} {refused}" in output[1]
        assert "into ~/.ray/auth_token, or into a file that RAY_AUTH_TOKEN_PATH names" in output[1]
    assert not (tmp_path / "runs").exists()


def test_a_submitted_run(cluster: Cluster, submit: list[str], tmp_path: Path) -> None:
    """It runs on both nodes, is watched in its store, its log is followed; submitted again, it does nothing."""
    code, output = dualprune(tmp_path, *submit, "--json")
    assert code == 0, "\n".join(output)
    job = json_of(output)["job"]
    assert f"{job}: submitted to {cluster.address}, 3 stages" in output[0]
    watching = Running(tmp_path, "watch", *submit[1:2], *submit[4:], "--json")
    code, log = dualprune(tmp_path, "logs", job, "--address", cluster.address, "--follow")
    assert code == 0, "\n".join(log)
    assert any(line.startswith("prune-8x: done: ") for line in log)
    code, watched = watching.end()
    assert code == 0, "\n".join(watched)
    assert any(line.startswith("prune-4x: ") for line in watched)
    rows = json_of(watched)["stages"]
    assert [(row["state"], row["nonzeros"]) for row in rows[1:]] == [("done", sum(k.values())) for k in LEFT.values()]
    ranks = {file.name for file in (tmp_path / "runs" / "logs").glob("small/*/lane-*.log")}
    assert ranks == {"lane-0-rank-0.log", "lane-0-rank-1.log"}

    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/*.safetensors")}
    code, output = dualprune(tmp_path, *submit, "--follow")
    assert code == 0, "\n".join(output)
    assert "small: 3 stages, 3 of them done; nothing to run" in output
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/*.safetensors")} == files
    code, output = dualprune(tmp_path, "logs", job, "--address", cluster.address)
    assert (code, output[-1]) == (0, f"{job}: succeeded")
    code, output = dualprune(tmp_path, "jobs", "--address", cluster.address, "--json")
    listed = [one["job"] for one in json_of(output)["jobs"] if one["status"] == "SUCCEEDED"]
    assert (code, listed[1:2]) == (0, [job])
    for given in ("small", "small.yaml"):
        code, output = dualprune(tmp_path, "logs", given, "--address", cluster.address)
        assert (code, output[-1]) == (0, f"{listed[0]}: succeeded")


def test_a_stopped_job(cluster: Cluster, submit: list[str], tmp_path: Path) -> None:
    """It saves where it is, says how to go on, and leaves none of its processes; its stage can be resumed."""
    submit += ["--set", "stages.dense.train.epochs=100000", "--json"]
    code, output = dualprune(tmp_path, *submit)
    assert code == 0, "\n".join(output)
    job, there = json_of(output)["job"], ["--address", cluster.address]
    following = Running(tmp_path, "logs", job, *there, "--follow")
    following.wait_for_checkpoint(tmp_path / "runs")
    assert [title for _, title in marked(cluster.mark) if "RayTrainWorker" in title]
    code, output = dualprune(tmp_path, "stop", job, *there)
    assert code == 0, "\n".join(output)
    assert output[-1].startswith(f"{job}: stopped; what it has done is kept")
    code, log = following.end()
    assert code == 130, "\n".join(log)
    assert "stopped; the same command goes on from what is saved" in log
    assert "Traceback" not in "\n".join(log)
    of_the_job = ("RayTrainWorker", "TrainController", "dualprune run", "JobSupervisor")
    wait(
        lambda: not [title for _, title in marked(cluster.mark) if any(name in title for name in of_the_job)],
        lambda: str(marked(cluster.mark)),
    )
    code, output = dualprune(tmp_path, "status", *submit[1:2], *submit[4:])
    assert code == 0, "\n".join(output)
    assert stage(output, "dense")["state"] == "resume"
    code, output = dualprune(tmp_path, "stop", job, *there)
    assert (code, output[0].startswith(f"{job} had ended: stopped")) == (0, True)


@pytest.mark.soak
def test_a_driver_that_is_not_on_the_cluster(
    cluster: Cluster, home: Callable[[str | None], None], tmp_path: Path
) -> None:
    """`run` with the cluster's address: refused without a token and where there is no room, and run."""
    (tmp_path / "small.yaml").write_text(CONFIG)
    address = ["--set", f"cluster.address=127.0.0.1:{cluster.port}"]
    code, output = dualprune(tmp_path, "run", "small.yaml", *address, "--set", "cluster.workers=64")
    assert code == 2, "\n".join(output)
    assert "a stage's workers need 64 CPUs at once, and the cluster has 3" in output[-1]
    settings = ["cluster.workers=1", "stages.dense.train.epochs=1", "stages.prune-4x.admm.updates=1"]
    settings += ["stages.prune-4x.retrain.epochs=1"]
    arguments = ["run", "small.yaml", "--json", *address, *(p for s in settings for p in ("--set", s))]
    home(None)
    code, output = dualprune(tmp_path, *arguments)
    assert code == 2, "\n".join(output)
    assert f"no Ray cluster lets us in at 127.0.0.1:{cluster.port}" in output[-1]
    assert "if it wants a token, put the cluster's token into ~/.ray/auth_token" in output[-1]
    assert not [line for line in output if "InvalidAuthToken" in line]
    home(cluster.token)
    code, output = dualprune(tmp_path, *arguments)
    assert code == 0, "\n".join(output)
    assert [row["state"] for row in json_of(output)["stages"]] == ["done"] * 3


def test_nothing_listens_where_the_dashboard_should_be(tmp_path: Path) -> None:
    """Said at once, where Ray would try for minutes."""
    (port,) = free_ports(1)
    code, output = dualprune(tmp_path, "logs", "some-job", "--address", f"http://127.0.0.1:{port}")
    assert code == 2, "\n".join(output)
    assert f"nothing answers at 127.0.0.1:{port}" in output[1]

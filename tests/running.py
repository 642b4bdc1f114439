"""Whole runs for tests: the command line in a process of its own, what it leaves, and Ray clusters to run it on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from tests.processes import PATH

CONFIG = """
name: small
cluster: {workers: 2}
model: {name: digits_cnn}
data: {source: digits, mean: [0.3], std: [0.38], shift: 1}
monitor: {wandb: offline}
stages:
  - name: dense
    kind: train
    train: {epochs: 4, lr: 0.004}
  - name: prune-4x
    kind: prune
    parent: dense
    duals: carry
    constraints:
      - {set: cardinality, tensors: "[02].weight", rate: 2}
      - {set: cardinality, tensors: "[68].weight", rate: 4}
    admm: {updates: 4, epochs: 2, lr: 0.002, rho: 0.01, rho_growth: 1.6}
    retrain: {epochs: 6, lr: 0.002}
  - name: prune-8x
    kind: prune
    parent: prune-4x
    constraints:
      - {set: cardinality, tensors: "0.weight", count: 50}
      - {set: cardinality, tensors: "[268].weight", keep: 0.125}
    admm: {updates: 2, epochs: 1, lr: 0.002, rho: 0.01}
    retrain: {epochs: 2, lr: 0.002}
"""

TWO_STAGES = """
name: two
cluster: {workers: 1}
model: {name: digits_cnn}
data: {source: digits, mean: [0.3], std: [0.38]}
monitor: {wandb: offline}
stages:
  - name: dense
    kind: train
    train: {epochs: 2, lr: 0.004}
  - name: half
    kind: prune
    parent: dense
    constraints:
      - {set: cardinality, tensors: "*", rate: 2}
    admm: {updates: 1, lr: 0.002, rho: 0.01}
    retrain: {epochs: 1, lr: 0.002}
"""
"""The least that has a parent and a child."""


def _as_a_shell_does() -> None:
    """A process group of its own, for signals to all of it; and Ctrl-C heard, also where tests run in the background.

    Not a session of its own: Linux shares time out among sessions, and was seen to give one next to none for minutes.
    """
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Running:
    """`dualprune ...` in a process of its own, its output read as it comes."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        program: Sequence[str] = ("-m", "dualprune"),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        # PYTHONUNBUFFERED would hide in which order users see what goes to their two outputs.
        own = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "RAY_", "PYTHONUNBUFFERED"))}
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            cwd=folder,
            env=own | {"PYTHONPATH": PATH, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_as_a_shell_does,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind, whatever a test found."""
        if self.process.poll() is None:
            self.cut_power()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, text: str, seconds: float = 600) -> None:
        """Return once a line of output holds `text`."""
        limit = time.monotonic() + seconds
        while not any(text in line for line in self.lines):
            assert self.process.poll() is None, f"ended without {text!r}:\n" + "\n".join(self.lines)
            assert time.monotonic() < limit, f"no {text!r} in time:\n" + "\n".join(self.lines)
            time.sleep(0.02)

    def wait_for_checkpoint(self, artefact: Path, parts: int = 2) -> None:
        """Return once a stage has written all of a checkpoint of so many ranks; `artefact` may be a whole store."""
        limit = time.monotonic() + 600
        names = [f"part-{part}-of-{parts}.json" for part in range(parts)]
        while not any(all((step / name).exists() for name in names) for step in artefact.rglob("step-*")):
            assert time.monotonic() < limit, "\n".join(self.lines)
            time.sleep(0.02)

    def group(self) -> list[psutil.Process]:
        """The processes that it has started so far, itself not among them."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def cut_power(self) -> None:
        """End it and all that it has started, at once. Of a driver that is gone, ranks hear only some steps later."""
        for process in [*self.group(), self.process]:
            or_gone(process.kill, None)
        self.end()

    def end(self) -> tuple[int, list[str]]:
        """Wait for its end; exit code and output."""
        code = self.process.wait(timeout=900)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code, self.lines


def dualprune(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run the command line to its end."""
    with Running(folder, *arguments) as run:
        return run.end()


def json_of(lines: list[str]) -> dict[str, Any]:
    """What `--json` printed last."""
    value: dict[str, Any] = json.loads(lines[-1])
    return value


def stage(lines: list[str], name: str) -> dict[str, Any]:
    """One stage of what `--json` printed."""
    return next(row for row in json_of(lines)["stages"] if row["name"] == name)


def bits(folder: Path) -> dict[str, str]:
    """Hashes of all that must not depend on what happened on the way."""
    return {
        f"{file.parent.name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for pattern in ("*/*.safetensors", "*/metrics.jsonl")
        for file in (folder / "runs").glob(pattern)
    }


def title(process: psutil.Process) -> str:
    """A process's command line; nothing for one that is gone."""
    return str(or_gone(lambda: " ".join(process.cmdline()), ""))


def alive(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie."""
    return bool(or_gone(lambda: process.is_running() and process.status() != psutil.STATUS_ZOMBIE, False))


def or_gone(ask: Callable[[], Any], otherwise: Any) -> Any:
    """An answer about a process, or `otherwise` if there is no such process any more."""
    try:
        return ask()
    except psutil.NoSuchProcess:
        return otherwise


class Nodes:
    """A Ray cluster on this machine: a head without CPUs, and nodes of one CPU each that can be killed."""

    ENVIRONMENT = MappingProxyType({"RAY_AUTH_MODE": "disabled"})
    """Of its processes and of its users': a token that may lie on this machine is of other clusters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []
        client = f"--ray-client-server-port={_free_port()}"
        # Ray looks for a port itself, and says which one it took: one that is free now may not be so in a moment.
        told = self._start("--head", "--port=0", client, "--include-dashboard=false", "--num-cpus=0")
        port = re.search(r"--address='\S+:(\d+)'", told)
        assert port is not None, told
        self.address = f"127.0.0.1:{port[1]}"

    def add(self) -> subprocess.Popen[bytes]:
        """One more node of one CPU; returns once it is part of the cluster."""
        self._start(f"--address={self.address}", "--num-cpus=1")
        return self._nodes[-1]

    def workers(self) -> list[subprocess.Popen[bytes]]:
        """The nodes with CPUs that are there."""
        return [node for node in self._nodes[1:] if node.poll() is None]

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node as a power cut would: its raylet and all that it started."""
        whole = psutil.Process(node.pid)
        victims = [child for child in [*whole.children(recursive=True), whole] if alive(child)]
        for victim in sorted(victims, key=lambda process: process.name() != "raylet"):
            if alive(victim):
                victim.kill()
        node.wait(timeout=60)

    def identities(self) -> set[str]:
        """Ray's names of the nodes that are there."""
        return {node.hex() for node in self._gcs().get_all_node_info()}

    def announce_end(self, identity: str, seconds: int = 120) -> None:
        """Say that a node is going to be taken away, as a cloud does of a machine that it lent cheaply."""
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        deadline = int((time.time() + seconds) * 1000)
        reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
        accepted, why = self._gcs().drain_node(identity, reason, "another customer pays more", deadline)
        assert accepted, why

    def _gcs(self) -> Any:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        return GcsClient(address=self.address)

    def end(self) -> None:
        """End all nodes, the head last. Asked to end, each would take ten seconds."""
        for node in reversed(self._nodes):
            if node.poll() is None:
                self.kill(node)

    def _start(self, *arguments: str) -> str:
        """One more node; what it says once it is up."""
        # Ray gives its processes half a minute to start, in which a busy machine may not do it.
        for _ in range(5):
            told, up = self._started(*arguments)
            if up:
                return told
        self.end()
        raise AssertionError(told)

    def _started(self, *arguments: str) -> tuple[str, bool]:
        """What a node says until it is up or has ended, and whether it is up."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | self.ENVIRONMENT
        # In the foreground, so that its end is the end of this node's processes and of no other's.
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments]
        command += ["--min-worker-port=0", "--max-worker-port=0"]
        path = self.folder / f"node-{len(self._nodes)}.log"
        with path.open("wb") as log:
            node = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self._nodes.append(node)
        limit = time.monotonic() + 180
        while "will now block" not in (told := path.read_text()):
            if node.poll() is None and time.monotonic() < limit:
                time.sleep(0.1)
                continue
            if node.poll() is None:
                self.kill(node)
            self._nodes.remove(node)
            return told, False
        return told, True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port

"""Finished stages timed for a choice: by `dualprune speed`, in a process of its own, which leaves what it measures."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dualprune
from dualprune.pipeline.choices.base import Latency
from dualprune.pipeline.node import Node
from dualprune.pipeline.store.store import Store

_log = logging.getLogger(__name__)


class Untimed(Exception):
    """Networks that could not be timed: what the command said."""


def time(store: Store, stages: Sequence[Node], at: Latency) -> None:
    """Time the networks of stages side by side on this machine. Raises Untimed."""
    keys = dict.fromkeys(node.key for node in stages)
    what = ["--backend", at.backend, "--device", at.device, "--batch", str(at.batch), "--threads", str(at.threads)]
    command = [sys.executable, "-m", "dualprune", "speed", *keys, "--store", store.folder.absolute, *what]
    above = str(Path(dualprune.__path__[0]).parent)
    paths = os.pathsep.join([above, *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    _log.info("%s\n%s%s", " ".join(command), ran.stdout, ran.stderr)
    if ran.returncode:
        last = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()][-3:]
        raise Untimed(f"its networks could not be timed ({at}): {' '.join(last) or f'exit code {ran.returncode}'}")

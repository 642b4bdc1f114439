"""What a step frees stays with the process, unless a user wants otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dualprune.stages.engine import allocator

KEPT = """
import resource, sys
import torch
from dualprune.stages.engine.allocator import keep_freed
if sys.argv[1] == "keep":
    assert keep_freed()
def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
before = held()
activations = [torch.ones(2 * 10**6) for _ in range(20)]  # 8 MB each
del activations
print(held() - before)
"""


def _kept(way: str) -> int:
    """Bytes of 160 MB that a process still has after it has freed them."""
    done = subprocess.run([sys.executable, "-c", KEPT, way], capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc that is set up")
def test_what_is_freed_stays_at_hand() -> None:
    assert _kept("keep") > 150e6 > 20e6 > _kept("leave")


@pytest.mark.parametrize("name", allocator.OWN)
def test_a_users_own_settings_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert not allocator.keep_freed()

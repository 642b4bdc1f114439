"""What a step frees stays with the process, unless a user wants otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dualprune.stages.engine import allocator

FAULTS = """
import resource, sys
import torch
from dualprune.stages.engine.allocator import keep_freed
if sys.argv[1] == "keep":
    assert keep_freed()
def step():
    large = [torch.ones(2 * 10**6) for _ in range(20)]  # 8 MB each, as activations that a backward pass waits for
    small = [torch.ones(10**6) for _ in range(20)]
    while large:
        large.pop(), small.pop()
for _ in range(6):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(way: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc that is set up")
def test_pages_are_paid_for_once() -> None:
    assert _faults("keep") < _faults("leave") / 10


@pytest.mark.parametrize("name", allocator.OWN)
def test_a_users_own_settings_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert not allocator.keep_freed()

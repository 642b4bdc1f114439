"""What is used of DeepSpeed beyond its documentation: there, or refused in words; and nothing of torch is touched."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from dualprune.stages.engine import zero


@pytest.mark.parametrize("number", range(len(zero.USED)))
def test_a_name_that_is_gone_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whichever of them another version calls otherwise."""
    module, name = zero.USED[number]
    monkeypatch.setattr(zero, "USED", (*zero.USED[:number], (module, f"{name}_no_more"), *zero.USED[number + 1 :]))
    with pytest.raises(zero.Unsupported, match=rf"DeepSpeed 9\.0 lacks {module}\.{name}_no_more, which dualprune uses"):
        zero._check("9.0")


def test_this_version_has_them_all() -> None:
    zero.deepspeed.cache_clear()
    assert zero.deepspeed().__version__


def test_others_may_compile_while_deepspeed_is_imported() -> None:
    """torch.compile stays what it is in every thread, and DeepSpeed's import compiles nothing."""
    program = """
import sys, torch
before, seen = torch.compile, []
def profile(frame, event, argument):
    seen.append(torch.compile is before)
sys.setprofile(profile)
from dualprune.stages.engine import zero
zero.deepspeed()
sys.setprofile(None)
assert all(seen) and len(seen) > 1000, len(seen)
assert "torch._dynamo" not in sys.modules
"""
    ran: subprocess.CompletedProcess[Any] = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr

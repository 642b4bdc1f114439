"""A wandb without an account, that writes nothing but below a test's folder; keys and settings read anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account, no network, and nothing written but below `tmp_path`."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-own"))


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

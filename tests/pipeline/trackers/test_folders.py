"""Folders of W&B's runs by their names: which are older ones of a run, and how those that W&B lacks are sent."""

from __future__ import annotations

from pathlib import Path

from dualprune.pipeline.trackers.wandb.folders import remove_older, sending

ONE, OTHER = "a-run-0123456789abcdef", "a-run-fedcba9876543210"


def made(folder: Path, *names: str) -> list[Path]:
    """Folders of runs, each with a file."""
    paths = [folder / "wandb" / name for name in names]
    for path in paths:
        path.mkdir(parents=True)
        (path / "run.wandb").touch()
    return paths


def test_older_ones_of_a_run_go(tmp_path: Path) -> None:
    """Online, offline, in its place, and of the same second; not those of others, whose names may begin alike."""
    older = made(
        tmp_path,
        f"run-20260101_000000-{ONE}",
        f"offline-run-20260101_000000-{ONE}",
        f"offline-run-20260101_000000-{ONE}-1",
        f"offline-run-20260101_000001-{ONE}-offline",
    )
    whole, *others = made(
        tmp_path,
        f"offline-run-20260101_000002-{ONE}",
        f"offline-run-20260101_000000-{OTHER}",
        f"offline-run-20260101_000000-b-{ONE}",
        "offline-run-20260101_000000-a-run-summary",
    )
    remove_older(tmp_path, ONE, whole)
    assert not any(path.exists() for path in older)
    assert all(path.exists() for path in (whole, *others))


def test_how_runs_are_sent(tmp_path: Path) -> None:
    """Those that went online need an option, and those in place of others the identity of these."""
    assert sending(tmp_path, []) == (0, [])
    first, second = made(tmp_path, f"offline-run-20260101_000000-{ONE}", f"offline-run-20260101_000001-{OTHER}")
    assert sending(tmp_path, []) == (2, [f"wandb sync {tmp_path}/wandb/offline-run-*"])
    (first / "run.wandb.synced").touch()
    assert sending(tmp_path, []) == (1, [f"wandb sync {second}"])
    online, instead = made(tmp_path, f"run-20260101_000002-{ONE}", f"offline-run-20260101_000003-{OTHER}-offline")
    assert sending(tmp_path, [online]) == (
        3,
        [f"wandb sync --include-online {second} {online}", f"wandb sync --id {OTHER} {instead}"],
    )
    assert sending(tmp_path, [])[0] == 2

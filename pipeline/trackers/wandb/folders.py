"""The folders that wandb leaves of runs, by their names; and how what is in them is sent. Pure but for the disk."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

INSTEAD = "-offline"
"""At the end of the identity of an offline run that stands in for one that W&B did not take."""
_NAME = r"(?:offline-)?run-\d{8}_\d{6}-{identity}(?:{instead})?(?:-\d{{1,4}})?"


def of(folder: Path, identity: str) -> list[Path]:
    """What runs of an identity, and those in place of them, have left."""
    pattern = re.compile(_NAME.format(identity=re.escape(identity), instead=INSTEAD))
    return sorted(path for path in (folder / "wandb").glob("*run-*") if pattern.fullmatch(path.name))


def remove_older(folder: Path, identity: str, whole: Path) -> None:
    """Remove all of them but the one that holds everything that was told of it."""
    for path in of(folder, identity):
        if path.name != whole.name:
            shutil.rmtree(path, ignore_errors=True)


def sending(folder: Path, unsent: Mapping[Path, str]) -> list[str]:
    """Commands that send these runs, each under its identity, to W&B."""
    own = [path for path, identity in unsent.items() if not _instead(path, identity)]
    commands = [f"wandb sync {_listed(folder, sorted(own))}"] if own else []
    others = sorted(set(unsent) - set(own))
    return [*commands, *(f"wandb sync --id {unsent[path]} {shlex.quote(str(path))}" for path in others)]


def _instead(path: Path, identity: str) -> bool:
    return f"{identity}{INSTEAD}" in path.name


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    """Paths on a command line; with a pattern, where that stands for just them."""
    there = sorted((folder / "wandb").glob("offline-run-*"))
    if len(paths) > 1 and there == list(paths):
        return f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    return " ".join(shlex.quote(str(path)) for path in paths)

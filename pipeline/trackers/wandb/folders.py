"""The folders that wandb leaves of runs, by their names; and how what is in them is sent to W&B."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Collection
from pathlib import Path

INSTEAD = "-offline"
"""At the end of the identity of an offline run that stands in for one that W&B did not take."""
SUMMARY = "summary"
"""What stands in the place of a stage's key in the identity of the run of all."""
_NAME = re.compile(
    rf"(?P<offline>offline-)?run-\d{{8}}_\d{{6}}-(?P<identity>.+-([0-9a-f]{{16}}|{SUMMARY}))(?P<instead>{INSTEAD})?(-\d+)?"
)


def remove_older(folder: Path, identity: str, whole: Path) -> None:
    """Remove what runs of an identity, and those in place of them, have left, but the one that holds everything."""
    for path, name in _all(folder):
        if name["identity"] == identity and path.name != whole.name:
            shutil.rmtree(path, ignore_errors=True)


def sending(folder: Path, online: Collection[Path]) -> tuple[int, list[str]]:
    """How many runs W&B lacks, and the commands that send them: offline ones, and these that went `online`."""
    own, others, names = list[Path](), list[str](), {path.name for path in online}
    for path, name in _all(folder):
        if path.name not in names and (not name["offline"] or any(path.glob("*.synced"))):
            continue
        if name["instead"]:
            others.append(f"wandb sync --id {name['identity']} {shlex.quote(str(path))}")
        else:
            own.append(path)
    option = "--include-online " if any(not path.name.startswith("offline-") for path in own) else ""
    listed = " ".join(shlex.quote(str(path)) for path in own)
    if len(own) > 1 and not option and not others:
        listed = f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*"  # those that were sent before are passed over
    return len(own) + len(others), [*([f"wandb sync {option}{listed}"] if own else []), *others]


def _all(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """In the order in which they were begun."""
    paths = sorted((folder / "wandb").glob("*run-*"), key=lambda path: path.name.removeprefix("offline-"))
    return [(path, name) for path in paths if (name := _NAME.fullmatch(path.name)) is not None]

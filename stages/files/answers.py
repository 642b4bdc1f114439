"""Answers that take time to find, kept in the user's cache folder by the hash of all that they depend on.

Whatever is wrong with that folder, or with what is kept in it, costs time and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from glob import glob
from pathlib import Path
from typing import Any

from dualprune.stages.files.folder import canonical, sha256
from dualprune.stages.files.home import cache_folder

MOST = 200
"""Answers that are kept; of more, those that were found first go."""


def answer(of: str, question: Any, find: Callable[[], Any]) -> Any:
    """What `find` gave when the same program asked the same before; otherwise it is called, and what it gives is kept.

    Question and answer are JSON, and `of` says what is asked. What `find` raises is raised, and not kept.
    """
    with suppress(OSError, ValueError):  # it is not there, or damaged
        return _read(_place(of, question))
    found = find()
    with suppress(OSError, ValueError):  # it can't be kept
        _write(_place(of, question), found)
    return found


def _place(of: str, question: Any) -> Path:
    name = sha256(canonical([of, question, _program()]))
    return cache_folder("answers") / name


@cache
def _program() -> list[str]:
    """What answers depend on beside their questions: all of dualprune's sources, Python, and the names and versions of
    what is installed. Nothing of that is imported."""
    package = Path(__file__).parents[2]
    files = glob("**/*.py", root_dir=package, recursive=True)
    sources = {file: sha256((package / file).read_bytes()) for file in files}
    places = [place for place in sys.path if os.path.isdir(place)]
    installed = {name for place in places for name in os.listdir(place) if name.endswith((".dist-info", ".egg-info"))}
    return [sha256(canonical(sources)), sys.version, *sorted(installed)]


def _read(file: Path) -> Any:
    """Raises OSError where it is not there, and ValueError where it is not what was written."""
    digest, _, data = file.read_bytes().partition(b"\n")
    if sha256(data).encode() != digest:
        raise ValueError(f"{file} is damaged")
    return json.loads(data)


def _write(file: Path, found: Any) -> None:
    data = canonical(found)
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(sha256(data).encode() + b"\n" + data)
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    there = sorted(file.parent.iterdir(), key=lambda one: one.stat().st_mtime)
    for old in there[:-MOST]:
        old.unlink(missing_ok=True)

"""A stage's checkpoints as files: which there are, and which are whole. No torch here.

<key>/checkpoints/step-00000123/part-0-of-2.safetensors, part-0-of-2.json, part-1-of-2...

A part counts once its JSON is there, which is written after the tensors and holds the hash of both. A part
without it was never finished, or is being removed, and is no damage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from dualprune.stages.files.folder import Folder, canonical, encoded


def steps(folder: Folder) -> list[str]:
    """Names of a stage's checkpoints, whole or not, oldest first."""
    return [name for name in folder.names() if re.fullmatch(r"step-\d{8}", name)]


def worlds(files: list[str]) -> list[int]:
    """Numbers of ranks that wrote into a checkpoint of these files."""
    return sorted({int(match[1]) for file in files if (match := re.fullmatch(r"part-0-of-(\d+)\.json", file))})


def stem(step: str, part: int, parts: int) -> str:
    """A part's two files without what they end in."""
    return f"{step}/part-{part}-of-{parts}"


def write(folder: Folder, stem: str, pieces: Iterable[memoryview], facts: dict[str, Any]) -> None:
    """A part: its tensors as they come, then where the stage stood, with the hash of both."""
    found = hashlib.sha256()

    def hashed() -> Iterator[memoryview]:
        for piece in pieces:
            found.update(piece)
            yield piece

    folder.write_pieces(f"{stem}.safetensors", hashed())
    found.update(canonical(facts))
    folder.write_json(f"{stem}.json", {"sha256": found.hexdigest(), "progress": facts})


def facts(folder: Folder, stem: str) -> dict[str, Any]:
    """Where the stage stood, by a part that is whole. Raises FileNotFoundError, ValueError, KeyError."""
    found: dict[str, Any] = folder.read_json(f"{stem}.json")["progress"]
    return found


def whole(folder: Folder, stem: str) -> bool:
    """Whether a part is there and what was written; its tensors are read piece by piece."""
    try:
        text = folder.read(f"{stem}.json")
        entry = json.loads(text)
        found = folder.hash(f"{stem}.safetensors", canonical(entry["progress"]))
        return encoded(entry) == text and found == entry["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def damages(folder: Folder) -> tuple[int, list[str]]:
    """How many parts count among a stage's checkpoints, and a sentence for each of them that is not whole."""
    found, count = [], 0
    for step in steps(folder):
        for file in folder.names(step):
            if file.endswith(".json"):
                count += 1
                if not whole(folder, f"{step}/{file.removesuffix('.json')}") and folder.exists(f"{step}/{file}"):
                    found.append(f"{folder.url}/{step}/{file} and the tensors beside it are not what was written")
    return count, found

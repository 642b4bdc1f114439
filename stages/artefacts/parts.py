"""A stage's checkpoints as files: which there are, and which are whole. No torch here.

<key>/checkpoints/step-00000123/part-0-of-2.safetensors, part-0-of-2.json, part-1-of-2...

A part counts once its JSON is there, which is written after the tensors and holds the hash of both. A part
without it was never finished, or is being removed, and is no damage.
"""

from __future__ import annotations

import json
import re
from typing import Any

from dualprune.stages.files.folder import Folder, canonical, encoded, sha256


def steps(folder: Folder) -> list[str]:
    """Names of a stage's checkpoints, whole or not, oldest first."""
    return [name for name in folder.names() if re.fullmatch(r"step-\d{8}", name)]


def worlds(files: list[str]) -> list[int]:
    """Numbers of ranks that wrote into a checkpoint of these files."""
    return sorted({int(match[1]) for file in files if (match := re.fullmatch(r"part-0-of-(\d+)\.json", file))})


def stem(step: str, part: int, parts: int) -> str:
    """A part's two files without what they end in."""
    return f"{step}/part-{part}-of-{parts}"


def digest(data: bytes | bytearray, facts: dict[str, Any]) -> str:
    """The hash of a part: of its tensors and of where the stage stood."""
    return sha256(data, canonical(facts))


def read(folder: Folder, stem: str) -> tuple[bytes, dict[str, Any]] | None:
    """A part's tensors, in safetensors' form, and where the stage stood; None if it is not whole."""
    try:
        text, data = folder.read(f"{stem}.json"), folder.read(f"{stem}.safetensors")
        entry = json.loads(text)
        whole = encoded(entry) == text and digest(data, entry["progress"]) == entry["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return (data, entry["progress"]) if whole else None


def damages(folder: Folder) -> tuple[int, list[str]]:
    """How many parts count among a stage's checkpoints, and a sentence for each of them that is not whole."""
    found, count = [], 0
    for step in steps(folder):
        for file in folder.names(step):
            if file.endswith(".json"):
                count += 1
                if read(folder, f"{step}/{file.removesuffix('.json')}") is None and folder.exists(f"{step}/{file}"):
                    found.append(f"{folder.url}/{step}/{file} and the tensors beside it are not what was written")
    return count, found

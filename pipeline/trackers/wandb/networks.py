"""A stage's result as an artifact of W&B's: a reference to the store, or, if that is wanted, its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dualprune.stages.artefacts.manifest import MANIFEST
from dualprune.stages.files.folder import Folder
from dualprune.stages.files.public import public

TYPE = "network"
LONGEST = 128
"""Characters of an artifact's name."""


def named(run: str, stage: str) -> str:
    """The name of a stage's artifact: what else stands in a name than letters, digits, `.`, `_` and `-` is replaced."""
    return re.sub(r"[^\w.-]", "-", f"{run}-{stage}", flags=re.ASCII)[-LONGEST:]


def network(name: str, folder: Folder, manifest: Mapping[str, Any], upload: bool) -> Any:
    """The artifact of a finished stage, whose manifest this is. Raises the folder's errors, if it is to be uploaded.

    Of the same stage it is the same each time, so that W&B knows it again: its digest is made of the files' places, or
    of their bytes.
    """
    import wandb
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

    facts = {what: manifest.get(what) for what in ("kind", "key", "parents", "chosen", "metrics")}
    made = wandb.Artifact(name, TYPE, metadata={**facts, "store": public(folder.absolute)})
    for file, size in {**{name: one["bytes"] for name, one in manifest["files"].items()}, MANIFEST: None}.items():
        if upload:
            with made.new_file(file, mode="wb") as out:
                out.write(folder.read(file))
        else:
            # What `add_reference(..., checksum=False)` does, without the libraries that it asks buckets with.
            place = public(f"{_base(folder)}/{file}")
            made.manifest.add_entry(ArtifactManifestEntry(path=file, ref=place, digest=place, size=size))
    return made


def _base(folder: Folder) -> str:
    return f"file://{folder.absolute}" if folder.local else folder.absolute


def layers(manifest: Mapping[str, Any]) -> Any:
    """A table of a network's tensors: the constrained ones, or where there are none all weights."""
    import wandb

    rows = [
        [
            name,
            " x ".join(map(str, one["shape"])),
            one["size"],
            one["nonzeros"],
            one["size"] / one["nonzeros"] if one["nonzeros"] else None,
            ", ".join(one["sets"]),
        ]
        for name, one in manifest.get("tensors", {}).items()
    ]
    return wandb.Table(columns=["name", "shape", "weights", "left", "rate", "sets"], data=rows)

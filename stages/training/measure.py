"""A finished network measured from its artefact alone, in one plain process."""

from __future__ import annotations

import torch

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.objectives.table import objective
from dualprune.stages.training.evaluate import evaluate


def measure(url: str, shards: str) -> dict[str, float]:
    """The objective's best metric on `val` and `test` of the artefact at `url`, on the shards at `shards`."""
    loaded = artefact.load(Folder(url))
    model = artefact.network(loaded)
    spec = parse(loaded.manifest["spec"])
    wanted = objective(spec)
    found = digest(read_manifest(shards))
    scores = {}
    for split in ("val", "test"):
        batches = open_split(shards, split, found, spec.data, 0, torch.device("cpu"), spec.model.classes)
        scores[wanted.measures.of(split)] = evaluate(model, wanted, batches).values[wanted.best]
    return scores

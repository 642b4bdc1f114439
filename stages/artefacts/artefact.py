"""What a finished stage leaves behind: weights, masks, duals, metrics, and the manifest that makes them count.

    <store>/<key>/manifest.json       specification, parents, metrics, sha256 of every file, versions
                  model.safetensors   weights and buffers, fp32
                  holds.safetensors   masks, eight entries to a byte
                  duals.safetensors   U of each constrained tensor
                  metrics.jsonl       one row an epoch

The manifest is written last. No file holds pickled objects, and the same training gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import masks
from dualprune.stages.artefacts.manifest import ASIDE, MANIFEST, content, own_hash, read
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.code import unchanged
from dualprune.stages.networks.structure import Structure
from dualprune.stages.networks.structure import load as remade
from dualprune.stages.settings.training import Model

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Artefact:
    """A finished stage, in memory."""

    manifest: dict[str, Any]
    network: Tensors
    holds: Tensors
    duals: Tensors


def commit(
    folder: Folder, manifest: dict[str, Any], network: Tensors, holds: Tensors, duals: Tensors
) -> dict[str, Any]:
    """Write an artefact, its manifest last. Returns the manifest with the files' hashes in it."""
    rows = "".join(json.dumps(row, sort_keys=True) + "\n" for row in manifest.pop("rows"))
    files = {
        "model.safetensors": safetensors.torch.save({n: t.contiguous().cpu() for n, t in network.items()}),
        masks.FILE: _pack(holds),
        "duals.safetensors": safetensors.torch.save({n: t.contiguous().cpu() for n, t in duals.items()}),
        "metrics.jsonl": rows.encode(),
    }
    for name, data in files.items():
        folder.write(name, data)
    manifest["files"] = {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}
    manifest["sha256"] = own_hash(manifest)
    folder.write_json(MANIFEST, manifest)
    folder.remove(ASIDE)
    return manifest


def load(folder: Folder) -> Artefact:
    """Read an artefact, each byte once and checked. Raises FileNotFoundError and stages.artefacts.manifest.Damaged."""
    manifest = read(folder)
    if manifest is None:
        raise FileNotFoundError(f"there is no finished artefact at {folder.url}")
    return Artefact(
        manifest,
        safetensors.torch.load(content(folder, manifest, "model.safetensors")),
        _unpack(content(folder, manifest, masks.FILE)),
        safetensors.torch.load(content(folder, manifest, "duals.safetensors")),
    )


def network(artefact: Artefact) -> nn.Module:
    """The finished network, built from its artefact and, if it is a user's own, its code here.

    Raises SpecError if that code is not what the artefact was made with.
    """
    settings = Model(**artefact.manifest["spec"]["model"])
    unchanged(settings)
    return remade(build_model(settings), structure(artefact), artefact.network).eval()


def structure(artefact: Artefact) -> Structure:
    """What was changed about its network's shape. Raises ValueError for edits that are not known here."""
    return Structure.model_validate(artefact.manifest.get("structure", {}))


def _pack(holds: Tensors) -> bytes:
    shapes = json.dumps({name: list(mask.shape) for name, mask in holds.items()}, sort_keys=True)
    bits = {
        name: torch.from_numpy(np.packbits(mask.cpu().numpy().astype(bool).ravel())) for name, mask in holds.items()
    }
    data: bytes = safetensors.torch.save(bits, metadata={"shapes": shapes})
    return data


def _unpack(data: bytes) -> Tensors:
    return {name: torch.from_numpy(mask.unpacked().astype(np.float32)) for name, mask in masks.packed(data).items()}

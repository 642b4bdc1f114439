"""Layers that were solved, kept beside a stage's checkpoints: one that is killed goes on after the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from torch import Tensor

from dualprune.stages.engine.ranks import agreed
from dualprune.stages.files.folder import Folder, sha256


@dataclass(frozen=True)
class Solved:
    """What a layer's weights become."""

    weights: Tensor
    """In its set, of the shape that they had."""
    mask: Tensor
    """1 where they may move on, of the same shape."""
    error: float
    """|X W^T - X Z^T|^2 / |X W^T|^2."""
    iterations: int
    """Of ADMM."""


@dataclass(frozen=True)
class Notes:
    """What is solved of a network that began as `parent`, its hash. All ranks read together; rank 0 writes."""

    folder: Folder
    parent: str
    rank: int

    def read(self, number: int) -> dict[str, Solved] | None:
        """The layers that were solved as the `number`-th ones, by name; None if they were not."""
        facts: dict[str, Any] | None = agreed(self._facts(number) if self.rank == 0 else None)
        if facts is None:
            return None
        tensors = safetensors.torch.load(self.folder.read(f"{number}.safetensors"))
        return {
            name: Solved(tensors[f"weights/{name}"], tensors[f"mask/{name}"], **one)
            for name, one in facts["layers"].items()
        }

    def write(self, number: int, layers: Mapping[str, Solved]) -> None:
        """Keep layers as the `number`-th ones."""
        if self.rank != 0:
            return
        data = safetensors.torch.save(
            {
                f"{what}/{name}": getattr(one, what).cpu().contiguous()
                for name, one in layers.items()
                for what in ("weights", "mask")
            }
        )
        facts = {name: {"error": one.error, "iterations": one.iterations} for name, one in layers.items()}
        self.folder.write(f"{number}.safetensors", data)
        self.folder.write_json(f"{number}.json", {"parent": self.parent, "sha256": sha256(data), "layers": facts})

    def _facts(self, number: int) -> dict[str, Any] | None:
        try:
            facts: dict[str, Any] = self.folder.read_json(f"{number}.json")
            data = self.folder.read(f"{number}.safetensors")
        except (FileNotFoundError, ValueError):
            return None
        return facts if facts["parent"] == self.parent and facts["sha256"] == sha256(data) else None

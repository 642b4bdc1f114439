"""A network as torch.export's program: traced for batches of any size, saved as a file that plain torch loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dualprune.stages.export.errors import untraceable


def traced(network: nn.Module, inputs: tuple[Tensor, ...], lengths: bool = False) -> ExportedProgram:
    """The program of a network that takes tensors in their order, for any number of samples.

    `inputs` are two samples or more along the first axis: what all of them have as many of varies and, with `lengths`,
    the second axis of sequences (`sequences`); nothing else.
    Raises NotExported for a network that can't be followed, with the operation, its layer and the line at fault.
    """
    batch, length, long = Dim("batch"), Dim("length"), sequences(inputs) if lengths else []
    shapes: list[dict[int, Any]] = [{0: batch} if _batched(one, inputs) else {} for one in inputs]
    shapes = [{**shape, 1: length} if number in long else shape for number, shape in enumerate(shapes)]
    try:
        with torch.no_grad():
            return torch.export.export(network.eval(), inputs, dynamic_shapes=(tuple(shapes),), strict=False)
    except Exception as error:
        raise untraceable(
            error, network, f"the network can't be traced for batches of any size{' and length' if lengths else ''}"
        ) from error


def to_program(
    network: nn.Module, inputs: tuple[Tensor, ...], path: str | Path, lengths: bool = False
) -> ExportedProgram:
    """Write a network's program (`.pt2`); `torch.export.load(path).module()` is a module, without dualprune.

    Raises NotExported.
    """
    program = traced(network, inputs, lengths)
    torch.export.save(program, path)
    return program


def sequences(inputs: tuple[Tensor, ...]) -> list[int]:
    """Which inputs are sequences of whole numbers, such as tokens and their mask, all of one length."""
    whole = [
        n for n, one in enumerate(inputs) if one.ndim > 1 and not one.is_floating_point() and _batched(one, inputs)
    ]
    same = (
        whole and inputs[whole[0]].shape[1] > 1 and all(inputs[n].shape[1] == inputs[whole[0]].shape[1] for n in whole)
    )
    return whole if same else []


def _batched(tensor: Tensor, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a tensor has samples along its first axis, as the first one has."""
    return tensor.ndim > 0 and tensor.shape[0] == inputs[0].shape[0]

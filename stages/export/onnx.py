"""A network as ONNX, for batches of any size; weights on levels as integers and a scale, where bits allow it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.export.errors import NotExported, untraceable
from dualprune.stages.export.program import traced

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra `dualprune[onnx]`."""


def to_onnx(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    path: str | Path,
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Any:
    """Write a network that takes tensors in their order as ONNX at `path`; returns torch's ONNXProgram.

    `inputs` are two samples or more along the first axis, whose number varies in the file. `names` and `outputs` name
    what goes in and comes out. `stages.export.calls.recorded` makes such a network of any that an objective calls.
    Raises NotExported for what can't be traced, has no ONNX, or needs a package that is not installed.
    """
    program = converted(network, inputs, names, outputs)
    program.optimize()
    program.save(str(path))
    return program


def converted(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Any:
    """The same in memory, before it is made faster: its initializers are the network's tensors, by their names."""
    need(*NEEDED[:2])
    program = traced(network, inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own
            return torch.onnx.export(
                program, (), dynamo=True, optimize=False, verbose=False, input_names=names, output_names=outputs
            )
    except Exception as error:
        raise untraceable(error.__cause__ or error, network, "the network can't be written as ONNX") from error  # type: ignore[arg-type]


def need(*packages: str) -> None:
    """Raise NotExported if one of the optional packages is not there."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            text = f"ONNX needs the package {package}: pip install 'dualprune[onnx]'"
            raise NotExported(text) from None

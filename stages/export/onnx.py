"""A network as ONNX, for batches of any size; weights on levels as integers and a scale, where bits allow it."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualprune.stages.export.errors import NotExported, untraceable
from dualprune.stages.export.grid import grid
from dualprune.stages.export.program import traced

NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra `dualprune[onnx]`."""
OPSET = 21
"""The version of ONNX's operators in which DequantizeLinear takes 4 and 16 bits."""
TYPES = {"int4": 7, "int8": 127, "int16": 32767}
"""Types of whole numbers, and the largest in each."""
SLOWER = ("SkipLayerNormFusion",)
"""What ONNX Runtime should not rewrite on CPUs: its one kernel for a sum and a layer norm takes several times what the
two take (MiniLM-L6 by batches of 8 on a core: 157 ms and 139; with a fifth of its heads and rows 43 ms and 26)."""

Codes = tuple[float, NDArray[Any]]
"""An interval, and the whole numbers that it is multiplied with."""


def to_onnx(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    path: str | Path,
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    whole: Mapping[str, Codes] | None = None,
    lengths: bool = False,
) -> Any:
    """Write a network that takes tensors in their order as ONNX at `path`; returns torch's ONNXProgram.

    `inputs` are two samples or more along the first axis, whose number varies in the file; with `lengths` that of
    sequences too (`stages.export.program.traced`). `names` and `outputs` name
    what goes in and comes out. `stages.export.calls.recorded` makes such a network of any that an objective calls.
    Tensors named in `whole` are written as whole numbers and a scale (DequantizeLinear).
    Raises NotExported for what can't be traced, has no ONNX, or needs a package that is not installed.
    """
    program = converted(network, inputs, names, outputs, lengths)
    for name, codes in (whole or {}).items():
        _store_whole(program.model, name, codes)
    with _silent("onnxscript"):  # it warns of each node that it can't compute ahead
        program.optimize()
    program.save(str(path))
    return program


@contextmanager
def _silent(package: str) -> Iterator[None]:
    """A package logs errors alone, and what it did before afterwards."""
    logger = logging.getLogger(package)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def slower(network: nn.Module) -> tuple[str, ...]:
    """Which of ONNX Runtime's rewritings make a network slower on CPUs: its `disabled_optimizers`."""
    return SLOWER if any(isinstance(layer, nn.LayerNorm) for layer in network.modules()) else ()


def converted(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    lengths: bool = False,
) -> Any:
    """The same in memory, before it is made faster: its initializers are the network's tensors, by their names."""
    need(*NEEDED[:2])
    program = traced(network, inputs, lengths)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own
            return torch.onnx.export(
                program,
                (),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=names,
                output_names=outputs,
            )
    except Exception as error:
        raise untraceable(error.__cause__ or error, network, "the network can't be written as ONNX") from error  # type: ignore[arg-type]


def whole_numbers(tensor: Tensor) -> Codes | str:
    """A tensor as whole numbers times an interval, or why it is not written so."""
    values = tensor.detach().cpu().float().numpy()
    found = grid(np.unique(values), max(TYPES.values()))
    if found is None:
        return "its values are no whole numbers times an interval that 16 bits hold"
    step = found[0]
    return step, np.rint(values.astype(np.float64) / step).astype(np.int64)


def _store_whole(model: Any, name: str, codes: Codes) -> None:
    """Put whole numbers and a scale in the place of an initializer of a model in memory."""
    import ml_dtypes
    import onnx_ir as ir

    step, numbers = codes
    before = model.graph.initializers[name]
    kind = next(kind for kind, most in TYPES.items() if np.abs(numbers).max() <= most)
    packed = numbers.astype(ml_dtypes.int4 if kind == "int4" else kind)
    given = []
    for suffix, tensor in (("codes", ir.tensor(packed)), ("scale", ir.tensor(np.float32(step)))):
        value = ir.Value(name=f"{name}.{suffix}", const_value=tensor)
        value.shape, value.type = ir.Shape(packed.shape if suffix == "codes" else ()), ir.TensorType(tensor.dtype)
        model.graph.register_initializer(value)
        given.append(value)
    node = ir.node("DequantizeLinear", given, name=f"{name}.dequantized")
    ir.convenience.replace_all_uses_with(before, node.outputs[0])
    del model.graph.initializers[name]
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = name, before.shape, before.type
    model.graph.insert_before(model.graph[0], node)


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

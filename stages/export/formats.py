"""The forms that a finished network is exported in. To add one: a function that writes it and a line in FORMATS."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from dualprune.stages.export import csr, onnx, reader, sparse
from dualprune.stages.export.building import building
from dualprune.stages.export.errors import NotExported
from dualprune.stages.export.program import sequences, to_program
from dualprune.stages.export.source import Source

MUCH = 0.8
"""Share of dense tensors' bytes, or of their numbers, above which nothing was gained."""


class Written(NamedTuple):
    """What is to be told of a file that was written."""

    notes: list[str]
    """Sentences."""
    lengths: bool = False
    """Whether sequences may be of any length."""


class Loading(NamedTuple):
    """Code that loads an export where there is no dualprune."""

    load: str
    """Makes `network`, or `tensors` by name."""
    call: str | None = None
    """Calls the network with variables of its inputs' names; makes `outputs`, a tensor or array or several."""
    arrays: bool = False
    """Whether its inputs are NumPy's."""
    assign: bool = False
    """Whether tensors have to take the place of a network's own: those of another layout can't be copied into them."""


@dataclass(frozen=True)
class Format:
    """A form."""

    suffix: str
    holds: Literal["network", "tensors"]
    """What a file of it is: all of a network, or its weights, for who can build it."""
    write: Callable[[Source, Path, bool], Written]
    """Writes a network to a path; whether as fp16 where that is a choice. Raises NotExported."""
    loading: Callable[[Source, str], Loading]
    """How a file of this name is loaded."""
    halves: bool = False
    """Whether it can be told to round to fp16."""
    needs: tuple[str, ...] = ()
    """Packages that are not installed with dualprune itself."""


def _safetensors(source: Source, path: Path, half: bool) -> Written:
    # Copies: those that lie within others are refused.
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in source.tensors.items()}
    about = {**_about(source), "same": source.same, "build": building(source.manifest).code}
    data = safetensors.torch.save(tensors, {"format": "pt", "dualprune": json.dumps(about, sort_keys=True)})
    path.write_bytes(data)
    return Written(_zeros(source.tensors))


def _torch(source: Source, path: Path, half: bool) -> Written:
    torch.save({name: tensor.detach().cpu() for name, tensor in source.network.state_dict().items()}, path)
    return Written(_zeros(source.tensors))


def _program(source: Source, path: Path, half: bool) -> Written:
    network, inputs = source.call.network, source.call.inputs
    return _of_any_length(source, [], lambda lengths: to_program(network, inputs, path, lengths))


def _onnx(source: Source, path: Path, half: bool) -> Written:
    whole, notes = {}, []
    tensors = source.tensors
    for name in _on_levels(source):
        found = onnx.whole_numbers(tensors[name])
        if isinstance(found, str):
            notes.append(f"`{name}` is written in fp32: {found}.")
        else:
            whole[f"network.{name}"] = found
    if whole:
        names = ", ".join(f"`{name.removeprefix('network.')}`" for name in whole)
        notes.insert(0, f"Weights on levels are whole numbers and a scale (DequantizeLinear): {names}.")
    network, inputs, given, outputs = source.call
    return _of_any_length(
        source, notes, lambda lengths: onnx.to_onnx(network, inputs, path, given, outputs, whole, lengths)
    )


def _of_any_length(source: Source, notes: list[str], write: Callable[[bool], Any]) -> Written:
    """A network of sequences for any length, or where that can't be traced for that of the samples."""
    if not sequences(source.call.inputs):
        write(False)
        return Written(notes)
    try:
        write(True)
    except NotExported as error:
        write(False)
        return Written([*notes, f"Sequences have to be of the samples' length: {error}."])
    return Written(notes, lengths=True)


def _sparse(source: Source, path: Path, half: bool) -> Written:
    tensors = {}
    for name, tensor in source.tensors.items():
        # NumPy has no bfloat16; fp32 holds each of its numbers.
        tensors[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    try:
        data = sparse.pack(tensors, source.same, _about(source), half)
    except (ValueError, TypeError) as error:
        raise NotExported(str(error)) from None
    path.write_bytes(data)
    dense = sum(tensor.nbytes for tensor in tensors.values())
    if len(data) > MUCH * dense:
        return Written(
            ["There are too few zeros and shared values to pack: this format gains little over `safetensors`."]
        )
    return Written(["Numbers that are in no table of values are rounded to fp16."] if half else [])


def _csr(source: Source, path: Path, half: bool) -> Written:
    """Linear layers as sparse rows where that was faster in a trial on this machine."""
    network, layers = csr.with_csr(source.call.network, source.call.inputs)
    if not layers:
        raise NotExported("no linear layer of it is faster as sparse rows on this machine")
    csr.save(network.get_submodule("network"), str(path))
    names = ", ".join(f"`{name.removeprefix('network.')}`" for name in layers)
    return Written([f"As sparse rows, which were faster in a trial here: {names}. Call it under `torch.no_grad()`."])


def _about(source: Source) -> dict[str, str]:
    """What files say of themselves."""
    return {"name": source.name, "key": source.key}


def _zeros(tensors: dict[str, Tensor]) -> list[str]:
    """A word on zeros that take as much room as any number."""
    size, left = sum(t.numel() for t in tensors.values()), sum(int(t.count_nonzero()) for t in tensors.values())
    return ["Zeros take as much room here as other numbers; `sparse` packs them."] if left < MUCH * size else []


def _on_levels(source: Source) -> list[str]:
    """Tensors that are on quantisation levels."""
    there = source.tensors
    fixed = source.manifest.get("fixed", {})
    return [name for name, sets in fixed.items() if sets and sets[-1] == "levels" and name in there]


def _ties(source: Source) -> str:
    return "".join(f"\ntensors[{name!r}] = tensors[{first!r}]" for name, first in source.same.items())


def _load_safetensors(source: Source, file: str) -> Loading:
    return Loading(f"from safetensors.torch import load_file\n\ntensors = load_file({file!r}){_ties(source)}")


def _load_torch(source: Source, file: str) -> Loading:
    return Loading(f"import torch\n\ntensors = torch.load({file!r}, weights_only=True)")


def _load_csr(source: Source, file: str) -> Loading:
    return Loading(f"import torch\n\ntensors = torch.load({file!r}, weights_only=True)", assign=True)


def _load_program(source: Source, file: str) -> Loading:
    load = f"import torch\n\nnetwork = torch.export.load({file!r}).module()"
    return Loading(load, f"outputs = network({', '.join(source.call.names)})")


def _load_onnx(source: Source, file: str) -> Loading:
    options = f'{file!r}, providers=["CPUExecutionProvider"]'
    if without := onnx.slower(source.call.network):
        options = f"\n    {options},\n    disabled_optimizers={list(without)!r},  # on CPUs it is faster without\n"
    load = f"import onnxruntime\n\nnetwork = onnxruntime.InferenceSession({options})"
    given = ", ".join(f"{name!r}: {name}" for name in source.call.names)
    return Loading(load, f"outputs = network.run(None, {{{given}}})", arrays=True)


def _load_sparse(source: Source, file: str) -> Loading:
    return Loading(f"{reading()}\n\n\ntensors = read({file!r})", arrays=True)


def reading() -> str:
    """The code that reads `sparse` files, without what says what it is."""
    return inspect.getsource(reader).partition('"""\n\n')[2].rstrip()


FORMATS: dict[str, Format] = {
    "safetensors": Format("safetensors", "tensors", _safetensors, _load_safetensors),
    "torch": Format("pt", "tensors", _torch, _load_torch),
    "onnx": Format("onnx", "network", _onnx, _load_onnx, needs=onnx.NEEDED),
    "torch-export": Format("pt2", "network", _program, _load_program),
    "torch-csr": Format("csr.pt", "tensors", _csr, _load_csr),
    "sparse": Format("dps", "tensors", _sparse, _load_sparse, halves=True),
}

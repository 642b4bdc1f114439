"""Why a network is no faster than the dense one it came from, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.export.macs import Cost

SAME = 0.98
"""Share of the dense network's MACs from which on it has as many."""
FEW = 3_000_000
"""MACs of a call below which the calls themselves take most of the time: some 0.1 ms of arithmetic."""
REUSE = 16
"""Multiplications for each number that is moved, below which memory is what is waited for."""
PART = 0.25
"""Share of zeros that are whole outputs or inputs, from which on that is worth a word: some come by chance."""


def lanes(device: torch.device) -> int:
    """Numbers that a device's vector units take at once: of what widths should be multiples.

    ONNX Runtime and oneDNN block channels by 16 under AVX-512, by 8 elsewhere; tensor cores take 8 in half precision.
    """
    return 16 if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512" else 8


@dataclass(frozen=True)
class Facts:
    """What a network is made of. Weights are its parameters of two or more dimensions."""

    parameters: int
    weights: int
    zeros: int
    """Among weights."""
    idle: int
    """Zeros that are whole outputs or inputs of a layer: they could be taken out."""
    cost: Cost
    widths: Mapping[str, int]
    """Outputs of each layer with weights."""
    bytes: int
    """Of all tensors: zeros not stored, where an artefact says how much that is."""
    sets: frozenset[str]
    """What its tensors are held to: names of constraint sets."""


def facts(network: nn.Module, cost: Cost, manifest: Mapping[str, Any]) -> Facts:
    """What a finished network is made of, by its tensors and its artefact's manifest."""
    weights = {name: one.detach() for name, one in network.named_parameters() if one.ndim > 1}
    sets = {one for tensor in manifest.get("tensors", {}).values() for one in tensor.get("sets", [])}
    sets |= {one for fixed in manifest.get("fixed", {}).values() for one in fixed}
    stored = manifest.get("metrics", {}).get("bytes")
    return Facts(
        sum(one.numel() for one in network.parameters()),
        sum(one.numel() for one in weights.values()),
        sum(int((one == 0).sum()) for one in weights.values()),
        sum(map(_idle, weights.values())),
        cost,
        {name: len(one) for name, one in weights.items()},
        stored if stored is not None else sum(one.nbytes for one in network.state_dict().values()),
        frozenset(sets),
    )


def _idle(weight: Tensor) -> int:
    there = weight != 0
    outputs = there.flatten(1).any(1)
    inputs = there.transpose(0, 1).flatten(1).any(1)
    return weight.numel() - int(outputs.sum()) * int(inputs.sum()) * (weight[0, 0].numel() if weight.ndim > 2 else 1)


def reasons(dense: Facts, other: Facts, batch: int, device: torch.device) -> list[str]:
    """Why it is no faster on a device by so many samples a call, as far as what it is made of tells."""
    found = [*_zeros(other, device), *_values(other)] if _same(dense, other) else []
    found += shape(dense, other, batch, device)
    if not found:
        found = ["it is the dense network in all that takes time"] if _same(dense, other) else []
    return found or [f"its {_ratio(dense, other):.2f}x fewer MACs are not what this backend spends its time on"]


def _same(dense: Facts, other: Facts) -> bool:
    return other.cost.macs >= SAME * dense.cost.macs


def _ratio(dense: Facts, other: Facts) -> float:
    return dense.cost.macs / max(1, other.cost.macs)


def _zeros(of: Facts, device: torch.device) -> Iterator[str]:
    idle = of.idle if of.idle > PART * of.zeros else 0
    scattered = of.zeros - idle
    if idle:
        share = f"{100 * of.idle / of.weights:.0f} % of its weights are zero as whole outputs or inputs of layers"
        yield f"{share}, which are computed as long as they are there: a stage of kind shrink takes them out"
    if "nm" in of.sets:
        on_cuda = "kernels for them take 2:4 in linear layers, half precision and torch's sparse form (backend 2:4)"
        yield f"N:M zeros: {on_cuda if device.type == 'cuda' else 'there are no kernels for them on CPUs'}"
    elif scattered > 0.02 * of.weights:
        share = f"scattered zeros ({100 * scattered / of.weights:.0f} % of the weights)"
        yield f"{share}: they are multiplied like other numbers, so it has the dense network's MACs"


def _values(of: Facts) -> Iterator[str]:
    if of.sets & {"levels", "clusters"}:
        yield "shared values, which are stored and multiplied as fp32"
    if "lowrank" in of.sets:
        yield "low rank, of matrices that are stored and multiplied whole"


def shape(dense: Facts, other: Facts, batch: int, device: torch.device) -> list[str]:
    """What keeps fewer MACs from being as much less time, by so many samples a call."""
    return [] if _same(dense, other) else list(_shape(dense, other, batch, lanes(device)))


def _shape(dense: Facts, other: Facts, batch: int, lanes: int) -> Iterator[str]:
    cost = other.cost
    if cost.macs * batch < FEW:
        yield f"few MACs ({cost.macs * batch:,} a call): calling {cost.layers} layers takes longer than computing them"
    elif cost.macs * batch < REUSE * (other.parameters + cost.activations * batch):
        each = cost.macs * batch / (other.parameters + cost.activations * batch)
        yield f"memory-bound: {each:.1f} multiplications for each number that is read or written"
    odd = [name for name, width in other.widths.items() if width % lanes and width != dense.widths.get(name)]
    if odd:
        named = f"{', '.join(odd[:3])}{', ...' if len(odd) > 3 else ''}"
        yield f"widths of {len(odd)} layers are no multiples of {lanes} ({named})"

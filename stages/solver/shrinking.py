"""What is taken out of a network to make it physically smaller, and what that changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dualprune.stages.constraints.lowrank import numerical_rank
from dualprune.stages.coupling.cut import Cut, cut, macs
from dualprune.stages.coupling.proof import bare, weightless
from dualprune.stages.coupling.units import Space
from dualprune.stages.networks.edits import EDITS, SIZE, Edit, Factorise, Remove, Resolution
from dualprune.stages.networks.matrices import matrix
from dualprune.stages.networks.parameters import parameters, weights
from dualprune.stages.networks.structure import Structure, load, untied
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import Grouped
from dualprune.stages.solver import coupled
from dualprune.stages.solver.residual import blocks, closed, idle

VIEWS: tuple[Literal["channel", "spatial"], ...] = ("channel", "spatial")
Inputs = tuple[Sequence[Any], Mapping[str, Any]]
"""What a network is called with."""


@dataclass(frozen=True)
class Before:
    """A network that is to be smaller, with its weights, on the CPU."""

    network: nn.Module
    inputs: Inputs
    """For a few real samples."""
    cut: Callable[[nn.Module], Cut]
    """What can be cut of a network. All ranks call it together."""
    loss: Callable[[nn.Module, int], float]
    """A network's mean loss over so many samples of validation. All ranks call it together."""
    lowrank: Sequence[str] = ()
    """Weights that an earlier stage has held to a low rank."""


@dataclass(frozen=True)
class Smaller:
    """The edits that make a network smaller, in their order, and what they come to."""

    edits: list[Edit]
    facts: dict[str, Any]


def smaller(
    before: Before, constraints: Sequence[Grouped], multiple: int, remove: int, samples: int, resolution: int | None
) -> Smaller:
    """Take out of a network what settings say: pixels, then blocks that do nothing and `remove` others, then units;
    layers of low rank become two where that is smaller.

    `samples` of validation say which blocks; `multiple` and `constraints` are as settings of `kind: shrink` have them.
    Raises SpecError, also where nothing is taken out.
    """
    network = copy.deepcopy(before.network).eval()
    made: list[Edit] = [] if resolution is None else [resized(network, before.inputs, resolution)]
    two, unfactorised = _factorised(network, before.lowrank)
    made += two
    args, kwargs = before.inputs
    still = idle(network, args, kwargs, closed(network, args, kwargs))
    for path in still:
        EDITS["remove"].apply(Remove(module=path), network)
    gone = removed(network, before, remove, samples)
    made += [Remove(module=path) for path in (*still, *(path for path, _ in gone))]
    found = before.cut(network)
    whole = macs(copy.deepcopy(before.network).eval(), *before.inputs)
    stays = _stays(network, found, constraints, multiple, whole)
    part = {space.name: count for space in found.spaces if (count := in_part(network, space))}
    narrow = found.edits(stays)
    if not made and not narrow:
        zero = sum(int((~alive(network, space)).sum()) for space in found.spaces)
        if constraints:
            why = "the constraints keep all units"
        elif zero:
            why = f"{zero} units are zero, and stay for widths to be multiples of {multiple}"
        else:
            why = _nothing(found, part, unfactorised)
        raise SpecError([(("kind",), f"nothing would be taken out: {why}")])
    for edit in narrow:
        EDITS[edit.edit].apply(edit, network)
    facts = {
        "units": {found.spaces[n].name: [len(units), int(units.sum())] for n, units in stays.items()},
        "factorised": {edit.module: edit.rank for edit in two},
        "unfactorised": unfactorised,
        "blocks": dict(gone),
        "idle": still,
        "part": part,
        "refused": dict(found.refused),
        **({} if resolution is None else {"resolution": [_side(before), resolution]}),
    }
    return Smaller([*made, *narrow], facts | _compared(before, network))


def _compared(before: Before, network: nn.Module) -> dict[str, Any]:
    """How large a network was and is now, and how far its outputs are from what they were."""
    args, kwargs = before.inputs
    return {
        "weights": [_size(before.network), _size(network)],
        "macs": [macs(copy.deepcopy(before.network).eval(), args, kwargs), macs(network, args, kwargs)],
        "difference": _apart(before.network, network, args, kwargs),
    }


def fits(network: nn.Module, inputs: Inputs, remove: int, resolution: int | None) -> None:
    """Raise SpecError if a network, whatever its weights, can't be brought to a resolution or has not as many blocks.

    It is changed.
    """
    if resolution is not None:
        resized(network, inputs, resolution)
    args, kwargs = inputs
    if remove and len(there := blocks(network, args, kwargs)) < remove:
        raise SpecError([(("blocks", "remove"), _few(remove, there))])


def least(
    network: nn.Module,
    inputs: Inputs,
    constraints: Sequence[Grouped],
    remove: int,
    resolution: int | None,
    cost: Literal["macs", "weights"],
) -> float:
    """The least share of a network's cost that is left of it, whatever its weights, when that is taken out of it.

    It is changed: of its blocks those go that cost most. Raises SpecError.
    """
    args, kwargs = inputs

    def costs(of: nn.Module) -> float:
        return _size(of) if cost == "weights" else macs(bare(of).eval(), weightless(tuple(args)), weightless(kwargs))

    whole, compute = costs(network), macs(network, args, kwargs)
    if resolution is not None:
        resized(network, inputs, resolution)
    for _ in range(remove):
        without = {}
        for path in blocks(network, args, kwargs):
            trial = copy.deepcopy(network)
            EDITS["remove"].apply(Remove(module=path), trial)
            without[path] = costs(trial)
        EDITS["remove"].apply(Remove(module=min(without, key=lambda path: without[path])), network)
    if constraints:
        found = cut(network, args, kwargs)
        for edit in found.edits(_stays(network, found, constraints, 1, compute)):
            EDITS[edit.edit].apply(edit, network)
    return costs(network) / whole


def resized(network: nn.Module, inputs: Inputs, size: int) -> Edit:
    """Bring pictures to another height and width within a network. Raises SpecError for one that can't take it."""
    pictures = [one for one in pytree.tree_leaves(inputs) if _is_picture(one)]
    text = None
    if not pictures:
        text = "the network is given no pictures"
    elif all(tuple(one.shape[2:]) == (size, size) for one in pictures):
        text = "the pictures are of this size already"
    edit = Resolution(module="", size=size)
    if text is None:
        EDITS[edit.edit].apply(edit, network)
        args, kwargs = inputs
        try:
            with torch.no_grad():
                network(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - what code does that was written for other sizes, is anything
            reason = str(error).strip().partition("\n")[0]
            text = f"the network can't take pictures of {size} x {size}: {type(error).__name__}: {reason}"
    if text is not None:
        raise SpecError([(("resolution",), text)])
    return edit


def _is_picture(one: Any) -> bool:
    return isinstance(one, Tensor) and one.ndim == 4 and one.is_floating_point()


def _side(before: Before) -> float:
    """Of the pictures that a network is given, brought to no other size yet: the side of a square as large."""
    size = getattr(before.network, SIZE, None) or next(
        one.shape[2:] for one in pytree.tree_leaves(before.inputs) if _is_picture(one)
    )
    return math.sqrt(math.prod(size))


def _few(count: int, there: Sequence[str]) -> str:
    named = f": {', '.join(there)}" if there else ""
    return f"{count} blocks can't be removed; those whose output is of their input's shape are {len(there)}{named}"


def _nothing(found: Cut, part: Mapping[str, int], unfactorised: Mapping[str, int]) -> str:
    """Why nothing goes."""
    text = "no unit is zero in all that makes it, or in all that reads it"
    if unfactorised:
        path, rank = next(iter(unfactorised.items()))
        text += f"; none of {len(unfactorised)} layers of low rank is smaller as two, such as {path} of rank {rank}"
    if part:
        text += "; zero in a part of that are " + ", ".join(f"{count} of {name}" for name, count in part.items())
    if found.refused:
        name, reason = next(iter(found.refused.items()))
        text += f"; {len(found.refused)} groups can't be cut, {name} for instance: {reason}"
    return f"{text}. Prune with `coupled: true` before it, or give `constraints`, `blocks` or `resolution`"


def _factorised(network: nn.Module, names: Sequence[str]) -> tuple[list[Factorise], dict[str, int]]:
    """Make two layers each of those whose weights are of a rank at which that is smaller, in place; and the ranks of
    those that stay whole."""
    made, whole = [], {}
    for name in names:
        weight, (path, _, own) = network.get_parameter(name).detach(), name.rpartition(".")
        if own != "weight":
            continue  # of recurrent layers and attention, which have several
        module, edits = network.get_submodule(path), [_two(path, weight, view) for view in VIEWS]
        edit = min(edits, key=lambda one: _products(one, module, weight))
        fewer = edit.rank * sum(matrix(weight, edit.view).shape) < weight.numel()
        if not fewer or _products(edit, module, weight) > weight.numel():
            whole[path] = min(one.rank for one in edits)
            continue
        structure = Structure(edits=[edit])
        try:
            load(network, structure, structure.carry(untied(network)))
        except ValueError:
            continue  # a layer of another kind stays as it is
        made.append(edit)
    return made, whole


def _two(path: str, weight: Tensor, view: Literal["channel", "spatial"]) -> Factorise:
    """Two layers of a weight's rank, rounding aside."""
    rank = numerical_rank(torch.linalg.svdvals(matrix(weight.double(), view)), weight.dtype)
    return Factorise(module=path, rank=max(1, rank), view=view)


def _products(edit: Factorise, module: nn.Module, weight: Tensor) -> int:
    """Multiplications of two layers for one place of the output. Of strides across, the first of two spatial
    convolutions takes none."""
    first, second = matrix(weight, edit.view).shape
    if edit.view == "spatial" and isinstance(module, nn.Conv2d):
        first *= module.stride[1]
    return edit.rank * (first + second)


def _of(settings: Grouped, whole: float, found: Cut) -> Grouped | None:
    """A constraint whose `macs` are of a network of so many, for what is left of it; None if that is few enough."""
    if settings.macs is None or (left := found.macs({})) == whole:
        return settings
    share = settings.macs * whole / left
    return settings.model_copy(update={"macs": share}) if share < 1 else None


def _stays(
    network: nn.Module, found: Cut, constraints: Sequence[Grouped], multiple: int, whole: float
) -> dict[int, NDArray[np.bool_]]:
    """Which units stay: by constraints those of largest norm, else those that are not zero.

    Constraints on multiply-accumulates are shares of `whole`.
    """
    there = parameters(network)
    if not constraints:
        every = {number: alive(network, space) for number, space in enumerate(found.spaces)}
        steps = {number: multiple // math.gcd(multiple, found.spaces[number].width) for number in every}
        rounded = {number: _rounded(units, steps[number]) for number, units in every.items()}
        return {number: units for number, units in rounded.items() if not units.all()}
    shares: list[coupled.Share] = []
    for number, given in enumerate(constraints):
        settings = _of(given, whole, found)
        if settings is None:
            continue
        try:
            shares += coupled.shares(settings, found, there)
        except ValueError as error:
            raise SpecError([(("constraints", number), str(error))]) from error
    return coupled.stays(shares, lambda name: network.get_parameter(name).detach())


def alive(network: nn.Module, space: Space) -> NDArray[np.bool_]:
    """The units of which something that makes them and something that reads them is not zero."""
    found = np.ones(space.size, np.bool_)
    for ends in ((*space.makers, *space.other_makers), (*space.readers, *space.other_readers)):
        each = [_nonzero(_tensor(network, name), dim)[space.places[name, dim]].any(1) for name, dim in ends]
        found = found & np.any(each, 0)
    return found


def in_part(network: nn.Module, space: Space) -> int:
    """How many units stay, though in one of the weights that make or read them they are zero."""
    somewhere = np.zeros(space.size, np.bool_)
    for name, dim in space.weights:
        somewhere |= ~_nonzero(network.get_parameter(name), dim)[space.places[name, dim]].any(1)
    return int((somewhere & alive(network, space)).sum())


def _tensor(network: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer."""
    path, _, own = name.rpartition(".")
    found: Tensor = getattr(network.get_submodule(path), own)
    return found


def _nonzero(tensor: Tensor, dim: int) -> NDArray[np.bool_]:
    return np.asarray((tensor != 0).movedim(dim, 0).flatten(1).any(1))


def _rounded(units: NDArray[np.bool_], multiple: int) -> NDArray[np.bool_]:
    """The same and the first of the others, up to a multiple; one at least."""
    wanted = max(1, -(-int(units.sum()) // multiple) * multiple)
    more = np.flatnonzero(~units)[: max(0, wanted - int(units.sum()))]
    found = np.array(units)
    found[more] = True
    return found


def removed(network: nn.Module, before: Before, count: int, samples: int) -> list[tuple[str, float]]:
    """Take out blocks whose absence costs least, one after another; each with the loss that is left without it.

    Raises SpecError if there are not as many that can be.
    """
    gone: list[tuple[str, float]] = []
    while len(gone) < count:
        losses: dict[str, float] = {}
        for path in blocks(network, *before.inputs):
            trial = copy.deepcopy(network)
            EDITS["remove"].apply(Remove(module=path), trial)
            loss = before.loss(trial, samples)
            losses[path] = loss if math.isfinite(loss) else math.inf
        if not losses:
            raise SpecError([(("blocks", "remove"), _few(count, [path for path, _ in gone]))])
        best = min(losses, key=lambda path: losses[path])
        if losses[best] == math.inf:
            text = f"without {best}, and any other of {', '.join(losses)}, the loss on validation is not finite"
            raise SpecError([(("blocks", "remove"), text)])
        EDITS["remove"].apply(Remove(module=best), network)
        gone.append((best, losses[best]))
    return gone


def _size(network: nn.Module) -> int:
    return sum(one.shape.numel() for one in weights(parameters(network)).values())


def _apart(one: nn.Module, other: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """How far the outputs of two networks are from each other, relative to the first's largest; None where they are of
    other shapes."""
    outputs = []
    for network in (one, other):
        with torch.no_grad():
            found = pytree.tree_leaves(copy.deepcopy(network).eval()(*args, **kwargs))
        outputs.append(torch.cat([x.flatten().double() for x in found if isinstance(x, Tensor)]))
    if outputs[0].shape != outputs[1].shape:
        return None
    return float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max().clamp(min=1e-30))

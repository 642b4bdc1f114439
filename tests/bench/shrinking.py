"""One network cut at random by what was found of it, and by Torch-Pruning: both are compared with masked networks.

The check is another than the proof's: in single precision, with another batch and other cuts; what is masked is told by
the edits, in all tensors; and the compact network is built once more from its structure as JSON.
"""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.coupling.cut import Cut, cut, macs
from dualprune.stages.coupling.proof import bare
from dualprune.stages.coupling.trace import Untraceable
from dualprune.stages.networks.build import build_model, parameters_of
from dualprune.stages.networks.edits import Narrow
from dualprune.stages.networks.structure import Structure, load
from dualprune.stages.settings.training import Model
from tests.bench.common import Row

BATCH = 3
"""Pictures that outputs are compared on; networks are followed with two."""
TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest output, in single precision."""
CUT_SIDES = (64, 96)
"""Sides of the pictures that a network to be cut is tried with before that which it is made for."""
LARGEST_CUT = 150e6
"""Weights of a network that is cut and compared, with copies in double precision; a larger one is left out."""
PATIENCE = 120
"""Seconds that Torch-Pruning has for a network."""
COLUMNS = (
    *("network", "side", "weights", "weights_after", "macs", "macs_after", "units", "heads", "spaces"),
    *("refused", "unknown", "difference", "seconds", "result", "torch_pruning"),
)
SHARE = 0.5
"""Of the units of a space that stay, in the mean."""


class Wrong(Exception):
    """A compact network that does not give what the masked one does."""


def cut_at_random(name: str, side: int) -> Row:
    """What came of cutting one network; the reason where it was refused."""
    row: Row = {**dict.fromkeys(COLUMNS), "network": name}
    try:
        row["weights"] = sum(prod(one.shape) for one in parameters_of(Model(name=name, classes=10)).values())
        if row["weights"] > LARGEST_CUT:
            return row | {"result": f"left out: more than {LARGEST_CUT:.0f} weights"}
        for size in sorted({*(small for small in CUT_SIDES if small < side), side}):
            row["side"] = size
            try:
                row |= {"result": "exact", **shrunk(name, size)}
                break
            except Untraceable as error:
                row["result"] = f"refused: {error}".partition("\n")[0][:300]
    except Wrong as error:
        row["result"] = f"WRONG: {error}"
    except Exception as error:  # noqa: BLE001 - any is a row of the table
        row["result"] = f"fails: {type(error).__name__}: {error}".partition("\n")[0][:300]
    return row | by_torch_pruning(name, row["side"] or side)


def shrunk(name: str, side: int) -> Row:
    """What came of cutting a network: sizes before and after, and the largest difference.

    Raises Untraceable, and Wrong.
    """
    settings = Model(name=name, classes=10)
    network, generator = _stirred(build_model(settings)), torch.Generator().manual_seed(2)
    began = time.perf_counter()
    found = cut(network, (torch.zeros(2, 3, side, side),), {})
    row: Row = {"seconds": round(time.perf_counter() - began, 1)}
    row |= {"weights": _size(network), "macs": found.macs({}), "units": sum(one.size for one in found.spaces)}
    row |= {"heads": sum(one.size for one in found.spaces if one.heads), "spaces": len(found.spaces)}
    row |= {"refused": len(found.refused), "unknown": " ".join(sorted(found.coupling.unknown))}
    if not found.spaces:
        reasons = found.refused.values() or ["nothing of it can go"]
        raise Untraceable(next(iter(reasons)))
    pictures = torch.randn(BATCH, 3, side, side, generator=generator)
    return row | _compared(settings, network, found, pictures)


def _compared(settings: Model, network: nn.Module, found: Cut, pictures: Tensor) -> Row:
    draw = np.random.default_rng(7)
    stays = {number: random(space.size, draw) for number, space in enumerate(found.spaces)}
    edits = found.edits(stays)
    structure = Structure.model_validate(json.loads(json.dumps(Structure(edits=[*edits]).model_dump(mode="json"))))
    compact = structure.apply(copy.deepcopy(network))
    dense = _outputs(network, pictures)
    outputs = _outputs(compact, pictures)
    masked = _outputs(_masked(network, edits), pictures)
    again = _outputs(load(build_model(settings).eval(), structure, compact.state_dict()), pictures)
    row = {"weights_after": _size(compact), "macs_after": found.macs(stays), "difference": _apart(masked, outputs)}
    alike = torch.zeros(2, *pictures.shape[1:], device="meta")  # what is computed once a batch counts by its samples
    if (counted := macs(bare(compact), (alike,), {})) != row["macs_after"]:
        raise Wrong(f"{row['macs_after']:.0f} MACs by its edits, {counted:.0f} by what it does")
    if not row["difference"] <= TOLERANCE or not _apart(outputs, again) <= TOLERANCE:
        raise Wrong(f"{row['difference']:.2g} from the masked one, {_apart(outputs, again):.2g} when built anew")
    if _apart(dense, masked) < TOLERANCE:
        raise Wrong("masks change nothing, so it is not known to be exact")
    return row


def random(size: int, draw: np.random.Generator) -> Any:
    """Units that stay: each with the same chance, and at least one of them."""
    stays = draw.random(size) < SHARE
    stays[draw.integers(size)] = True
    return stays


def _masked(network: nn.Module, edits: Sequence[Narrow]) -> nn.Module:
    """In place: the parameters' entries that the edits leave out are zero."""
    for edit in edits:
        for name, dims in edit.kept.items():
            tensor = getattr(network.get_submodule(edit.module), name)
            if not isinstance(tensor, nn.Parameter):
                continue
            for dim, runs in enumerate(dims):
                if runs is not None:
                    gone = np.setdiff1d(np.arange(tensor.shape[dim]), [at for run in runs for at in range(*run)])
                    zero(tensor, dim, gone)
    return network


def zero(tensor: Tensor, dim: int, positions: Any) -> None:
    """Set entries at these positions of a dimension to zero."""
    with torch.no_grad():
        tensor.index_fill_(dim, torch.as_tensor(np.asarray(positions, np.int64)), 0.0)


def _stirred(network: nn.Module) -> nn.Module:
    """In place: nothing of it is hidden behind scales that are zero; statistics of batch norm are drawn at random."""
    generator = torch.Generator().manual_seed(3)

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.is_floating_point() and (tensor.ndim < 2 or float(tensor.std()) < 1e-3):
                tensor.add_(drawn(tensor) * (0.1 if tensor.ndim < 2 else 1 / max(1, tensor[0].numel()) ** 0.5))
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + drawn(buffer).abs())
            elif name.endswith("running_mean"):
                buffer.copy_(drawn(buffer) * 0.1)
    return network.eval()


def _outputs(network: nn.Module, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        found = network(pictures)
    return found if isinstance(found, Tensor) else next(one for one in found if isinstance(one, Tensor))


def _apart(wanted: Tensor, found: Tensor) -> float:
    if wanted.shape != found.shape:
        return float("inf")
    return float((wanted - found).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _size(network: nn.Module) -> int:
    return sum(one.numel() for one in network.parameters())


def by_torch_pruning(name: str, side: int) -> Row:
    """What came of the same with Torch-Pruning's groups: `exact`, `wrong` or `fails`."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not finished in {PATIENCE} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        apart = _pruned(_stirred(build_model(Model(name=name, classes=10))), torch.randn(2, 3, side, side))
    except Exception as error:  # noqa: BLE001 - any is a row of the table
        return {"torch_pruning": f"fails: {type(error).__name__}: {error}".partition("\n")[0][:80]}
    finally:
        signal.alarm(0)
    return {"torch_pruning": "exact" if apart <= TOLERANCE else f"wrong: {apart:.2g}"}


def _pruned(network: nn.Module, pictures: Tensor) -> float:
    """The largest relative difference after a random part of each group was taken out."""
    import torch_pruning as tp  # type: ignore[import-untyped]

    masked, draw = copy.deepcopy(network), np.random.default_rng(7)
    twin = dict(zip(network.modules(), masked.modules(), strict=True))
    layers = [one for one in network.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    graph, left = tp.DependencyGraph().build_dependency(network, example_inputs=pictures), dict[Any, Any]()
    for whole in graph.get_all_groups(ignored_layers=layers[-1:]):
        root, stays = whole[0].dep.target.module, random(len(whole[0].idxs), draw)
        group = graph.get_pruning_group(root, whole[0].dep.handler, np.flatnonzero(~stays).tolist())
        if not graph.check_pruning_group(group):
            continue
        for dep, positions in group:
            module, out = dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)
            if module in twin:
                _silence(twin[module], out, positions, left)
        group.prune()
    before, after = _outputs(masked, pictures), _outputs(network, pictures)
    if not left:
        raise ValueError("nothing of it can go")
    return _apart(before, after)


def _silence(module: nn.Module, out: bool, positions: Sequence[int], left: dict[Any, Any]) -> None:
    """Zeros where Torch-Pruning takes channels out. Positions are among those that are left of the module's own."""
    for name, tensor in module.named_parameters(recurse=False):
        dim = 0 if out or tensor.ndim < 2 or tensor.shape[1] == 1 else 1
        if not out and tensor.ndim < 2 and name == "bias":
            continue
        there = left.setdefault((module, name, dim), np.arange(tensor.shape[dim]))
        zero(tensor, dim, there[list(positions)])
        left[module, name, dim] = np.delete(there, list(positions))

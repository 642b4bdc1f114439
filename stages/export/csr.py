"""Linear layers whose zeros are scattered, as sparse rows (CSR), where that is faster on this machine.

The file that `save` writes is plain torch's: the network's own state dict, in which some weights are sparse tensors.

    network.load_state_dict(torch.load("weights.pt", weights_only=True), assign=True)
    with torch.no_grad():
        network(x)
"""

from __future__ import annotations

import copy
import statistics
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.export.calls import leaves
from dualprune.stages.export.inputs import Inputs
from dualprune.stages.export.timing import Effort, interleaved

ZEROS = 0.5
"""Share of a weight that has to be zero for its layer to be tried: below it, no dense product was slower."""
WORTH = 0.95
"""Share of the dense layer's time below which a sparse one is taken."""
TRIED = Effort(seconds=0.2)
"""How long each layer's two forms are timed."""


class SparseLinear(nn.Linear):
    """A linear layer whose weight is a CSR tensor, [out, in]. Its state dict is a linear layer's."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer's outputs, [..., out]; of one row by the product of matrix and vector, which is faster then."""
        rows, bias = input.reshape(-1, self.in_features), self._parameters["bias"]
        if len(rows) == 1:
            outputs = torch.mv(self.weight, rows[0])
            outputs = outputs if bias is None else outputs + bias
        elif bias is None:
            outputs = torch.mm(self.weight, rows.t()).t()
        else:
            outputs = torch.addmm(bias[:, None], self.weight, rows.t()).t()
        return outputs.reshape(*input.shape[:-1], self.out_features)


@dataclass(frozen=True)
class Timed:
    """Seconds of one call of a layer in its two forms."""

    dense: float
    sparse: float


def with_csr(network: nn.Module, inputs: Inputs) -> tuple[nn.Module, dict[str, Timed]]:
    """A copy of a network, on the CPU, whose linear layers are sparse where that is faster, and which these are.

    Each layer that is half zeros or more is timed in both forms, with what it is given for `inputs`, by as many threads
    as torch is set to. Raises ArithmeticError where the copy does not compute the same.
    """
    given = _given(network, inputs)
    changed = {}
    found = copy.deepcopy(network)
    for name, rows in given.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        sparse = _sparse(layer)
        timed = _timed(layer, sparse, rows)
        if timed.sparse < WORTH * timed.dense:
            parent, _, own = name.rpartition(".")
            setattr(found.get_submodule(parent), own, sparse)
            changed[name] = timed
    if changed:
        _check(network, found, inputs)
    return found, changed


def save(network: nn.Module, path: str) -> None:
    """Write a network's state dict, sparse weights as they are: no class of ours is in it."""
    torch.save({name: tensor.detach() for name, tensor in network.state_dict().items()}, path)


def _given(network: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """What each linear layer that may be sparse is given in a call: [..., in], by its name.

    Layers that share their weight with others stay, lest that weight be stored twice; so do those of torch's own
    transformers, which multiply with their layers' weights themselves where nothing is hooked in.
    """
    found: dict[str, Tensor] = {}
    uses: dict[int, int] = {}
    for _, parameter in network.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    hooks = []
    for name, layer in network.named_modules():
        if type(layer) is not nn.Linear or uses[id(layer.weight)] > 1 or not name:
            continue
        if isinstance(network.get_submodule(name.rpartition(".")[0]), nn.TransformerEncoderLayer):
            continue
        if float((layer.weight == 0).float().mean()) >= ZEROS:

            def note(_: Any, args: tuple[Any, ...], name: str = name) -> None:
                if len(args) == 1 and args[0].numel():
                    found[name] = args[0].detach().clone()

            hooks.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _sparse(layer: nn.Linear) -> SparseLinear:
    with torch.device("meta"):
        made = SparseLinear(layer.in_features, layer.out_features, layer.bias is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that CSR is in beta
        rows = layer.weight.detach().to_sparse_csr()
    # Indices of 32 bits, which MKL computes with: those of 64 take twice the memory, and more time.
    weight = torch.sparse_csr_tensor(
        rows.crow_indices().int(), rows.col_indices().int(), rows.values(), rows.shape, check_invariants=False
    )
    made.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return made.eval()


def _timed(layer: nn.Linear, sparse: SparseLinear, rows: Tensor) -> Timed:
    with torch.no_grad():
        times = interleaved(
            {"dense": lambda: F.linear(rows, layer.weight, layer.bias), "sparse": lambda: sparse(rows)}, TRIED
        )
    return Timed(*(statistics.median(times[form]) for form in ("dense", "sparse")))


def _check(network: nn.Module, changed: nn.Module, inputs: Inputs) -> None:
    with torch.no_grad():
        outputs = [[tensor for _, tensor in leaves(one(*inputs))] for one in (network, changed)]
    for wanted, got in zip(*outputs, strict=True):
        if wanted.is_floating_point() and not torch.allclose(
            got, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
        ):
            raise ArithmeticError("sparse layers give other outputs than dense ones")

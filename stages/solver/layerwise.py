"""One layer pruned at once, from its inputs on calibration data alone, by ADMM (ALPS: Meng et al. 2024).

    min over Z in S of |X W^T - X Z^T|^2,     X the layer's inputs, [samples, inputs]; W [outputs, inputs]

With H = X^T X, in scaled form:

    W:  V = (W H + rho (Z - U)) (H + rho I)^-1          by one eigendecomposition of H, whatever rho is
    Z:  Z = Proj(V + U)         U: U = U + V - Z        rho rises while Z's support settles

Then, with the support that was found, what stays is the least-squares solution, by conjugate gradients for all outputs
side by side. Inputs are brought to the same norm first, and W's columns with it: the projection is then by how much a
weight does and not by how large it is, as in Wanda; sets of supports don't change by that. A low rank has a closed
form: the nearest matrix of that rank to W H^1/2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualprune.stages.constraints import Constraint
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.turned import Turned
from dualprune.stages.engine.ranks import of_rank
from dualprune.stages.settings.base import SpecError
from dualprune.stages.solver.admm import Tensors
from dualprune.stages.solver.calibration import Calibration
from dualprune.stages.solver.solved import Notes, Solved
from dualprune.stages.solver.targets import Targets
from dualprune.stages.solver.unfit import by_moments

RHO = 0.1
"""At the beginning, beside inputs of norm 1."""
EVERY = 3
"""Iterations from one look at the support to the next, at which rho grows."""
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""Of rho, where more than such a share of what stays has moved since the look before."""
CLOSE = 1e-2
"""|V - Z| / |V| at which a support that stays is final."""
DEAD = 1e-8
"""Of the mean square of all inputs, what each has at least."""
STEPS = 100
"""Of conjugate gradients, at most."""
EXACT = 1e-5
"""Of the gradient where they begin, the share at which they end."""


class _Scaled(NamedTuple):
    """A layer's problem with inputs of norm 1."""

    w: Tensor
    """[outputs, inputs]."""
    h: Tensor
    """Of diagonal 1, damped."""
    values: Tensor
    vectors: Tensor
    """Of h."""


def layers(network: nn.Module, targets: Targets) -> dict[str, nn.Module]:
    """The layers of constrained tensors, by the names of these. Raises SpecError for those that can't be pruned so."""
    wrong = by_moments(network, targets.names, targets.parameters)
    if wrong:
        raise SpecError([(("constraints",), text) for text in wrong])
    return {name: network.get_submodule(name.rpartition(".")[0]) for name in targets.names}


def prune(
    tensors: Tensors,
    layers: Mapping[str, nn.Module],
    sets: Mapping[str, Constraint],
    turned: Collection[str],
    calibration: Calibration,
    notes: Notes,
    iterations: int,
    damping: float,
) -> Iterator[tuple[str, Solved]]:
    """Prune layers in the order in which they are called, each by what those before it, pruned already, give it.

    `layers` and `sets` are by the names of their weights, of which `turned` are [inputs, outputs]. Those that are given
    the same tensor are solved on ranks of their own. Yields each one's name, and what it became. On all ranks together;
    raises SpecError.
    """
    for number, names in enumerate(calibration.order(layers)):
        found = notes.read(number)
        if found is None:
            moments = calibration.moments(names[0], layers[names[0]])
            own: dict[str, Solved] = {}
            owners = {name: (number + place) % calibration.world for place, name in enumerate(names)}
            for name, owner in owners.items():
                w, kept = tensors.get(name), tensors.get(name, "mask")
                if calibration.rank == owner:
                    of = solve_turned if name in turned else solve
                    own[name] = of(w, moments, sets[name], kept, iterations, damping)
            found = {name: _shared(own.get(name), tensors.get(name), owner) for name, owner in owners.items()}
            notes.write(number, found)
        for name, one in found.items():
            tensors.set(name, one.weights)
            tensors.set(name, one.mask, "mask")
            yield name, one


def solve_turned(
    w: Tensor, moments: Tensor, constraint: Constraint, kept: Tensor, iterations: int = 300, damping: float = 0.03
) -> Solved:
    """`solve` of W [inputs, outputs]."""
    if isinstance(constraint, Turned):
        own = constraint.of
    else:
        own = constraint if isinstance(constraint, LowRank) else Turned(constraint)
    found = solve(w.T.contiguous(), moments, own, kept.T.contiguous(), iterations, damping)
    return replace(found, weights=found.weights.T.contiguous(), mask=found.mask.T.contiguous())


def _shared(solved: Solved | None, like: Tensor, owner: int) -> Solved:
    """What one rank has found, on all of them."""
    weights = torch.empty_like(like) if solved is None else solved.weights.contiguous()
    mask = torch.empty_like(like) if solved is None else solved.mask.contiguous()
    facts = torch.zeros(2, dtype=torch.float64, device=like.device)
    if solved is not None:
        facts = facts.new_tensor([solved.error, solved.iterations])
    for one in (weights, mask, facts):
        of_rank(owner, one)
    return Solved(weights, mask, float(facts[0]), int(facts[1]))


def solve(
    w: Tensor, moments: Tensor, constraint: Constraint, kept: Tensor, iterations: int = 300, damping: float = 0.03
) -> Solved:
    """Weights in S instead of W, [outputs, ...], for inputs of second moments X^T X [inputs, inputs].

    `kept` is W's mask: what is 0 there stays zero. To H's diagonal `damping` times itself is added.
    """
    flat, own = w.flatten(1).float(), kept.flatten(1)
    scale, h = _scaled(moments, damping)
    if isinstance(constraint, LowRank):
        z, mask, done = _lowrank(flat * own, scale, h, constraint, w.shape), torch.zeros_like(flat), 0
    else:
        of = _problem(flat * own, scale, h)
        near, done = _admm(of, constraint, own, w.shape, iterations)
        mask = constraint.mask(near.view(w.shape)).flatten(1) * own
        z = _refined(of, near * mask, mask) / scale.float()
    return Solved(z.view(w.shape), mask.view(w.shape), error(w, z.view(w.shape), moments), done)


def error(w: Tensor, z: Tensor, moments: Tensor) -> float:
    """|X W^T - X Z^T|^2 / |X W^T|^2; 0 where W does nothing."""
    whole = _energy(w, moments)
    return _energy(w - z, moments) / whole if whole else 0.0


def _energy(w: Tensor, moments: Tensor) -> float:
    flat = w.flatten(1).to(moments)
    return float(((flat @ moments) * flat).sum())


def _scaled(moments: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """What brings inputs to norm 1, and their second moments then, damped: fp64.

    Inputs that are always zero become the smallest there are, so that their weights go first.
    """
    h = moments.double()
    squares = h.diagonal()
    scale = squares.clamp(min=DEAD * (float(squares.mean()) or 1.0)).sqrt()
    h = h / scale / scale[:, None]
    h.diagonal().add_(damping)
    return scale, h


def _problem(w: Tensor, scale: Tensor, h: Tensor) -> _Scaled:
    values, vectors = torch.linalg.eigh(h)
    return _Scaled((w.double() * scale).float(), h.float(), values.float(), vectors.float())


def _admm(of: _Scaled, constraint: Constraint, kept: Tensor, shape: torch.Size, iterations: int) -> tuple[Tensor, int]:
    """A point of S, [outputs, inputs], whose support is what counts of it, and after how many iterations."""

    def project(v: Tensor) -> Tensor:
        return constraint.project((v * kept).view(shape)).flatten(1)

    rho, wanted = RHO, (of.w @ of.vectors) * of.values
    z, u = project(of.w), torch.zeros_like(of.w)
    support, done = z != 0, 0
    while done < iterations:
        v = ((wanted + rho * ((z - u) @ of.vectors)) / (of.values + rho)) @ of.vectors.T
        z = project(v + u)
        u += v - z
        done += 1
        if done % EVERY:
            continue
        before, support = support, z != 0
        moved = int((support != before).sum()) / max(1, int(support.sum()))
        if not moved and float((v - z).norm()) <= CLOSE * float(v.norm()):
            break
        factor = next(factor for share, factor in GROWTH if moved >= share)
        rho, u = rho * factor, u / factor
    return z, done


def _refined(of: _Scaled, z: Tensor, mask: Tensor) -> Tensor:
    """The least-squares solution on a support, from a point of it. Outputs are problems of their own."""
    residual = ((of.w - z) @ of.h) * mask
    direction, size = residual, residual.square().sum(1, keepdim=True)
    enough = size * EXACT**2
    for _ in range(STEPS):
        if bool((size <= enough).all()):
            break
        moved = (direction @ of.h) * mask
        curve = (direction * moved).sum(1, keepdim=True)
        step = torch.where(curve > 0, size / curve, 0)
        z = z + step * direction
        residual = residual - step * moved
        before, size = size, residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(before > 0, size / before, 0) * direction
    return z


def _lowrank(w: Tensor, scale: Tensor, h: Tensor, constraint: LowRank, shape: torch.Size) -> Tensor:
    """In fp64: what rounding makes of inputs that are next to nothing would have a rank of its own."""
    values, vectors = torch.linalg.eigh(h)
    root = values.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    nearest = constraint.project((((w.double() * scale) @ vectors) * root).view(shape)).flatten(1)
    found: Tensor = ((nearest / root) @ vectors.T / scale).float()
    return found

"""Projections of 25M weights onto each set, against the obvious way and against a copy of the tensor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import cross_entropy

from dualprune.stages.constraints import groups
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.clusters import Clusters
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.nm import NM
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.solver.budget import Budget, allocate
from tests.bench.common import Row, interleaved, options, ratios, report


@dataclass(frozen=True)
class Case:
    """A set, and what one would write without it."""

    name: str
    ours: Callable[[Tensor], object]
    obvious: Callable[[Tensor], object]
    how: str


def topk(w: Tensor, k: int) -> Tensor:
    """torch.topk of magnitudes, and a mask from its indices."""
    mask = torch.zeros(w.numel(), dtype=torch.bool)
    mask[torch.topk(w.abs().flatten(), k, sorted=False).indices] = True
    return w * mask.view_as(w)


def group_topk(w: Tensor, k: int, shape: tuple[int, ...], within: tuple[int, ...]) -> Tensor:
    """Norms of groups (the axes `within` of the tensor seen in that shape), topk of them."""
    seen = w.view(shape)
    norms = torch.linalg.vector_norm(seen, dim=within, keepdim=True)
    mask = torch.zeros(norms.numel(), dtype=torch.bool)
    mask[torch.topk(norms.flatten(), k).indices] = True
    return (seen * mask.view_as(norms)).view_as(w)


def global_topk(tensors: list[Tensor], k: int) -> list[Tensor]:
    """All tensors' magnitudes in one, topk of it, and the smallest of those as everyone's threshold."""
    threshold = torch.topk(torch.cat([w.abs().flatten() for w in tensors]), k, sorted=False).values.min()
    return [w * (w.abs() >= threshold) for w in tensors]


def nm_topk(w: Tensor, n: int, m: int) -> Tensor:
    """topk in each run."""
    runs = w.reshape(-1, m)
    return (runs * torch.zeros_like(runs).scatter_(1, runs.abs().topk(n, dim=1).indices, 1.0)).view_as(w)


def scan(w: Tensor, bits: int) -> Tensor:
    """The published code's search for the interval: 201 candidates, each over all weights."""
    half = 2 ** (bits - 1)
    best, error = w, float("inf")
    for factor in torch.linspace(0.9, 1.1, 201):
        q = w.abs().max() / half * factor
        z = w.sign() * (w.abs() / q).round().clamp(1, half) * q
        if (now := float((z - w).square().sum())) < error:
            best, error = z, now
    return best


def powers(w: Tensor, bits: int) -> Tensor:
    """The nearest of the powers of two by the logarithm, clamped to those that there are."""
    exponent = (w.abs().log2() + math.log2(4 / 3) - 0.5).round()  # up from 3/4 of a power
    top = exponent.max()
    return w.sign() * torch.exp2(exponent.clamp(min=top - 2 ** (bits - 1) + 1))


def ternary(w: Tensor) -> Tensor:
    """Li et al. 2016, section 2.2: a threshold of 0.7 mean magnitudes, the mean of what is above it."""
    magnitude = w.abs()
    above = magnitude > 0.7 * magnitude.mean()
    return w.sign() * above * magnitude[above].mean()


def k_means(w: Tensor, k: int) -> Tensor:
    """scikit-learn's KMeans on a column."""
    fitted = KMeans(k, n_init=1, random_state=0).fit(w.reshape(-1, 1).numpy())
    return torch.from_numpy(fitted.cluster_centers_[fitted.labels_]).view_as(w)


def svd(w: Tensor, r: int) -> Tensor:
    """A full decomposition."""
    u, sigma, vh = torch.linalg.svd(w)
    found: Tensor = (u[:, :r] * sigma[:r]) @ vh[:r]
    return found


def cases(rows: int, columns: int) -> list[tuple[Case, Tensor]]:
    """Each set with its tensor: all of it where that is bearable, a part where the obvious way takes minutes."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(rows, columns, generator=generator)
    half, hundredth = w.numel() // 2, w.numel() // 100
    part = w[: max(1, rows // 16)].contiguous()
    square = w[: min(rows, 1024), : min(columns, 1024)].contiguous()

    def grouped(name: str, layout: Callable[[tuple[int, ...]], groups.Layout]) -> Case:
        """Half of the groups."""
        shape, axes = layout((rows, columns // 4, 2, 2) if name == "channel" else (rows, columns))
        k = math.prod(shape[axis] for axis in axes) // 2
        within = tuple(axis for axis in range(len(shape)) if axis not in axes)
        obvious = partial(group_topk, k=k, shape=shape, within=within)
        return Case(f"{name}, half", groups.Groups(k, lambda _: (shape, axes)).project, obvious, "norm, topk")

    layers = [layer.contiguous() for layer in w.split(max(1, rows // 50))]
    names = tuple(map(str, range(len(layers))))

    def budgeted(_: Tensor) -> list[Tensor]:
        kept = allocate(Budget(names, half, 1, "none"), lambda name: layers[int(name)]).kept
        return [Cardinality(kept[name]).project(layers[int(name)]) for name in names]

    return [
        (Case("cardinality, half", Cardinality(half).project, partial(topk, k=half), "topk"), w),
        (Case("cardinality, 1 %", Cardinality(hundredth).project, partial(topk, k=hundredth), "topk"), w),
        (Case("cardinality, global", budgeted, lambda _: global_topk(layers, half), "topk of all"), w),
        (grouped("filter and row", groups.filters), w),
        (grouped("channel", groups.channels), w),
        (grouped("column", groups.columns), w),
        (grouped("head", partial(groups.heads, count=8)), w),
        (grouped("block 4 x 4", partial(groups.blocks, p=4, q=4)), w),
        (Case("nm 2:4", NM(2, 4).project, partial(nm_topk, n=2, m=4), "topk of runs"), w),
        (Case("levels, 4 bits", Levels("equidistant", 4).project, partial(scan, bits=4), "201 candidates"), part),
        (Case("levels, power 4", Levels("power", 4).project, partial(powers, bits=4), "log2, round"), w),
        (Case("levels, ternary", Levels("ternary").project, ternary, "a threshold"), w),
        (Case("levels, binary", Levels("binary").project, lambda x: x.sign() * x.abs().mean(), "sign, mean"), w),
        (Case("clusters, 16", Clusters(16).project, partial(k_means, k=16), "scikit-learn"), part),
        (Case("lowrank 64", LowRank(rank=64).project, partial(svd, r=64), "full SVD"), square),
    ]


def measure(case: Case, w: Tensor, rounds: int) -> Row:
    """One row: ours, the obvious way and a copy, side by side."""
    target = torch.empty_like(w)
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: case.ours(w),
        "obvious": lambda: case.obvious(w),
        "copy": lambda: target.copy_(w),
    }
    times = interleaved(variants, rounds, 1, clock=time.process_time)
    return {
        "set": case.name,
        "entries": w.numel(),
        "ours_ms": median(times["ours"]),
        "obvious_ms": median(times["obvious"]),
        "copy_ms": median(times["copy"]),
        "speedup": ratios(times["obvious"], times["ours"])[1],
        "copies": ratios(times["ours"], times["copy"])[1],
        "obvious": case.how,
    }


def network(rounds: int) -> Row:
    """All weights of torchvision's ResNet-50 to a tenth, tensor by tensor."""
    tensors = [p.detach() for p in MODELS["resnet50"](1000).parameters() if p.ndim > 1]
    ours = [Cardinality(w.numel() // 10) for w in tensors]
    case = Case(
        "cardinality, ResNet-50",
        lambda _: [one.project(w) for one, w in zip(ours, tensors, strict=True)],
        lambda _: [topk(w, one.k) for one, w in zip(ours, tensors, strict=True)],
        "topk",
    )
    return measure(case, torch.cat([w.flatten() for w in tensors]), rounds)


def training_step(batch: int, rounds: int) -> float:
    """Milliseconds of a plain training step of ResNet-50 on pictures of 224 x 224, this many at a time."""
    model = MODELS["resnet50"](1000).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    pictures = torch.randn(batch, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(pictures), labels).backward()
        optimizer.step()

    return median(interleaved({"step": step}, rounds, 1, clock=time.process_time)["step"])


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    rows, columns, rounds = (1024, 1024, 3) if asked.quick else (5000, 5000, 5)
    table = [measure(case, w, rounds) for case, w in cases(rows, columns)]
    whole = network(rounds)
    report("Projections (processor time, one thread)", [*table, whole], asked)
    batch = 1 if asked.quick else 8
    step = training_step(batch, 3)
    print(
        f"All of ResNet-50 projected: {whole['ours_ms']:.0f} ms. A training step of it at batch {batch}, 224 x 224: "
        f"{step:.0f} ms, so about {step * 256 / batch / 1000:.0f} s at batch 256 (in proportion, not measured): "
        f"{step * 256 / batch / whole['ours_ms']:.0f} times as long."
    )


if __name__ == "__main__":
    main()

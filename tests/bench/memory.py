"""Bytes of ADMM's state and of Adam's for each weight and rank, and of all training, up to 7 billion weights.

What a rank keeps of ResNet-18 on one and two ranks is counted in its optimizer. Larger networks are built without
memory (on the meta device); what they take is that for each weight, with weights, gradients and what ZeRO keeps of them
(`stages.settings.engine.needed`), before activations.
"""

from __future__ import annotations

import torch
from torch import nn

from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import join
from dualprune.stages.engine.state import STATE
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.engine import Engine as EngineSettings
from dualprune.stages.settings.engine import needed
from dualprune.stages.settings.training import Optimizer as OptimizerSettings
from tests.bench.common import Row, options, report
from tests.ranks import on_ranks

STAGES = (0, 1, 2, 3)
"""Of ZeRO."""
GPU = 80e9
"""Bytes of memory."""
DECODERS = {"decoder, 0.4 billion": (24, 1024, 2816), "decoder, 1.3 billion": (24, 2048, 5632)} | {
    "decoder, 7 billion": (32, 4096, 11008)
}
"""Layers, width, inner width."""


def held(model: str) -> list[tuple[int, int, int, int]]:
    """What this rank keeps under each ZeRO stage: bytes of ADMM's state, of sets that keep or zero entries and of those
    that change values; of Adam's; and the number of constrained weights."""
    join(threads=1)
    found = []
    for zero in STAGES:
        admm = []
        for valued in (False, True):
            network = MODELS[model](10)
            sizes = {name: p.numel() for name, p in network.named_parameters() if p.ndim > 1}
            names, settings = set(sizes), EngineSettings(zero=zero)
            adam = OptimizerSettings(name="adam")
            engine = Engine(network, names, set(), adam, "fp32", settings, names if valued else ())
            states = [state for state in engine.optimizer.state.values() if "marks" in state]
            admm.append(sum(state[name].nbytes for state in states for name in STATE if name in state))
            inner = sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))
            engine.close()
        found.append((*admm, inner, sum(sizes.values())))
    return found


def decoder(layers: int, width: int, inner: int) -> nn.Module:
    """The matrices of a decoder for text of 32,000 tokens, in the form of LLaMA's (Touvron et al. 2023)."""
    shapes = [(width, width)] * 4 + [(width, inner)] * 2 + [(inner, width)]
    return nn.Sequential(
        nn.Embedding(32000, width),
        *(nn.Linear(a, b, bias=False) for _ in range(layers) for a, b in shapes),
        nn.Linear(width, 32000, bias=False),
    )


def measured(model: str) -> list[Row]:
    """Rows of each ZeRO stage on one and on two ranks: of each rank's bytes those of the fullest."""
    rows = []
    for world in (1, 2):
        for zero, found in zip(STAGES, zip(*on_ranks(world, held, model), strict=True), strict=True):
            size = found[0][3]
            rows.append(row(model, world, zero, size, *(max(of) / size for of in list(zip(*found, strict=True))[:3])))
    return rows


def row(name: str, ranks: int, zero: int, size: int, entries: float, values: float, adam: float) -> Row:
    """Bytes for each weight and rank: of ADMM's state, of Adam's, and of all training; and all weights' gigabytes."""
    whole = needed(zero, ranks)
    found: Row = {"network": name, "weights": size, "ranks": ranks, "zero": zero}
    return found | {"admm": entries, "admm_values": values, "adam": adam, "all": whole, "gb": size * whole / 1e9}


def simulated() -> list[Row]:
    """Rows of networks that are not there, on as many ranks as they are trained on."""
    with torch.device("meta"):
        networks = {"resnet50": MODELS["resnet50"](1000), **{name: decoder(*of) for name, of in DECODERS.items()}}
    sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    places = [(1, 0), *((ranks, zero) for ranks in (8, 64) for zero in (1, 2, 3))]
    return [
        row(name, ranks, zero, size, *(each / (ranks if zero else 1) for each in (5.0, 9.0, 8.0)))
        for name, size in sizes.items()
        for ranks, zero in places
    ]


def main() -> None:
    """Measure all cases and report them."""
    asked = options(__doc__.splitlines()[0])
    rows = [*measured("lenet5" if asked.quick else "resnet18"), *simulated()]
    report("Training's memory on the fullest rank: bytes for each weight, and all", rows, asked)
    print(
        f"A GPU of {GPU / 1e9:.0f} GB holds the training of {GPU / needed(0, 1) / 1e9:.1f} billion weights, at "
        f"{needed(0, 1):.0f} bytes each and before activations; eight of them, under ZeRO 3, that of "
        f"{GPU / needed(3, 8) / 1e9:.0f} billion."
    )


if __name__ == "__main__":
    main()

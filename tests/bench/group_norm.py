"""Torch-Pruning's group norm on ResNet-56 and CIFAR-10, given the epochs of the recipe `cifar10_resnet56_small`.

Four epochs with its regularisation of groups (Fang et al. 2023, section 3.3), filters of least norm out until
1/2.1 of the multiply-accumulates is left, and 28 epochs of retraining with the dense network as a teacher: the recipe's
batches, rates and loss in a loop written by hand; in bf16 where the CPU has it. The residual streams stay whole:
shortcuts padded with zeros are cut wrongly by it (`python -m tests.bench.coverage --shrink`). Needs $DUALPRUNE_DATA and
`pip install torch-pruning`. `--quick` is an epoch each of few pictures: it shows that it runs, and no accuracy.
With `--epochs` there are fewer. The recipe's in as many, here for `--epochs 1 3`:
`dualprune run cifar10_resnet56_small --inline --only dense --only admm --only small
--set stages.admm.admm.updates=1 stages.admm.admm.rho=0.3 stages.small.retrain.epochs=3`.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.data.make.builtin import SOURCES
from dualprune.stages.engine.engine import emulates_bf16
from dualprune.stages.networks.builtin import MODELS
from tests.bench.common import Options, Row, report

MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SHIFT, BATCH = 4, 128
FEW = 512
LEFT = 1 / 2.1
"""Of the multiply-accumulates."""
REGULARISATION = 5e-4
"""The default of Torch-Pruning's own benchmark."""
SOFT, TEMPERATURE = 0.5, 4.0

Split = tuple[Tensor, Tensor]
"""Pictures [n, 3, 32, 32], floats of 0 to 1, and labels [n]."""


def read(folder: str) -> dict[str, Split]:
    """All splits, as the recipe's source has them."""
    found = {}
    for name, samples in SOURCES["cifar10"](folder).items():
        pictures, labels = zip(*samples, strict=True)
        found[name] = (torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255, torch.tensor(labels))
    return found


def normalised(pictures: Tensor) -> Tensor:
    """As the weights' author has them."""
    return (pictures - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def batches(split: Split, generator: torch.Generator) -> Iterator[Split]:
    """An epoch: whole batches, shifted by up to four pixels and flipped."""
    pictures, labels = split
    for part in torch.randperm(len(labels), generator=generator).split(BATCH):
        if len(part) < BATCH:
            return
        padded = F.pad(pictures[part], (SHIFT,) * 4)
        rows, columns = torch.randint(2 * SHIFT + 1, (2, BATCH), generator=generator).tolist()
        moved = [one[:, r : r + 32, c : c + 32] for one, r, c in zip(padded, rows, columns, strict=True)]
        flip = torch.rand(BATCH, generator=generator) < 0.5
        turned = [one.flip(-1) if flips else one for one, flips in zip(moved, flip.tolist(), strict=True)]
        yield normalised(torch.stack(turned)), labels[part]


def train(
    network: nn.Module,
    teacher: nn.Module,
    split: Split,
    epochs: int,
    rate: Callable[[float], float],
    seed: int,
    regularise: Callable[[nn.Module], None] | None = None,
) -> None:
    """In place; `rate` is given how much of the training is done."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    steps, step = epochs * (len(split[1]) // BATCH), 0
    emulated = emulates_bf16(torch.device("cpu"))
    for epoch in range(epochs):
        losses = []
        network.train()
        for pictures, labels in batches(split, generator):
            optimizer.param_groups[0]["lr"] = rate(step / steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=not emulated):
                with torch.no_grad():
                    taught = teacher(pictures).float()
                outputs = network(pictures).float()
            soft = F.kl_div(
                F.log_softmax(outputs / TEMPERATURE, 1),
                F.log_softmax(taught / TEMPERATURE, 1),
                reduction="batchmean",
                log_target=True,
            )
            loss = (1 - SOFT) * F.cross_entropy(outputs, labels) + SOFT * TEMPERATURE**2 * soft
            optimizer.zero_grad()
            loss.backward()
            if regularise is not None:
                regularise(network)
            optimizer.step()
            losses.append(loss.detach())
            step += 1
        print(f"epoch {epoch + 1} of {epochs}: loss {float(torch.stack(losses).mean()):.4f}", file=sys.stderr)


@torch.no_grad()
def accuracy(network: nn.Module, split: Split) -> float:
    """Percent."""
    network.eval()
    right = 0
    for pictures, labels in zip(*(one.split(500) for one in split), strict=True):
        right += int((network(normalised(pictures)).argmax(1) == labels).sum())
    return 100 * right / len(split[1])


def pruner_of(network: nn.Module) -> Any:
    """Its pruner of the filters within blocks, over all layers, in steps of a hundredth."""
    import torch_pruning as tp  # type: ignore[import-untyped]

    streams = [m for name, m in network.named_modules() if name == "conv1" or name.endswith("conv2")]
    return tp.pruner.GroupNormPruner(
        network,
        torch.zeros(1, 3, 32, 32),
        importance=tp.importance.GroupMagnitudeImportance(p=2, normalizer="max"),
        reg=REGULARISATION,
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=100,
        ignored_layers=[*streams, *(m for m in network.modules() if isinstance(m, nn.Linear))],
    )


def macs(network: nn.Module) -> float:
    """Of a picture."""
    import torch_pruning as tp

    return float(tp.utils.count_ops_and_params(network, torch.zeros(1, 3, 32, 32))[0])


def main() -> None:
    """Run it and report it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, nargs=2, default=(4, 28), metavar=("REGULARISED", "RETRAINED"))
    parser.add_argument("--quick", action="store_true", help="an epoch each of few pictures")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the rows and the machine's facts there too")
    given = parser.parse_args()
    asked, epochs = Options(given.quick, given.json), given.epochs
    root = os.environ.get("DUALPRUNE_DATA")
    if root is None:
        sys.exit("DUALPRUNE_DATA is not set: it names a folder that holds cifar10/ and weights/")
    data = Path(root)
    splits = read(str(data / "cifar10"))
    if asked.quick:
        splits, epochs = {name: (x[:FEW], y[:FEW]) for name, (x, y) in splits.items()}, (1, 1)
    state = torch.load(data / "weights" / "resnet56-4bfd9763.th", "cpu", weights_only=True)["state_dict"]
    network = MODELS["resnet56"](10)
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    teacher = copy.deepcopy(network).eval()
    row = Row(epochs=f"{epochs[0]} + {epochs[1]}", dense=accuracy(network, splits["test"]))
    whole = macs(network)

    pruner = pruner_of(network)
    train(network, teacher, splits["train"], epochs[0], lambda done: 0.01, 0, pruner.regularize)
    while macs(network) > LEFT * whole:
        pruner.step()
    row |= {"after_the_cut": accuracy(network, splits["val"]), "macs": whole / macs(network)}
    row |= {"weights": sum(one.numel() for one in network.parameters())}
    train(network, teacher, splits["train"], epochs[1], lambda done: 0.02 * (1 + math.cos(math.pi * done)) / 2, 1)
    row |= {"val": accuracy(network, splits["val"]), "test": accuracy(network, splits["test"])}
    report("ResNet-56 by Torch-Pruning's group norm", [row], asked)


if __name__ == "__main__":
    main()

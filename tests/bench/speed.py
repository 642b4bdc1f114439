"""How much faster finished networks are: shrunk ones against their MACs, scattered zeros, sparse rows against dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from dualprune.stages.export.backends import BACKENDS
from dualprune.stages.export.speed import Subject, speeds
from dualprune.stages.export.subjects import seeded
from dualprune.stages.export.timing import Effort
from tests.bench.common import Row, options, report

PICTURES = (3, 224, 224)


def thin_resnet18(width: int) -> nn.Module:
    """ResNet-18 (He et al. 2016, table 1) whose first stage has this many channels; 64 in the paper."""
    net = ResNet(BasicBlock, [2, 2, 2, 2])
    net.conv1, net.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
    inputs = width
    for number in range(4):
        outputs, stride = width * 2**number, 1 if number == 0 else 2
        net.inplanes = inputs
        stage = net._make_layer(BasicBlock, outputs, 2, stride)
        setattr(net, f"layer{number + 1}", stage)
        inputs = outputs
    net.fc = nn.Linear(inputs, 1000)
    return net.eval()


def scattered(network: nn.Module, share: float) -> nn.Module:
    """A network with this share of its weights at zero, anywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand_like(parameter) < share] = 0
    return network


def resnet18() -> list[Subject]:
    """As it is, with about half the MACs, and with nine of ten weights at zero."""
    return [
        seeded(thin_resnet18(64), PICTURES, "ResNet-18", None),
        seeded(thin_resnet18(40), PICTURES, "ResNet-18, 40 channels", "ResNet-18"),
        seeded(scattered(thin_resnet18(64), 0.9), PICTURES, "ResNet-18, 90 % zeros", "ResNet-18"),
    ]


def linear() -> list[Subject]:
    """A linear layer of 4096 outputs and 1024 inputs, as it is and with nine of ten weights at zero."""
    dense, sparse = (nn.Sequential(nn.Linear(1024, 4096)) for _ in range(2))
    return [
        seeded(dense, (1024,), "4096 x 1024", None),
        seeded(scattered(sparse, 0.9), (1024,), "4096 x 1024, 90 % zeros", "4096 x 1024"),
    ]


CASES: Sequence[tuple[Callable[[], list[Subject]], Sequence[str], Sequence[int]]] = (
    (resnet18, ("torch", "onnx"), (1, 8)),
    (linear, ("torch", "csr", "onnx"), (1, 8, 64)),
)
"""Each gives a dense network and what came of it; on which backends these are timed, and by which batches."""


def networks(made: Sequence[Subject], backends: Sequence[str], batches: Sequence[int], effort: Effort) -> list[Row]:
    """A row for each network, backend and batch."""
    names = [name for name in backends if BACKENDS[name].missing() is None]
    rows: list[Row] = []
    macs = {one.name: one.facts.cost.macs for one in made}
    dense = {one.name: one.dense or one.name for one in made}
    for one in speeds(made, names, batches, ["cpu"], 1, effort):
        if one.latency is None or one.ratio is None:
            print(f"{one.name}, {one.title}: {'; '.join(one.why)}")
            continue
        rows.append(
            {
                "network": one.name,
                "backend": one.title,
                "batch": one.place.batch,
                "ms": 1000 * one.latency.middle,
                "samples_s": one.throughput,
                "fewer_macs": macs[dense[one.name]] / macs[one.name],
                "speed_up": one.ratio.middle,
                "interval": (one.ratio.low, one.ratio.high),
                "of_macs": one.of_macs,
                "verdict": one.verdict,
            }
        )
    return rows


def main() -> None:
    """Measure, and report."""
    asked = options(__doc__.splitlines()[0])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    effort = Effort(repeats=7) if asked.quick else Effort(10)
    table = [row for make, backends, batches in CASES for row in networks(make(), backends, batches, effort)]
    report("Networks (one thread)", table, asked)


if __name__ == "__main__":
    main()

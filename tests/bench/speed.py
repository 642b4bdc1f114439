"""How much faster finished networks are: shrunk ones against their MACs, scattered zeros, sparse rows against dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models
from transformers import BertConfig, BertForSequenceClassification

from dualprune.stages.coupling.cut import Cut, cut, macs
from dualprune.stages.export.backends import BACKENDS
from dualprune.stages.export.inputs import noise
from dualprune.stages.export.reasons import lanes
from dualprune.stages.export.speed import Subject, speeds
from dualprune.stages.export.subjects import seeded
from dualprune.stages.export.timing import Effort, interleaved, quartiles, times_as_fast
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.networks.structure import Structure, load
from dualprune.stages.settings.sets import Head, Structured
from dualprune.stages.solver import coupled
from tests.bench.common import Row, options, report

PICTURES = (3, 224, 224)
TOKENS = 128
FIFTH = 0.2
NAMES = ("resnet18", "resnet50", "mobilenet_v2")


def scattered(network: nn.Module, share: float) -> nn.Module:
    """A network with this share of its weights at zero, anywhere."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter[torch.rand_like(parameter) < share] = 0
    return network


def halved(network: nn.Module) -> nn.Module:
    """A network cut to half its MACs: the same share of all channels that can go, in widths that vectors take."""
    found = cut(network, [torch.zeros(2, *PICTURES)], {})
    wanted = Structured(set="filter", tensors="*", coupled=True, macs=0.5, multiple=lanes(torch.device("cpu")))
    return left(network, found, coupled.shares(wanted, found, parameters(network)))


def left(network: nn.Module, found: Cut, shares: Sequence[coupled.Share]) -> nn.Module:
    """What is left of a network when the weakest units of its spaces have gone."""
    units = coupled.stays(shares, lambda name: network.get_parameter(name))
    structure = Structure(edits=list(found.edits(units)))
    return load(network, structure, structure.carry(network.state_dict())).eval()


def torchvision(name: str) -> list[Subject]:
    """As it is, with half the MACs, and with nine of ten weights at zero."""
    dense, half, zeros = (models.get_model(name, weights=None).eval() for _ in range(3))
    return [
        seeded(dense, noise(PICTURES), name, None),
        seeded(halved(half), noise(PICTURES), f"{name}, half", name),
        seeded(scattered(zeros, 0.9), noise(PICTURES), f"{name}, 90 % zeros", name),
    ]


def linear() -> list[Subject]:
    """A linear layer of 4096 outputs and 1024 inputs, as it is and with nine of ten weights at zero."""
    dense, sparse = (nn.Sequential(nn.Linear(1024, 4096)) for _ in range(2))
    return [
        seeded(dense, noise((1024,)), "4096 x 1024", None),
        seeded(scattered(sparse, 0.9), noise((1024,)), "4096 x 1024, 90 % zeros", "4096 x 1024"),
    ]


class Encoder(nn.Module):
    """MiniLM-L6 as a classifier of two classes: of token numbers [n, tokens], its logits [n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        self.classifier = BertForSequenceClassification(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of sentences without padding."""
        logits: Tensor = self.classifier(input_ids=tokens).logits
        return logits


def encoder() -> list[Subject]:
    """As it is, and with a fifth of its heads and of the rows of its first feed-forward layers."""
    dense, fifth, tokens = Encoder().eval(), Encoder().eval(), torch.randint(1000, 30_000, (1, TOKENS))
    found = cut(fifth, [tokens.expand(2, -1)], {})
    wanted = (
        Head(set="head", tensors="*attention.self*", coupled=True, keep=FIFTH),
        Structured(set="row", tensors="*intermediate*", coupled=True, keep=FIFTH, multiple=lanes(torch.device("cpu"))),
    )
    shares = [share for one in wanted for share in coupled.shares(one, found, parameters(fifth))]
    small = left(fifth, found, shares)
    return [seeded(dense, (tokens,), "MiniLM", None), seeded(small, (tokens,), "MiniLM, a fifth", "MiniLM")]


CASES: Sequence[tuple[Callable[[], list[Subject]], Sequence[str], Sequence[int]]] = (
    *((partial(torchvision, name), ("torch", "onnx"), (1, 8)) for name in NAMES),
    (encoder, ("torch", "onnx"), (1, 8)),
    (linear, ("torch", "csr", "onnx"), (1, 8, 64)),
)
"""Each gives a dense network and what came of it; on which backends these are timed, and by which batches."""


def networks(made: Sequence[Subject], backends: Sequence[str], batches: Sequence[int], effort: Effort) -> list[Row]:
    """A row for each network, backend and batch."""
    names = [name for name in backends if BACKENDS[name].missing() is None]
    rows: list[Row] = []
    computed = {one.name: one.facts.cost.macs for one in made}
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
                "fewer_macs": computed[dense[one.name]] / computed[one.name],
                "speed_up": one.ratio.middle,
                "interval": (one.ratio.low, one.ratio.high),
                "of_macs": one.of_macs,
                "verdict": one.verdict,
            }
        )
    return rows


def retraining(name: str, effort: Effort) -> Row:
    """A step of plain training, forward and backward, of a network and of its half."""
    dense, half = (models.get_model(name, weights=None) for _ in range(2))
    half = halved(half)
    x, labels = torch.randn(8, *PICTURES), torch.randint(1000, (8,))

    def step(network: nn.Module) -> None:
        network.zero_grad()
        nn.functional.cross_entropy(network(x), labels).backward()

    both = {"dense": dense.train(), "half": half.train()}
    times = interleaved({of: partial(step, network) for of, network in both.items()}, effort)
    fewer = macs(dense.eval(), [x], {}) / macs(half.eval(), [x], {})
    ratio = times_as_fast(times["dense"], times["half"])
    middle = quartiles(times["half"]).middle
    return {
        "network": f"{name}, half",
        "backend": "training",
        "batch": len(x),
        "ms": 1000 * middle,
        "samples_s": len(x) / middle,
        "fewer_macs": fewer,
        "speed_up": ratio.middle,
        "interval": (ratio.low, ratio.high),
        "of_macs": ratio.middle / fewer,
        "verdict": "",
    }


def main() -> None:
    """Measure, and report."""
    asked = options(__doc__.splitlines()[0])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    effort = Effort(repeats=7) if asked.quick else Effort(10)
    table = [row for make, backends, batches in CASES for row in networks(make(), backends, batches, effort)]
    table += [retraining(name, effort) for name in NAMES]
    report("Networks (one thread), and a step of training one and its half", table, asked)


if __name__ == "__main__":
    main()

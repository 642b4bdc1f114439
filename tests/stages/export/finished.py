"""Artefacts for tests of exports: networks of every kind, made at once and without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.export.source import Origin, Source, source
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.code import source_of
from dualprune.stages.networks.parameters import parameters, tied, weights
from dualprune.stages.settings.training import Model

KEY = "0123456789abcdef"
GPT2 = {
    "name": "transformers:GPT2LMHeadModel",
    "args": {"vocab_size": 2000, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "use_cache": False},
}
OWN = '''
import torch
from torch import nn


class Two(nn.Module):
    """Takes two inputs, one of whole numbers, and returns a mapping."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding(7, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, 3)
        self.register_buffer("seen", torch.tensor(5))

    def forward(self, x, kind):
        hidden = self.norm(x + self.table(kind))
        return {"hidden": hidden, "logits": self.last(torch.relu(hidden))}
'''


def pruned(network: nn.Module, rate: float, levels: int | None = None) -> None:
    """Leave the largest weights of each tensor; with `levels`, as whole numbers up to it times an interval."""
    for name in weights(parameters(network)):
        w = network.get_parameter(name).detach()
        w.mul_(w.abs() >= w.abs().flatten().topk(max(1, int(w.numel() / rate))).values[-1])
        if levels is not None:
            step = w.abs().max().double() / levels
            w.copy_(((w / step).round() * step).float())


def committed(
    store: Path,
    model: dict[str, Any],
    rate: float | None = 4,
    levels: int | None = None,
    name: str = "small",
    network: nn.Module | None = None,
    **spec: Any,
) -> Folder:
    """A store with the artefact KEY: a network with random weights, pruned."""
    torch.manual_seed(0)
    settings = Model(**model)
    settings = settings.model_copy(update={"source": source_of(settings)})
    network = network or build_model(settings)
    for buffer in (one for n, one in network.named_buffers() if n.endswith(("running_mean", "running_var"))):
        buffer.copy_(torch.rand(buffer.shape) + 0.5)
    if rate is not None:
        pruned(network, rate, levels)
    own = {n: t for n, t in network.state_dict().items() if n not in tied(network)}
    train = {} if "kind" in spec else {"kind": "train", "train": {"epochs": 1, "lr": 0.1}}
    whole = {"data": {"source": "digits"}, "batch": 8, **train, **spec}
    checked = parse({**whole, "model": settings.model_dump(mode="json")})
    left = sum(int(network.get_parameter(n).count_nonzero()) for n in weights(parameters(network)))
    manifest = {
        "name": name,
        "kind": checked.kind,
        "key": KEY,
        "spec": checked.model_dump(mode="json"),
        "data": "none",
        "parents": [{"name": "dense", "key": "f" * 16}],
        "fixed": {n: ["levels"] for n in weights(parameters(network))} if levels is not None else {},
        "metrics": {"rate": rate, "network_weights": 4 * left, "network_nonzeros": left, "val_accuracy": 91.5},
        "rows": [],
    }
    artefact.commit(Folder(str(store)) / KEY, manifest, own, {}, {})
    return Folder(str(store))


def given(store: Folder, tmp_path: Path, *sample: int, **fields: np.ndarray) -> Source:
    """The artefact, called with noise of a sample's shape, or with fields."""
    if sample:
        return source(store, KEY, Origin(noise=sample))
    np.savez(tmp_path / "fields.npz", **fields)
    return source(store, KEY, Origin(sample=tmp_path / "fields.npz"))


def tokens(length: int = 12) -> np.ndarray:
    """Four sequences of tokens."""
    return np.random.default_rng(0).integers(0, 50, (4, length))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether tensors are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(torch.as_tensor(one[n]), other[n]) for n in other)

"""One-shot pruning, layer by layer: `kind: layerwise` against magnitude, Wanda and SparseGPT.

Layers: 20 linear layers, drawn at random, of MiniLM-L6 (a BERT of 6 layers), with what 1,024 sentences of SST-2 give
them. How far outputs are from what they were, |X W^T - X Z^T|^2 / |X W^T|^2, on these sentences and on 512 others, and
processor time of a layer, one thread; all methods have the same second moments X^T X. DUALPRUNE_DATA names the folder
of both; without it that is left out.

Language model: that of the recipe `stdlib_llama`, run before. DUALPRUNE_RUNS names its store; without it that is left
out. Perplexity on test, layers pruned one after the other with the same 128 windows of training for all. `dense inputs`
is ours with the inputs that the network gives before anything of it is pruned.

The baselines are written here, from the papers. Wanda (Sun et al. 2024): the largest |W_ij| |X_j| of each output stay.
SparseGPT (Frantar and Alistarh 2023, algorithm 1): columns in blocks of 128, masks by W^2 / [H^-1]^2, the error of each
column put on those after it. Damping is 1 % for both, as the paper has it. `--quick`: 5 layers, and 2:4 alone. With
`--json PATH` the layers' rows are in a file `...-layers.json` beside that.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.constraints import Constraint
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.nm import NM
from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.tokens import Tokenizer
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.pretrained import bring, load
from dualprune.stages.objectives.base import Objective
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.training import Model
from dualprune.stages.solver import layerwise
from dualprune.stages.solver.calibration import Calibration, watched
from dualprune.stages.training.evaluate import evaluate
from tests.bench.common import Row, options, report

BLOCK = 128
"""Columns that SparseGPT has masks of at a time."""
SENTENCES = (1024, 512)
"""To prune by, and to measure on."""
DENSE = "ours, dense inputs"
WINDOWS, TESTED = 128, 1000
"""Of training, to prune the language model by; and of test, to measure it on."""


@dataclass(frozen=True)
class Pattern:
    """How much stays: a share of each layer, or n of every m inputs."""

    name: str
    keep: float = 0.5
    n: int = 0
    m: int = 0

    def set(self, w: Tensor) -> Constraint:
        """As ours has it."""
        return NM(self.n, self.m) if self.m else Cardinality(int(w.numel() * self.keep))

    def mask(self, scores: Tensor, by_output: bool = False) -> Tensor:
        """1 at the largest scores: of all [outputs, inputs], of each output, or of each run of m inputs."""
        runs = scores.reshape(-1, self.m) if self.m else scores if by_output else scores.reshape(1, -1)
        kept = runs.topk(self.n if self.m else int(runs.shape[1] * self.keep), dim=1).indices
        return torch.zeros_like(runs).scatter_(1, kept, 1.0).view_as(scores)


PATTERNS = (Pattern("50 %"), Pattern("2:4", n=2, m=4), Pattern("70 %", keep=0.3))
Method = Callable[[Tensor, Tensor, Pattern], Tensor]
"""From weights [outputs, inputs] and second moments of inputs to pruned weights."""


def magnitude(w: Tensor, h: Tensor, pattern: Pattern) -> Tensor:
    """The largest weights stay."""
    return w * pattern.mask(w.abs())


def wanda(w: Tensor, h: Tensor, pattern: Pattern) -> Tensor:
    """Those stay that are largest times the norm of their input."""
    return w * pattern.mask(w.abs() * h.diagonal().sqrt(), by_output=True)


def sparsegpt(w: Tensor, h: Tensor, pattern: Pattern) -> Tensor:
    """Column after column, with the error of each compensated by those after it."""
    w, h = w.double().clone(), h.double().clone()
    dead = h.diagonal() == 0
    h[dead, dead] = 1.0
    w[:, dead] = 0.0
    h.diagonal().add_(0.01 * h.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    scale = inverse.diagonal()
    for begin in range(0, w.shape[1], BLOCK):
        end = min(begin + BLOCK, w.shape[1])
        mask = (
            torch.ones_like(w[:, begin:end]) if pattern.m else pattern.mask((w[:, begin:end] / scale[begin:end]) ** 2)
        )
        errors = torch.zeros_like(mask)
        for j in range(begin, end):
            run = slice(j, j + pattern.m)
            if pattern.m and j % pattern.m == 0:
                mask[:, j - begin : j - begin + pattern.m] = pattern.mask((w[:, run] / scale[run]) ** 2)
            left = w[:, j] * mask[:, j - begin]
            errors[:, j - begin] = (w[:, j] - left) / scale[j]
            w[:, j:end] -= errors[:, j - begin, None] * inverse[j, j:end]
            w[:, j] = left
        w[:, end:] -= errors @ inverse[begin:end, end:]
    return w.float()


def ours(w: Tensor, h: Tensor, pattern: Pattern) -> Tensor:
    """ADMM (ALPS)."""
    return layerwise.solve(w, h, pattern.set(w), torch.ones_like(w)).weights


METHODS: dict[str, Method] = {"magnitude": magnitude, "wanda": wanda, "sparsegpt": sparsegpt, "ours": ours}


def layers(root: Path, count: int, patterns: Sequence[Pattern]) -> Iterator[Row]:
    """A row for each pattern and method: errors over so many layers of MiniLM, and time."""
    network, tokens = _minilm(root)
    linear = {name: one for name, one in network.named_modules() if isinstance(one, nn.Linear) and ".layer." in name}
    names = random.Random(0).sample(sorted(linear), count)
    used = {name: linear[name] for name in names}
    seen, unseen = (_moments(network, used, some) for some in (tokens[: SENTENCES[0]], tokens[SENTENCES[0] :]))
    for pattern in patterns:
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METHODS}
        for name, layer in used.items():
            w = layer.weight.detach()
            for method, prune in METHODS.items():
                began = time.process_time()
                z = prune(w, seen[name], pattern)
                took = time.process_time() - began
                found[method].append((layerwise.error(w, z, seen[name]), layerwise.error(w, z, unseen[name]), took))
        for method, each in found.items():
            yield _compared(pattern, method, each, found["sparsegpt"])


def _compared(pattern: Pattern, method: str, each: Sequence[Any], base: Sequence[Any]) -> Row:
    ratios = [one[0] / other[0] for one, other in zip(each, base, strict=True)]
    return {
        "pattern": pattern.name,
        "method": method,
        "error": statistics.geometric_mean(one[0] for one in each),
        "to_sparsegpt": statistics.geometric_mean(ratios),
        "worst": max(ratios),
        "unseen_error": statistics.geometric_mean(one[1] for one in each),
        "unseen_to_sparsegpt": statistics.geometric_mean(
            one[1] / other[1] for one, other in zip(each, base, strict=True)
        ),
        "seconds": statistics.mean(one[2] for one in each),
        "seconds_most": max(one[2] for one in each),
    }


def _minilm(root: Path) -> tuple[nn.Module, list[Any]]:
    """The network, and sentences as numbers of tokens."""
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    place = str(root / "weights" / "minilm_l6")
    given = Model.model_validate({"name": "transformers:BertModel", "args": sizes, "weights": place})
    network = build_model(given)
    store = Folder("memory://oneshot")
    load(bring(given, store), store, network)
    lines = (root / "text" / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [line.partition("\t")[2] for line in random.Random(0).sample(lines, sum(SENTENCES))]
    return network.eval(), Tokenizer(str(root / "text" / "bert_vocab" / "vocab.txt"), 64)(texts)


@torch.no_grad()
def _moments(network: nn.Module, used: Mapping[str, nn.Module], tokens: Sequence[Any]) -> dict[str, Tensor]:
    """X^T X of each layer's inputs; what is padded is left out."""
    found: dict[str, Tensor] = {}
    for begin in range(0, len(tokens), 64):
        some = tokens[begin : begin + 64]
        numbers = torch.zeros(len(some), max(map(len, some)), dtype=torch.long)
        mask = torch.zeros(numbers.shape, dtype=torch.bool)
        for row, one in enumerate(some):
            numbers[row, : len(one)], mask[row, : len(one)] = torch.from_numpy(one.astype(np.int64)), True

        def look(name: str, given: Tensor, mask: Tensor = mask) -> None:
            x = given[mask]
            found[name] = found.get(name, 0) + (x.T @ x).double()

        with watched(used, look):
            network(input_ids=numbers, attention_mask=mask.long())
    return {name: one.float() for name, one in found.items()}


@dataclass(frozen=True)
class Language:
    """The language model, and what it is pruned by and measured on."""

    network: nn.Module
    objective: Objective
    train: Reader
    test: Reader

    def calibration(self) -> Calibration:
        """On the same samples as `kind: layerwise` takes by default."""
        return Calibration(self.network, self.objective, self.train, self.train.order(0)[:WINDOWS])

    def perplexity(self) -> float:
        """On test."""
        return evaluate(self.network, self.objective, self.test, size=64, samples=TESTED).values["perplexity"]


def language(store: Path) -> Language:
    """The stage `dense` of a run of `stdlib_llama`."""
    dense = [one.parent for one in store.glob("*/manifest.json") if json.loads(one.read_text())["name"] == "dense"]
    if len(dense) != 1:
        raise SystemExit(f"{store} holds {len(dense)} stages `dense`, and one is needed: dualprune run stdlib_llama")
    loaded = artefact.load(Folder(str(dense[0])))
    spec = parse(loaded.manifest["spec"])
    found, wanted = sorted(map(str, (store / "data").iterdir())), loaded.manifest["data"]
    shards = next(one for one in found if digest(read_manifest(one)) == wanted)
    splits = {
        split: open_split(shards, split, wanted, spec.data, spec.seed, torch.device("cpu"), 1)
        for split in ("train", "test")
    }
    return Language(artefact.network(loaded).eval(), objective(spec), **splits)


def perplexities(store: Path, patterns: Sequence[Pattern]) -> Iterator[Row]:
    """A row for each way to prune the language model; the first is without."""
    of = language(store)
    linear = {
        name: one for name, one in of.network.named_modules() if isinstance(one, nn.Linear) and ".layers." in name
    }
    dense = {name: one.weight.detach().clone() for name, one in linear.items()}
    whole = of.perplexity()
    yield {"method": "dense", **{pattern.name: whole for pattern in patterns}, "seconds": 0.0}
    groups = of.calibration().order(linear)
    given = {names[0]: of.calibration().moments(names[0], linear[names[0]]) for names in groups}
    for method, prune in [*METHODS.items(), (DENSE, ours)]:
        row: Row = {"method": method}
        took = []
        for pattern in patterns:
            for name, one in linear.items():
                one.weight.data.copy_(dense[name])
            began = time.process_time()
            for names in groups:
                h = given[names[0]]
                if method not in ("magnitude", DENSE):
                    h = of.calibration().moments(names[0], linear[names[0]])
                for name in names:
                    linear[name].weight.data.copy_(prune(dense[name], h, pattern))
            took.append(time.process_time() - began)
            row[pattern.name] = of.perplexity()
        yield row | {"seconds": statistics.mean(took)}


def main() -> None:
    """Measure what there is data for, and report it."""
    asked = options(__doc__.splitlines()[0])
    join(threads=1)
    patterns = PATTERNS[1:2] if asked.quick else PATTERNS
    root, runs = os.environ.get("DUALPRUNE_DATA"), os.environ.get("DUALPRUNE_RUNS")
    if runs:
        report("Language model: perplexity", list(perplexities(Path(runs), patterns)), asked)
    if root:
        aside = asked.json and asked.json.with_stem(f"{asked.json.stem}-layers")
        rows = list(layers(Path(root), 5 if asked.quick else 20, patterns))
        report("Layers: error", rows, replace(asked, json=aside))


if __name__ == "__main__":
    main()

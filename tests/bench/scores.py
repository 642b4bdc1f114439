"""Learned scores against ADMM and magnitude on the same units, in as many epochs: a small transformer on digits.

Heads and outputs of first feed-forward layers go. ADMM and magnitude at once leave a share of each layer's; scores get
the multiply-accumulates that these leave, all else alike, and find the shares. A shrink takes out what is zero: its
multiply-accumulates are those of the rows. Then tiles of 4 x 4 of each matrix, in a second stage. Means over seeds; of
scikit-learn's digits, `val` and `test`. `--quick`: one seed, two epochs.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.data.format import digest, read_manifest
from dualprune.stages.data.make.sources import resolved
from dualprune.stages.engine.ranks import join
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import StageJob
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.settings.data import Data
from dualprune.stages.training.stage import run_stage
from tests.bench.common import Row, options, report

DIGITS = {"source": "digits", "mean": [0.3], "std": [0.38]}
HEADS, FIRST = ["*.q.weight", "*.k.weight", "*.v.weight"], "*.first.weight"
RATE, SCORES_RATE = 0.002, 0.1
SHARES = (0.5, 0.25)
"""Of each layer's heads and outputs, and in the second stage of tiles."""
TILES = 0.4


class Layer(nn.Module):
    """One layer of an encoder, 32 wide, of eight heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 32)
        self.one, self.two = nn.LayerNorm(32), nn.LayerNorm(32)
        self.heads, self.width = 8, 4

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, 32] to the same."""
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        found = (q @ k.transpose(-2, -1) * self.width**-0.5).softmax(-1) @ v
        x = self.one(x + self.out(found.transpose(1, 2).reshape(n, t, self.heads * self.width)))
        y: Tensor = self.two(x + self.second(F.gelu(self.first(x))))
        return y


class Encoder(nn.Module):
    """Two layers; the rows of pictures of 8 x 8 are its tokens, one of two linear layers by their place."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(64, 8 * 32), nn.Linear(32, classes)
        self.layers = nn.Sequential(Layer(), Layer())

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        y: Tensor = self.head(self.layers(self.embed(x.flatten(1)).unflatten(1, (8, 32))).mean(1))
        return y


MODELS["bench_encoder"] = Encoder


class Stages:
    """Stages of one seed, in a store of their own."""

    def __init__(self, store: Path, shards: str, seed: int, epochs: int) -> None:
        self.store, self.shards, self.seed, self.epochs = store / str(seed), shards, seed, epochs
        Folder(str(self.store)).establish()

    def run(self, key: str, parent: str | None, spec: dict[str, Any]) -> dict[str, Any]:
        """A stage's manifest."""
        common = {"model": {"name": "bench_encoder"}, "data": DIGITS, "batch": 32, "seed": self.seed}
        learns = {"distill": {"weight": 0.5}} if parent is not None and spec["kind"] != "shrink" else {}
        of = {"name": parent, "key": parent} if parent else None
        job = StageJob.model_validate(
            {
                **{"name": key, "key": key, "store": str(self.store), "spec": common | learns | spec, "parent": of},
                **{"shards": self.shards, "data_digest": digest(read_manifest(self.shards)), "engine": {"threads": 1}},
                **({"teacher": {"name": "dense", "key": "dense"}} if learns else {}),
            }
        )
        found = run_stage(job, lambda _: None)
        assert found is not None
        return found

    def dense(self) -> dict[str, Any]:
        """What all begin from."""
        return self.run("dense", None, {"kind": "train", "train": self.training(2 * self.epochs)})

    def training(self, epochs: int) -> dict[str, Any]:
        """So many epochs."""
        return {"epochs": epochs, "lr": RATE}

    def prune(self, constraints: list[dict[str, Any]], admm: bool) -> dict[str, Any]:
        """ADMM, in half of the epochs, or magnitude at once."""
        solve = {"updates": self.epochs // 2, "interval": 10, "lr": RATE, "rho": 0.05, "rho_growth": 1.3}
        left = self.epochs - self.epochs // 2 if admm else self.epochs
        return {
            **{"kind": "prune", "constraints": constraints},
            **{"admm": solve if admm else None, "retrain": self.training(left)},
        }

    def scores(self, constraints: list[dict[str, Any]], macs: float) -> dict[str, Any]:
        """Scores, learned in half of the epochs."""
        train = self.training(self.epochs)
        return {
            **{"kind": "scores", "constraints": constraints, "macs": macs},
            **{"train": train, "scores_lr": SCORES_RATE},
        }


def measured(stages: Stages) -> dict[tuple[str, str], dict[str, float]]:
    """What came of each way, by what was pruned."""
    dense = stages.dense()["metrics"]
    found = {("-", "dense"): _figures(dense, dense)}
    for share in SHARES:
        units: list[dict[str, Any]] = [{"set": "head", "tensors": HEADS}, {"set": "filter", "tensors": FIRST}]
        held = [one | {"coupled": True, "keep": share} for one in units]
        macs = 1.0
        for way in ("magnitude", "ADMM", "scores"):
            spec = stages.scores(units, macs) if way == "scores" else stages.prune(held, way == "ADMM")
            key = f"{way}-{share:g}"
            stages.run(key, "dense", spec)
            small = stages.run(f"{key}-small", key, {"kind": "shrink", "multiple": 4})["metrics"]
            found[f"heads, filters at {share:g}", way] = _figures(small, dense)
            macs = small["macs"] / dense["macs"]
    for way in ("magnitude", "ADMM", "scores"):
        tiles: dict[str, Any] = {"set": "block", "tensors": ["layers.*"], "p": 4, "q": 4}
        spec = stages.prune([tiles | {"keep": TILES}], way == "ADMM")
        parent = f"{way}-{SHARES[0]:g}-small"
        if way == "scores":
            spec = stages.scores([tiles], macs=_with_tiles(stages, parent))
        tiled = stages.run(f"{way}-tiles", parent, spec)
        shown = _figures(tiled["metrics"], dense)
        shown["macs"] *= tiled["metrics"]["nonzeros"] / tiled["metrics"]["weights"]
        found[f"then tiles at {TILES:g}", way] = shown
    return found


def _with_tiles(stages: Stages, parent: str) -> float:
    """The share of a network's multiply-accumulates that is left with `TILES` of its tiles: all but the first and last
    layer and attention itself."""
    from dualprune.stages.artefacts import artefact

    loaded = artefact.load(Folder(str(stages.store)) / parent)
    tiled = sum(
        8 * value.numel() for name, value in loaded.network.items() if name.startswith("layers") and value.ndim > 1
    )
    return 1 - (1 - TILES) * tiled / float(loaded.manifest["metrics"]["macs"])


def _figures(metrics: dict[str, Any], dense: dict[str, Any]) -> dict[str, float]:
    return {
        "macs": metrics["macs"] / dense["macs"],
        "val": metrics["val_accuracy"],
        "test": metrics["test_accuracy"],
    }


def main() -> None:
    """Measure all seeds and report their means."""
    asked = options(__doc__.splitlines()[0])
    join(threads=1)
    with tempfile.TemporaryDirectory() as folder:
        shards = str(Path(folder) / "shards")
        resolved(Data.model_validate(DIGITS))[1](shards)
        seeds, epochs = ((0,), 2) if asked.quick else ((0, 1, 2), 10)
        every = [measured(Stages(Path(folder), shards, seed, epochs)) for seed in seeds]
    rows: list[Row] = []
    for (what, way), first in every[0].items():
        means = {name: statistics.mean(one[what, way][name] for one in every) for name in first}
        rows.append({"what": what, "way": way, **means})
    report("Scores, ADMM and magnitude", rows, asked)


if __name__ == "__main__":
    main()

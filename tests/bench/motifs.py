"""Do pruned networks still find the motif? Saliency on DNA of a CNN, an LSTM and both, dense and pruned to a tenth.

The networks are those of `tests.bench.tasks` (`tests/tasks/dna`), which are trained first, in this process, where
`bench-tasks` does not hold them. The known motifs are consensus sequences of JASPAR 2024, which no network was shown.

- inside: of the bound test sequences that hold the motif (`MATCH` of its letters), the share of |gradient x input| of
  the factor's score within it, the mean over factors; `times chance` divides by the share of places. `decoy`: the same
  of the motif's letters in another order, where these match best.
- optimal: the class-optimal input as a weight matrix, and how well its best window, on either strand, correlates with
  the motif; `chance` is what motifs of the same columns in another order reach (the 95th percentile), and `found` of
  how many of the factors it is more than that.

`--quick`: the CNN alone, trained on a fifth of the peaks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dualprune.pipeline.config.load import load
from dualprune.pipeline.plan.make import make
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.job import Parent, StageJob
from dualprune.stages.saliency.inputs import found
from dualprune.stages.saliency.maps import maps
from dualprune.stages.saliency.optimal import optimal
from dualprune.stages.saliency.subject import Subject, subject
from dualprune.stages.settings.training import StageSpec
from dualprune.stages.training.stage import run_stage
from tests.bench.common import Row, options, report
from tests.bench.tasks import PLACE, TASKS

Array = NDArray[Any]

MOTIFS = {
    "CTCFL": "SCAGGGGGCGS",
    "ELK1": "ACCGGAAGT",
    "GABPA": "CCGGAAGTG",
    "REST": "TTCAGCACCATGGACAGCKCC",
    "USF1": "CAYGTGACC",
}
"""MA1102.2, MA0028.3, MA0062.2, MA0138.2 and MA0093.2, without unclear letters at their ends; in the order of the
network's outputs."""
IUPAC = {"A": "A", "C": "C", "G": "G", "T": "T", "Y": "CT", "S": "CG", "K": "GT"}
MATCH = 0.85
"""Share of the letters from which on a sequence holds the motif: 8 of 9, 18 of 21."""
STEPS = 300
"""Of gradient ascent."""
SHUFFLES = 200
KINDS = ("cnn", "lstm", "both")
PRUNED = {"dense": "", "ADMM, 10x": "-admm-10x", "magnitude, 10x": "-magnitude-10x"}
"""How a network was pruned, and what its stage's name ends with."""
QUICK = ("data.args.peaks=600", "stages.cnn.train.epochs=6", "name=dna-quick")


@dataclass(frozen=True)
class Motif:
    """A motif as a weight matrix [w, 4]."""

    weights: Array

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def strands(self) -> tuple[Array, Array]:
        """As it is, and as it reads on the other strand: letters are A, C, G, T."""
        return self.weights, self.weights[::-1, ::-1]

    def best(self, bases: Array) -> tuple[int, float]:
        """Where numbers of bases [t] match best, and how well: 1 where all letters do."""
        places = [
            np.log(one)[np.arange(len(self))[:, None], windows(bases, len(self)).T].sum(0) for one in self.strands
        ]
        most, least = (np.log(way(self.weights, 1)).sum() for way in (np.max, np.min))
        scores = (np.maximum(*places) - least) / (most - least)
        return int(scores.argmax()), float(scores.max())

    def likeness(self, weights: Array) -> float:
        """Pearson's correlation with the window of a weight matrix [t, 4] that is most like it."""
        there = windows(weights, len(self)).transpose(0, 2, 1).reshape(-1, 4 * len(self))
        return float(max(_correlations(there, one.ravel()).max() for one in self.strands))

    def shuffled(self, random: np.random.Generator) -> Motif:
        """Its columns in another order."""
        return Motif(self.weights[random.permutation(len(self))])


def motif(consensus: str) -> Motif:
    """A motif by its consensus in IUPAC's letters."""
    rows = [[0.97 / len(IUPAC[one]) + 0.01 if base in IUPAC[one] else 0.01 for base in "ACGT"] for one in consensus]
    weights = np.array(rows)
    return Motif(weights / weights.sum(1, keepdims=True))


def windows(values: Array, width: int) -> Array:
    """All windows along the first axis, which becomes the last: [t - width + 1, ..., width]."""
    return np.lib.stride_tricks.sliding_window_view(values, width, axis=0)


def _correlations(rows: Array, one: Array) -> Array:
    rows, one = rows - rows.mean(1, keepdims=True), one - one.mean()
    sizes = np.sqrt((rows**2).sum(1) * (one**2).sum())
    found: Array = rows @ one / np.maximum(sizes, 1e-12)
    return found


def inside(one: Subject) -> tuple[float, float, float, int]:
    """Of all bound sequences with their motif: share of a map within it, the same by chance, of a decoy, and how many.

    Each is the mean over factors, so that those with many matches count no more than others.
    """
    known = [motif(consensus) for consensus in MOTIFS.values()]
    random = np.random.default_rng(0)
    decoys = [other.shuffled(random) for other in known]
    rows: dict[int, list[tuple[float, float, float]]] = {}
    for bases, label, product in _bound(one):
        share = np.abs(product) / max(np.abs(product).sum(), 1e-12)
        start, match = known[label].best(bases)
        if match >= MATCH:
            width = len(known[label])
            there, _ = decoys[label].best(bases)
            sums = (share[start : start + width].sum(), width / len(bases), share[there : there + width].sum())
            rows.setdefault(label, []).append(sums)
    means = np.array([np.mean(of, axis=0) for of in rows.values()]).mean(0)
    return float(means[0]), float(means[1]), float(means[2]), sum(map(len, rows.values()))


def _bound(one: Subject) -> Iterator[tuple[Array, int, Array]]:
    """Bases, factor and map of each test sequence that is bound."""
    for part in one.parts(range(len(one.split))):
        target = part.batch["target"].nan_to_num(0)
        rows = target.amax(1) > 0
        if not bool(rows.any()):
            continue
        batch = {name: value[rows] for name, value in part.batch.items()}
        labels = target[rows].argmax(1)
        of = found(one.network, one.objective, batch, several=True)
        made = maps(one.network, one.objective, batch, of, labels, several=True)
        yield from zip(batch["bases"].numpy(), labels.tolist(), made.product.numpy(), strict=True)


def likeness(one: Subject) -> tuple[float, float, int]:
    """How like their motifs the class-optimal inputs are, the same by chance, and of how many factors it is more."""
    part = next(one.parts(range(8)))
    of = found(one.network, one.objective, part.batch, several=True)
    random, rows = np.random.default_rng(0), []
    for label, consensus in enumerate(MOTIFS.values()):
        made = optimal(one.network, one.objective, part.batch, of, label, STEPS, several=True)
        weights, known = made.weights().numpy(), motif(consensus)
        others = [known.shuffled(random).likeness(weights) for _ in range(SHUFFLES)]
        rows.append((known.likeness(weights), float(np.quantile(others, 0.95))))
    means = np.mean(rows, axis=0)
    return float(means[0]), float(means[1]), sum(real > chance for real, chance in rows)


def row(kind: str, what: str, manifest: dict[str, Any], one: Subject) -> Row:
    """What is shown of a network."""
    share, chance, decoy, sequences = inside(one)
    like, by_chance, over = likeness(one)
    return {
        "network": {"both": "cnn-lstm"}.get(kind, kind),
        "pruned": what,
        "test_auc": manifest["metrics"]["test_auc"],
        "sequences": sequences,
        "inside": share,
        "times_chance": share / chance,
        "decoy_times_chance": decoy / chance,
        "optimal": like,
        "chance": by_chance,
        "found": over,
    }


def trained(root: Path, quick: bool) -> tuple[Folder, dict[str, dict[str, Any]]]:
    """The store, and the manifest of each stage by name. What is not done is trained, in this process."""
    sets = [f"store={PLACE.absolute() / 'runs'}", f"data.args.folder={root / 'dna'}", *(QUICK if quick else ())]
    store, planned = make(*load(str(TASKS / "dna/run.yaml"), sets))
    nodes = {one.node.name: one.node for one in planned}
    found = {}
    for name in (f"{kind}{end}" for kind in _kinds(quick) for end in PRUNED.values()):
        node = nodes[name]
        if store.artefact(node.key) is None:
            print(f"{name}: training", file=sys.stderr, flush=True)
            parents = [Parent(name=one, key=nodes[one].key) for one in node.parents]
            assert isinstance(node.spec, StageSpec)
            job = StageJob(
                name=name,
                key=node.key,
                store=store.url,
                spec=node.spec,
                parent=parents[0] if parents else None,
                shards=node.shards,
                data_digest=node.data_digest,
            )
            run_stage(job, log=lambda told: None)
        found[name] = store.artefact(node.key) or {}
    return store.folder, found


def _kinds(quick: bool) -> tuple[str, ...]:
    return KINDS[:1] if quick else KINDS


def main() -> None:
    """Train what is not trained, look into it, and report."""
    asked = options(__doc__.splitlines()[0])
    root = os.environ.get("DUALPRUNE_DATA")
    if not root:
        sys.exit("DUALPRUNE_DATA is not set: it names a folder with the data of these tasks")
    torch.set_num_threads(1)
    store, done = trained(Path(root), asked.quick)
    rows = []
    for kind in _kinds(asked.quick):
        for what, end in PRUNED.items():
            stage = done[f"{kind}{end}"]
            rows.append(row(kind, what, stage, subject(store, stage["key"], stage["name"], "test")))
    report("What networks look at in DNA, dense and pruned", rows, asked)


if __name__ == "__main__":
    main()

"""Which of five transcription factors bind where: DNA of 101 bases, of ENCODE as DeepBind has it."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bases = NDArray[np.int8]
FACTORS = ("CTCFL", "ELK1", "GABPA", "REST", "USF1")


def samples(folder: str, peaks: int, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Of each factor so many peaks and as many that are shuffled; val is to be cut out of train.

    A sample is `bases` [101], numbers 0 to 3, and `target` [5]: whether the factor binds; NaN for the other four.
    """
    train, test = list[dict[str, Any]](), list[dict[str, Any]]()
    random = np.random.default_rng(seed)
    for number, factor in enumerate(FACTORS):
        bound = [bases for bases, _ in _rows(folder, f"{factor}_*_AC.seq.gz")]
        chosen = [bound[n] for n in random.permutation(len(bound))[:peaks]]
        train += [_sample(bases, number, 1.0) for bases in chosen]
        train += [_sample(shuffled(bases, random), number, 0.0) for bases in chosen]
        test += [_sample(bases, number, label) for bases, label in _rows(folder, f"{factor}_*_B.seq.gz")]
    return {"train": train, "test": test}


def shuffled(bases: Bases, random: np.random.Generator) -> Bases:
    """The same bases in another order, with each pair of neighbours as often as before (Altschul and Erickson 1985).

    A sequence is a walk through a graph of bases; another walk over the same edges is drawn at random.
    """
    edges = [bases[1:][bases[:-1] == base] for base in range(4)]
    end = int(bases[-1])
    while True:  # until the last edges out of all bases lead to the last one
        edges = [random.permutation(out) for out in edges]
        last = {base: int(out[-1]) for base, out in enumerate(edges) if len(out) and base != end}
        if all(_leads(base, end, last) for base in last):
            break
    walk, places = [int(bases[0])], [0] * 4
    for _ in range(len(bases) - 1):
        base = walk[-1]
        walk.append(int(edges[base][places[base]]))
        places[base] += 1
    return np.array(walk, dtype=np.int8)


def _leads(base: int, end: int, last: dict[int, int]) -> bool:
    for _ in range(4):
        if base == end:
            return True
        base = last[base]
    return base == end


def _rows(folder: str, pattern: str) -> Sequence[tuple[Bases, float]]:
    (file,) = Path(folder).glob(pattern)
    with gzip.open(file, "rt") as text:
        rows = [(row["seq"], float(row["Bound"])) for row in csv.DictReader(text, delimiter="\t")]
    known = [(bases, label) for bases, label in rows if set(bases) <= set("ACGT")]
    return [(np.array(["ACGT".index(base) for base in bases], dtype=np.int8), label) for bases, label in known]


def _sample(bases: Bases, factor: int, label: float) -> dict[str, Any]:
    target = np.full(len(FACTORS), math.nan, dtype=np.float32)
    target[factor] = label
    return {"bases": bases, "target": target}

"""Motifs in DNA: where they are, and how like them a weight matrix is."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.motifs import MOTIFS, motif


def numbers(sequence: str) -> np.ndarray:
    """Bases as numbers."""
    return np.array(["ACGT".index(base) for base in sequence])


def test_where_a_motif_is() -> None:
    known = motif("CAYGTGACC")
    for sequence, start, match in (
        ("T" * 7 + "CATGTGACC" + "T" * 9, 7, 1),
        ("T" * 4 + "GGTCACGTG" + "T" * 9, 4, 1),  # on the other strand
        ("T" * 7 + "CACGTGAAC" + "T" * 9, 7, 8 / 9),
    ):
        assert known.best(numbers(sequence)) == pytest.approx((start, match), abs=0.01)


def test_likeness() -> None:
    """A weight matrix that holds a motif somewhere, on either strand, is like it, and not like its columns in another
    order."""
    random = np.random.default_rng(0)
    for consensus in MOTIFS.values():
        known = motif(consensus)
        weights = np.full((60, 4), 0.25)
        weights[20 : 20 + len(known)] = known.weights
        assert known.likeness(weights) == pytest.approx(1)
        assert known.likeness(weights[::-1, ::-1]) == pytest.approx(1)
        others = [known.shuffled(random).likeness(weights) for _ in range(50)]
        assert np.quantile(others, 0.95) < 0.9

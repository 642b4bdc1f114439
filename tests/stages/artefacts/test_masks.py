"""Masks of artefacts, read and compared without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dualprune.stages.artefacts import artefact, masks
from dualprune.stages.files.folder import Folder


def packed(folder: Path, **holds: torch.Tensor) -> dict[str, masks.Packed]:
    """Masks written as an artefact has them, and read."""
    artefact.commit(Folder(str(folder)), {"rows": []}, {}, holds, {})
    return masks.packed((folder / masks.FILE).read_bytes())


@pytest.mark.parametrize("size", [1, 7, 8, 9, 63])
def test_what_is_packed_is_unpacked(size: int, tmp_path: Path) -> None:
    mask = (torch.rand(size, generator=torch.Generator().manual_seed(size)) < 0.5).float().view(1, size)
    found = packed(tmp_path, a=mask)["a"]
    assert found.shape == (1, size)
    assert found.unpacked().tolist() == mask.tolist()


def test_what_two_stages_keep(tmp_path: Path) -> None:
    one = packed(tmp_path / "one", a=torch.tensor([1.0, 1, 0, 0, 1]), b=torch.ones(3), c=torch.ones(2))
    other = packed(tmp_path / "other", a=torch.tensor([1.0, 0, 0, 1, 1]), b=torch.ones(2), d=torch.ones(2))
    assert masks.both(one, other) == (3, 2), "b has another shape, c and d are of one stage alone"
    assert masks.both(one, one) == (8, 8)
    assert masks.both(one, {}) == (0, 0)

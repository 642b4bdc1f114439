"""Layers for sparse tensor cores: which these are, and that torch's own sparse form holds them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from dualprune.stages.constraints import SETS
from dualprune.stages.export.halves import halved, is_two_four, two_four
from dualprune.stages.settings.sets import NM


def pruned(rows: int, columns: int, n: int = 2, m: int = 4) -> torch.Tensor:
    """A random weight with n of every m inputs left."""
    settings = NM(set="nm", tensors="*", n=n, m=m)
    return SETS["nm"].make(settings, (rows, columns)).project(torch.randn(rows, columns))


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (96, 320)])
def test_torchs_sparse_form_gives_a_projected_weight_back(rows: int, columns: int) -> None:
    weight = pruned(rows, columns).half()
    assert is_two_four(weight)
    values, places = sparse_semi_structured_from_dense_cutlass(weight)
    assert values.shape == (rows, columns // 2)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(values, places), weight)


@pytest.mark.parametrize(
    "weight",
    [torch.randn(32, 64), pruned(16, 64), pruned(32, 32), pruned(32, 64, 4, 8), pruned(32, 64)[:, :, None]],
    ids=["dense", "too few rows", "too few columns", "4:8", "a convolution"],
)
def test_what_kernels_do_not_take(weight: torch.Tensor) -> None:
    assert not is_two_four(weight)


def test_layers_by_name() -> None:
    network = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 32)), nn.Conv2d(64, 32, 1))
    for at in (network[1][0], network[2]):
        at.weight.data = pruned(32, 64).view_as(at.weight)
    assert two_four(network) == ("1.0",)


def test_whole_numbers_stay_as_they_are() -> None:
    tokens, pictures = halved((torch.arange(3), torch.zeros(3)))
    assert (tokens.dtype, pictures.dtype) == (torch.int64, torch.float16)

"""Pictures of a batch mixed with each other, by torchvision's transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from dualprune.stages.settings.training import Mix


def mixed(pictures: Tensor, labels: Tensor, settings: Mix) -> tuple[Tensor, Tensor, float]:
    """Each picture with some of the one before it in the batch: [n, c, h, w], the others' labels [n], the own share.

    `mixup` adds them (Zhang et al. 2018), `cutmix` pastes a box (Yun et al. 2019); with both, one of them at random.
    Randomness is of torch's own generator. Another number of ranks or micro-batches makes other pairs.
    """
    from torchvision.transforms import v2  # takes a second, and most runs mix nothing

    ways = [way(alpha=alpha) for way, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix)) if alpha]
    way = ways[int(torch.randint(len(ways), ()))]
    # What becomes of the rows of an identity says how much of which picture is in each.
    pictures, shares = way(pictures, torch.eye(len(pictures)))
    return pictures, labels.roll(1), float(shares[0, 0])

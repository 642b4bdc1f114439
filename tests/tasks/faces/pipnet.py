"""PIPNet: each landmark's cell of a coarse grid, and the places of it and of its neighbours within the cell
(Jin, Liao and Shao, "Pixel-in-Pixel Net", IJCV 2021). The network, its loss and its metric.

For each of p points the head gives, at every cell of a grid of s x s: a score, the offset of the point from the cell's
corner, and those of the k points next to it. A point's cell is that of the highest score; the point is the mean of
what that cell says of it, and of what the cells of the points that have it as a neighbour say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.objectives.base import Batch, Metric, Objective

POINTS = 68
EYES = (36, 45)
"""Outer corners, by whose distance errors are divided."""
MIRRORED = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *range(54, 47, -1),
    *range(59, 54, -1),
    *range(64, 59, -1),
    *range(67, 64, -1),
]
"""Which point each one is in a mirrored picture."""


class Maps(nn.Module):
    """Grey pictures [n, 1, h, w] to maps [n, points, 3 + 2 neighbours, h / s, w / s]: score, x, y, neighbours' x, y.

    Each of `widths` is a stage that halves the sides; s is 8 of three.
    """

    def __init__(self, widths: list[int], neighbours: int, points: int = POINTS) -> None:
        super().__init__()
        sizes = zip([1, *widths[:-1]], widths, strict=True)
        self.body = nn.Sequential(*(_stage(*one) for one in sizes))
        self.points = points
        self.head = nn.Conv2d(widths[-1], points * (3 + 2 * neighbours), 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        maps = self.head(self.body(x))
        return maps.unflatten(1, (self.points, -1))


def _stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        Block(outputs),
    )


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] to the same shape."""
        return F.relu(self.norm_two(self.two(F.relu(self.norm_one(self.one(x))))) + x)


@dataclass(frozen=True)
class Pip:
    """The loss, and how maps are read."""

    near: Tensor
    """The neighbours of each point: [points, k]."""
    score: float
    """Weight of the scores' loss; that of the offsets has 1."""

    def loss(self, maps: Tensor, batch: Batch) -> Tensor:
        """Squared difference of scores from 1 in a point's cell and 0 elsewhere; absolute one of offsets there."""
        side, target = maps.shape[-1], batch["target"]
        cells, at = _cells(target, side)
        wanted = F.one_hot(cells, side * side).to(maps.dtype)
        scores = (maps[:, :, 0].flatten(2) - wanted).square().sum((1, 2)) / POINTS
        said = _at(maps, cells)[:, :, 1:]
        own = (said[:, :, :2] - (target * side - at)).abs().mean((1, 2))
        others = target[:, self.near] * side - at[:, :, None]
        nearby = (said[:, :, 2:].unflatten(2, (-1, 2)) - others).abs().mean((1, 2, 3))
        return (self.score * scores + own + nearby).sum()

    def points(self, maps: Tensor) -> Tensor:
        """[n, points, 2], as shares of the picture."""
        side = maps.shape[-1]
        cells = maps[:, :, 0].flatten(2).argmax(2)
        at = torch.stack([cells % side, cells // side], 2)
        said = _at(maps, cells)[:, :, 1:].unflatten(2, (-1, 2)) + at[:, :, None]
        total, count = said[:, :, 0].clone(), torch.ones(POINTS, device=maps.device)
        near = self.near.to(maps.device).flatten()
        total.index_add_(1, near, said[:, :, 1:].flatten(1, 2))
        count.index_add_(0, near, torch.ones(len(near), device=maps.device))
        return total / count[:, None] / side

    def errors(self, maps: Tensor, batch: Batch) -> Tensor:
        """The sum over samples of the mean distance of their points, over that of the eyes."""
        target = batch["target"]
        apart = (self.points(maps) - target).norm(dim=2).mean(1)
        return (apart / (target[:, EYES[0]] - target[:, EYES[1]]).norm(dim=1)).double().sum()


def objective(neighbours: int, score: float = 10.0) -> Objective:
    """What `Maps` of as many neighbours are trained for."""
    pip = Pip(_nearest(neighbours), score)
    return Objective(
        call=lambda network, batch: network(batch["image"]).float(),
        loss=pip.loss,
        good=lambda batch: torch.tensor(len(batch["target"])),
        metrics={
            "nme": Metric(pip.errors, lambda total, count: total / count, higher=False, unit=""),
            "loss": Metric(pip.loss, lambda total, count: total / count, higher=False, unit=""),
        },
        best="nme",
        augment=augmented,
    )


def augmented(batch: Batch, turn: float = 0.35, size: float = 0.15, shift: float = 0.08) -> Batch:
    """Turned by up to `turn` (radians), larger or smaller, moved and mirrored at random, points and all."""
    image, target = batch["image"], batch["target"]
    low = image.new_tensor([-turn, -size, -shift, -shift, 0.0])
    drawn = low + torch.rand(len(image), 5, device=image.device) * image.new_tensor([turn, size, shift, shift, 1.0]) * 2
    angle, scale, moved, mirror = drawn[:, 0], 1 + drawn[:, 1], drawn[:, 2:4], drawn[:, 4] > 1
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    matrix[:, :, 0] = torch.where(mirror[:, None], -matrix[:, :, 0], matrix[:, :, 0])
    # A place p of the new picture, from -1 to 1, shows the place `matrix p + moved` of the old one.
    theta = torch.cat([matrix, 2 * moved[:, :, None]], 2)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    pixels = F.grid_sample(image, grid, padding_mode="border", align_corners=False)
    points = torch.linalg.solve(matrix, (2 * target - 1 - 2 * moved[:, None]).transpose(1, 2)).transpose(1, 2)
    points = torch.where(mirror[:, None, None], points[:, MIRRORED], points)
    return {**batch, "image": pixels, "target": (points + 1) / 2}


def _cells(target: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The number of each point's cell, [n, points], and the cell's column and row, [n, points, 2]."""
    at = (target * side).floor().clamp(0, side - 1)
    return (at[..., 1] * side + at[..., 0]).long(), at


def _at(maps: Tensor, cells: Tensor) -> Tensor:
    """What a point's cell says: [n, points, 3 + 2 neighbours]."""
    flat = maps.flatten(3)
    return flat.gather(3, cells[:, :, None, None].expand(*flat.shape[:3], 1))[..., 0]


def _nearest(count: int) -> Tensor:
    """The numbers of the points next to each one in a face: [points, count]."""
    face = torch.from_numpy(_face())
    return (torch.cdist(face, face) + torch.eye(len(face)) * 9).topk(count, largest=False).indices


def _face() -> np.ndarray:
    """The 68 points of a drawn face, in iBUG's order, x and y from about -1 to 1."""

    def arc(x: float, y: float, width: float, height: float, angles: np.ndarray) -> np.ndarray:
        return np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], 1)

    def turns(first: float, last: float, count: int) -> np.ndarray:
        return np.linspace(first, last, count) * math.pi

    def eye(x: float) -> np.ndarray:
        return arc(x, -0.3, 0.15, 0.07, np.array([1, 4 / 3, 5 / 3, 2, 7 / 3, 8 / 3]) * math.pi)

    bridge = np.stack([np.zeros(4), np.linspace(-0.3, 0.05, 4)], 1)
    parts = [
        arc(0, -0.2, 0.9, 1.1, turns(1, 0, 17)),  # the jaw
        arc(-0.42, -0.45, 0.28, 0.12, turns(1, 2, 5)),  # brows
        arc(0.42, -0.45, 0.28, 0.12, turns(1, 2, 5)),
        bridge,
        arc(0, 0.12, 0.16, 0.06, turns(1, 0, 5)),  # the nose
        eye(-0.4),
        eye(0.4),
        arc(0, 0.45, 0.35, 0.16, turns(1, 2, 7)),  # the mouth
        arc(0, 0.45, 0.35, 0.2, turns(1 / 6, 5 / 6, 5)),
        arc(0, 0.45, 0.27, 0.06, turns(1, 2, 5)),
        arc(0, 0.45, 0.27, 0.08, turns(1 / 4, 3 / 4, 3)),
    ]
    return np.concatenate(parts).astype(np.float32)

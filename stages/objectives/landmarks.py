"""Points in pictures, as coordinates or as heat maps: the normalised mean error (NME).

A batch has the network's `inputs` (by default the field `image`) and `target` [n, points, 2], x and y of each point;
one with a NaN is not known, and counts nowhere. The network gives coordinates, [n, points, 2] or [n, 2 points], or a
heat map a point, [n, points, h, w], whose highest place, moved a quarter towards its higher neighbours, is the point.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dualprune.stages.objectives.base import Batch, Metric, Objective, arguments
from dualprune.stages.objectives.fields import Args, called, field, mean, samples, spread
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from torch import Tensor


class Landmarks(Args):
    """Arguments of `landmarks`."""

    inputs: list[str] | dict[str, str] = Field(default=["image"], min_length=1)
    form: Literal["coordinates", "heatmaps"] = "coordinates"
    """What the network gives."""
    loss: Literal["mae", "mse"] = "mae"
    """Of coordinates: absolute or squared difference, the mean over a sample's points. Of heat maps it is the squared
    difference from a bell around each point, of height 1, summed over the map, the mean over points."""
    extent: float = Field(default=1.0, gt=0)
    """Of heat maps: the coordinate of a picture's right and lower edge. 1 where targets are shares, the side of the
    picture where they are pixels."""
    sigma: float = Field(default=1.5, gt=0)
    """Of heat maps: the bell's standard deviation, in places of the map."""
    normalise: list[int] | float | None = None
    """What errors are divided by: the distance of two points by their numbers ([36, 45]: outer corners of eyes, of 68
    points), a number, or, left out, the square root of the area of the box around a sample's points."""


def landmarks(spec: StageSpec) -> Objective:
    """The objective as a stage's settings have it. Raises SpecError."""
    args = arguments(Landmarks, spec.objective)
    by = args.normalise
    if isinstance(by, list) and (len(by) != 2 or by[0] == by[1] or min(by) < 0):
        raise SpecError(
            [(("objective", "args", "normalise"), f"two points are needed, not {by}; give their numbers, from 0")]
        )
    if isinstance(by, float) and by <= 0:
        raise SpecError([(("objective", "args", "normalise"), f"must be above 0, not {by}")])
    return Objective(
        call=partial(called, args=args),
        loss=partial(_loss, args=args),
        good=lambda batch: samples(_known(batch, args)),
        metrics={
            "nme": Metric(partial(_errors, args=args), _normalised, higher=False, unit=""),
            "loss": Metric(partial(_loss, args=args), mean, higher=False, unit=""),
        },
        best="nme",
        distil=partial(_distilled, args=args),
    )


def _known(batch: Batch, args: Landmarks) -> Tensor:
    """Which points are known: [n, points]."""
    return ~field(batch, args.target, "target").float().isnan().any(2)


def _target(batch: Batch, args: Landmarks) -> Tensor:
    """Points, 0 where they are not known: [n, points, 2]."""
    return field(batch, args.target, "target").float().masked_fill(~_known(batch, args)[..., None], 0)


def _loss(outputs: Tensor, batch: Batch, args: Landmarks) -> Tensor:
    target = _target(batch, args)
    if args.form == "heatmaps":
        return _mapped(outputs, _bells(target, outputs, args), batch, args)
    apart = outputs.reshape(target.shape) - target
    return spread((apart.square() if args.loss == "mse" else apart.abs()).mean(2), _known(batch, args))


def _mapped(outputs: Tensor, wanted: Tensor, batch: Batch, args: Landmarks) -> Tensor:
    """The squared difference of heat maps, summed over each."""
    return spread((outputs - wanted).square().sum((2, 3)), _known(batch, args))


def _bells(target: Tensor, maps: Tensor, args: Landmarks) -> Tensor:
    """Heat maps as they should be: [n, points, h, w]."""
    import torch

    height, width = maps.shape[2:]
    x, y = (target[..., n] * (side / args.extent) - 0.5 for n, side in ((0, width), (1, height)))
    across = (torch.arange(width, device=maps.device) - x[..., None]).square()
    down = (torch.arange(height, device=maps.device) - y[..., None]).square()
    return torch.exp(-(down[..., :, None] + across[..., None, :]) / (2 * args.sigma**2))


def _points(outputs: Tensor, target: Tensor, args: Landmarks) -> Tensor:
    """What the network gives as points: [n, points, 2]."""
    import torch

    if args.form == "coordinates":
        return outputs.reshape(target.shape)
    height, width = outputs.shape[2:]
    flat = outputs.flatten(2)
    top = flat.argmax(2)
    y, x = top.div(width, rounding_mode="floor"), top % width

    def leaning(place: Tensor, side: int, step: int) -> Tensor:
        """A quarter towards the higher of two neighbours, where there are two."""
        inside = (place > 0) & (place < side - 1)
        around = ((top + way).clamp(0, height * width - 1)[..., None] for way in (-step, step))
        before, behind = (flat.gather(2, near)[..., 0] for near in around)
        return 0.25 * torch.sign(behind - before) * inside

    found = [(x + leaning(x, width, 1) + 0.5) / width, (y + leaning(y, height, width) + 0.5) / height]
    return torch.stack(found, 2) * args.extent


def _errors(outputs: Tensor, batch: Batch, args: Landmarks) -> Tensor:
    """Sum over samples of the mean distance of known points, over what it is divided by; and how many samples: [2].

    A sample whose two points are not known, or lie in one place, is left out.
    """
    import torch

    target, known = _target(batch, args), _known(batch, args)
    apart = (_points(outputs, target, args) - target).norm(dim=2)
    size, sized = _size(target, known, args)
    mean = (apart * known).sum(1) / known.sum(1).clamp(min=1)
    sized = sized & known.any(1)
    return torch.stack([(mean / size.masked_fill(~sized, 1) * sized).double().sum(), sized.double().sum()])


def _size(target: Tensor, known: Tensor, args: Landmarks) -> tuple[Tensor, Tensor]:
    """What each sample's error is divided by, and whether there is such a thing: [n] each."""
    import torch

    if isinstance(args.normalise, list):
        one, other = args.normalise
        size = (target[:, one] - target[:, other]).norm(dim=1)
        return size, (size > 0) & known[:, one] & known[:, other]
    if args.normalise is not None:
        size = torch.full_like(target[:, 0, 0], args.normalise)
        return size, size > 0
    low, high = (target.masked_fill(~known[..., None], end) for end in (torch.inf, -torch.inf))
    size = (high.amax(1) - low.amin(1)).clamp(min=0).prod(1).sqrt()
    return size, size > 0


def _normalised(sums: Tensor, count: int) -> float:
    return float(sums[0] / sums[1])


def _distilled(given: Tensor, wanted: Tensor, batch: Batch, temperature: float, args: Landmarks) -> Tensor:
    """The squared difference from a teacher's coordinates or heat maps; there is no temperature."""
    if args.form == "heatmaps":
        return _mapped(given, wanted, batch, args)
    target = _target(batch, args)
    return spread((given - wanted).reshape(target.shape).square().mean(2), _known(batch, args))

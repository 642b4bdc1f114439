"""Settings of the data: which shards are read, and what is done to their pictures."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from dualprune.stages.files.folder import canonical
from dualprune.stages.settings.base import Local, Settings, Url


class RandAugment(Settings):
    """Operations on each training picture, drawn at random (Cubuk et al. 2020), as torchvision's RandAugment."""

    operations: int = Field(default=2, ge=1)
    """How many, one after the other."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """How strong each is."""


BUILT_IN = ("digits", "mnist", "cifar10")
"""Data sets that dualprune writes as shards itself."""


def _source(given: str) -> str:
    """A data set's name, or where a user's own is made."""
    if given not in BUILT_IN and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", given):
        names = f"{', '.join(map(repr, BUILT_IN[:-1]))} or {BUILT_IN[-1]!r}"
        raise ValueError(f"must be {names}, or a function of yours as package.module:function, not {given!r}")
    return given


class Cut(Settings):
    """Samples of train that become val and test, of a source that has none of its own."""

    val: float = Field(default=0.1, gt=0, lt=1)
    """Share of train."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share of train."""
    seed: int = Field(default=0, ge=0)
    """Of which ones."""


class Data(Settings):
    """Which shards are read, and what is done to their pictures."""

    source: Annotated[str, AfterValidator(_source)] | None = None
    """A data set that is written as shards once: `digits`, `mnist`, `cifar10`, or a function of yours, as
    `package.module:function`, that returns one."""
    args: dict[str, Any] = Field(default={})
    """What a function of yours is called with, by name."""
    cut: Cut = Cut()
    """Of a function of yours that returns no val or no test."""
    folder: Local | None = None
    """Where a source's original files lie; without it `mnist` and `cifar10` are downloaded through torchvision."""
    shards: Url | None = None
    """A folder or fsspec URL of shards that were written before, with their manifest.json."""
    mean: list[float] = Field(default=[0.0], min_length=1)
    """Per channel, or one for all, of pixels in [0, 1]; subtracted first."""
    std: list[Annotated[float, Field(gt=0)]] = Field(default=[1.0], min_length=1)
    """Per channel, or one for all; divided by second."""
    shift: int = Field(default=0, ge=0, le=8)
    """Training pictures are moved by up to this many pixels in each direction, at random. What comes in is black (0
    before normalisation): the random crop of a padded picture, as papers have it for CIFAR-10 with 4. Encoded ones are
    cut as for evaluation (`resize`, `crop`: their size, where all have one), without `scale` and `ratio`."""
    flip: bool = False
    """Half of the training pictures are mirrored, left to right, at random."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many of each split's samples are used, its first ones: to try something out."""
    crop: int = Field(default=224, ge=1)
    """Of encoded pictures of any size: the side of what the network sees."""
    resize: int = Field(default=256, ge=1)
    """Of encoded pictures: the length of the short side before the central crop, in evaluation."""
    scale: list[float] = Field(default=[0.08, 1.0])
    """Of encoded pictures: the least and the largest share of a picture's area in a training crop."""
    ratio: list[float] = Field(default=[3 / 4, 4 / 3])
    """Of encoded pictures: the least and the largest width : height of a training crop."""
    randaugment: RandAugment | None = None
    """Of encoded pictures: done to training crops."""
    decode: Literal["cpu", "device"] = "cpu"
    """Of encoded pictures: where training JPEGs are decoded, cut and resized. On the network's own device, with nvJPEG
    where that is a GPU, pixels are a little different. Evaluation has those of `cpu` in any case."""
    window: int = Field(default=0, ge=0)
    """Of encoded pictures: an epoch goes through the shards in random order, so many at a time, and mixes the
    samples of these; then a cache of twice as many shards is enough. 0 mixes all, which is best where files are
    local."""
    max_pixels: int = Field(default=1 << 26, ge=1)
    """Of encoded pictures: larger ones are bad samples. They are not decoded."""
    bad: float = Field(default=0.001, ge=0, lt=1)
    """Of encoded pictures: this share of a split's samples may turn out bad, and is left out. More than it, and more
    than one, end the stage with an error; 0 allows none."""
    workers: int = Field(default=0, ge=0)
    """Of encoded pictures: processes of each rank that decode ahead of the training; 0 decodes in between."""
    cache: int = Field(default=50 * 10**9, ge=0)
    """Of encoded pictures on a service: bytes of this machine's disk that copies of shards may take."""

    @property
    def origin(self) -> tuple[str | None, ...]:
        """Where the shards come from."""
        own = canonical([self.args, self.cut.model_dump()]).decode() if self.own else None
        return self.source, self.folder, self.shards, own

    @property
    def own(self) -> str | None:
        """The user's own module that the source is a function of, if it is one."""
        return None if self.source is None or self.source in BUILT_IN else self.source.partition(":")[0]

    def used(self, samples: int) -> int:
        """How many of a split's samples are used."""
        return samples if self.limit is None else min(samples, self.limit)

    @model_validator(mode="after")
    def _one_origin(self) -> Data:
        if (self.source is None) == (self.shards is None):
            raise ValueError("give either `source` (a data set to write as shards) or `shards` (a folder of them)")
        if self.folder is not None and self.source not in ("mnist", "cifar10"):
            raise ValueError("`folder` belongs to `source: mnist` and `source: cifar10`")
        for name in ("args", "cut"):
            if not self.own and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` belongs to a `source` of your own, as package.module:function")
        try:
            canonical(self.args)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`args` are numbers, text, lists and mappings: {error}") from None
        return self

    @model_validator(mode="after")
    def _possible(self) -> Data:
        if len(self.mean) != len(self.std):
            raise ValueError(f"`mean` has {len(self.mean)} values and `std` has {len(self.std)}: one per channel each")
        if not all(0 <= mean <= 1 for mean in self.mean) or max(self.std) > 1:
            raise ValueError(_of_bytes(self.mean, self.std))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"`scale` is {self.scale}: two shares of an area, the least first, within (0, 1]")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"`ratio` is {self.ratio}: two positive numbers, the least first")
        if self.randaugment is not None and self.decode == "device":
            raise ValueError(
                "`randaugment` changes pictures on the CPU, where `decode: device` has none; leave one out"
            )
        if self.crop > self.resize:
            raise ValueError(f"`crop` ({self.crop}) is larger than `resize` ({self.resize}), from which it is cut")
        return self


def _of_bytes(mean: list[float], std: list[float]) -> str:
    """What is wrong with a mean and standard deviation that pixels in [0, 1] can't have, and what is probably meant."""
    text = f"pixels are numbers from 0 to 1 here, which can't have the `mean` {mean} and the `std` {std}"
    if min(mean) < 0 or max(*mean, *std) > 255:
        return text
    bare = max(mean) > 1 and set(std) == {1.0}  # bytes' means were subtracted, and nothing was divided by
    parts = {
        "mean": [value / 255 if value > 1 else value for value in mean],
        "std": [value / 255 if value > 1 or bare else value for value in std],
    }
    found = (f"{name}: [{', '.join(f'{value:.4g}' for value in values)}]" for name, values in parts.items())
    return f"{text}; if values above 1 are of bytes, 0 to 255, divide them by 255: {', '.join(found)}"


AROUND = {"source", "args", "cut", "folder", "shards", "workers", "cache", "bad"}
"""Settings of `Data` that don't change what a network sees, and so no key: what the data is, its digest says."""

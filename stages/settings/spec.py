"""Every setting of every kind of stage, as frozen, typed values. Nothing here imports torch.

A stage's specification is what can change its result, and so what its key is made of (a
stage is a function of its specification and its parents). What only says how the work is carried
out (worker count, ZeRO stage, checkpoint cadence) is in `Engine` and is no part of a key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from dualprune.stages.files import urls
from dualprune.stages.settings.base import Local, Settings, Url
from dualprune.stages.settings.objective import Aim, Named
from dualprune.stages.settings.sets import AnySet, Support


def _weights(given: str) -> str:
    """Where weights come from; torchvision's are named, not placed."""
    return given if given.partition(":")[0] == "torchvision" else urls.checked(given)


class Model(Settings):
    """Which network is built."""

    name: str
    """A name from `stages.networks.builtin.MODELS`."""
    classes: int = Field(default=10, ge=1)
    """Number of outputs."""
    weights: Annotated[str, AfterValidator(_weights)] | None = None
    """What a stage without a parent starts from: a state dict (.pth, .th, .safetensors) by path or URL, or
    `torchvision` for that library's default weights, `torchvision:NAME` for others of it."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the weights' file. A plan finds it out, so that another file is another stage; a given one is insisted on."""

    @property
    def file(self) -> str | None:
        """Path or URL of the weights, if they are not torchvision's."""
        return None if self.weights is None or self.weights.partition(":")[0] == "torchvision" else self.weights

    @property
    def network(self) -> tuple[str, int]:
        """What is built, whatever it starts from."""
        return self.name, self.classes

    @model_validator(mode="after")
    def _hashed(self) -> Model:
        if self.sha256 is not None and self.weights is None:
            raise ValueError("`sha256` is of `weights`, and there are none")
        return self


class RandAugment(Settings):
    """Operations on each training picture, drawn at random (Cubuk et al. 2020), as torchvision's RandAugment."""

    operations: int = Field(default=2, ge=1)
    """How many, one after the other."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """How strong each is."""


class Data(Settings):
    """Which shards are read, and what is done to their pictures."""

    source: Literal["digits", "mnist", "cifar10"] | None = None
    """A data set that dualprune writes as shards itself, once."""
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
    def origin(self) -> tuple[str | None, str | None, str | None]:
        """Where the shards come from."""
        return self.source, self.folder, self.shards

    def used(self, samples: int) -> int:
        """How many of a split's samples are used."""
        return samples if self.limit is None else min(samples, self.limit)

    @model_validator(mode="after")
    def _one_origin(self) -> Data:
        if (self.source is None) == (self.shards is None):
            raise ValueError("give either `source` (a data set to write as shards) or `shards` (a folder of them)")
        if self.folder is not None and self.source not in ("mnist", "cifar10"):
            raise ValueError("`folder` belongs to `source: mnist` and `source: cifar10`")
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


AROUND = {"source", "folder", "shards", "workers", "cache", "bad"}
"""Settings of `Data` that don't change what a network sees, and so no key: what the data is, its digest says."""


class Optimizer(Settings):
    """The inner optimizer; its state starts anew with each phase of a stage."""

    name: Literal["sgd", "adam", "adamw"] = "adam"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of `sgd`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Applied to tensors of two or more dimensions; biases and normalisation are left alone."""
    clip: float = Field(default=0.0, ge=0)
    """Largest norm of the loss's gradient (the ADMM penalty is not part of it, pruned weights are); 0 does not clip."""

    @model_validator(mode="after")
    def _of_sgd(self) -> Optimizer:
        if self.name != "sgd" and self.momentum != Optimizer.model_fields["momentum"].default:
            raise ValueError(f"`momentum` belongs to `name: sgd`, and this is {self.name}; leave one of them out")
        return self


class Rate(Settings):
    """A learning rate, and how it goes on."""

    lr: float = Field(gt=0)
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """`cosine` falls from `lr` to 0, step by step; `step` falls by `factor` each `every` epochs (torch's StepLR)."""
    every: float | None = Field(default=None, gt=0)
    """Of `step`: epochs, whole or not."""
    factor: float = Field(default=0.1, gt=0, le=1)
    """Of `step`."""

    @model_validator(mode="after")
    def _steps(self) -> Self:
        if (self.schedule == "step") != (self.every is not None):
            raise ValueError("`every` belongs to `schedule: step`, which needs it")
        if self.schedule != "step" and self.factor != Rate.model_fields["factor"].default:
            raise ValueError(f"`factor` belongs to `schedule: step`, and this is {self.schedule}; leave it out")
        return self


class Phase(Rate):
    """A phase of plain training."""

    epochs: int = Field(ge=0)


class Admm(Rate):
    """The ADMM phase (Zhang et al. 2018, section 4): `updates` times, train, then update Z and U."""

    updates: int = Field(ge=1)
    """How often at most: `epochs` of training, then an update of Z and U (K)."""
    epochs: int = Field(default=1, ge=1)
    """Epochs of training before each update (E)."""
    interval: int | None = Field(default=None, ge=1)
    """Z and U are updated within these epochs too, every so many optimizer steps; rho stays what it is there."""
    schedule: Literal["cosine", "constant", "step"] = "constant"
    lr_restart: bool = True
    """Whether the schedule starts anew with each update, or runs once over all of them."""
    rho: float = Field(gt=0)
    """Weight of the penalty rho/2 |W - Z + U|^2 before the first update."""
    rho_growth: float = Field(default=1.0, ge=1)
    """Factor on rho after each update; U is divided by it, so that the unscaled dual rho U stays."""
    rho_balance: bool = False
    """Instead of `rho_growth`: double rho while |W - Z| > 10 |Z - Z before|, halve it in the opposite case (after Boyd
    2011, 3.4.1)."""
    tolerance: float = Field(default=0.0, ge=0)
    """End ADMM early once |W - Z| and |Z - Z before| are both at most so many times |W|."""

    @model_validator(mode="after")
    def _one_rule(self) -> Admm:
        if self.rho_balance and self.rho_growth != 1.0:
            raise ValueError("`rho_balance` and `rho_growth` both set rho: use one of them")
        return self

    @model_validator(mode="after")
    def _one_fall(self) -> Admm:
        if not self.lr_restart and self.schedule == "constant":
            raise ValueError(
                "`lr_restart: false` is for rates that fall, and `schedule: constant` does not: change one"
            )
        return self


class Distill(Settings):
    """Learn from another stage's outputs too, the parent's if no teacher is named (Hinton et al. 2015)."""

    weight: float = Field(gt=0, le=1)
    """Share of the distillation loss; the labels have the rest."""
    temperature: float = Field(default=2.0, gt=0)


class Mix(Settings):
    """Training pictures mixed in pairs, and their labels with them; of two ways one is drawn for each micro-batch."""

    mixup: float = Field(default=0.0, ge=0)
    """Pictures are added; alpha of the Beta distribution that shares are drawn from (Zhang et al. 2018). 0: not."""
    cutmix: float = Field(default=0.0, ge=0)
    """A box of one is pasted into the other; alpha likewise, of the area's share (Yun et al. 2019). 0: not."""

    @model_validator(mode="after")
    def _some(self) -> Mix:
        if not self.mixup and not self.cutmix:
            raise ValueError("give `mixup` or `cutmix`, or both: an alpha above 0")
        return self


class StageSpec(Settings):
    """What every kind of stage has."""

    kind: str
    model: Model
    data: Data
    objective: Aim = Named(name="classify")
    """What it is trained for: a name, or `{name, args}`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of initial weights, sample order, augmentation and dropout."""
    batch: int = Field(default=64, ge=1)
    """Samples per optimizer step, over all ranks. An epoch's last incomplete batch is left out."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of forward and backward; weights, Z and U are kept in fp32 in any case."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of labels: this share of each is spread evenly over all classes in training (Szegedy et al. 2016, section 7)."""
    mix: Mix | None = None
    """Mixing of training pictures."""
    optimizer: Optimizer = Optimizer()


class TrainSpec(StageSpec):
    """Plain training, from scratch or from a parent; the parent's masks stay in force."""

    kind: Literal["train"]
    train: Phase


class PruneSpec(StageSpec):
    """ADMM training, one final projection, masked retraining (Ye et al. 2018, section 2)."""

    kind: Literal["prune"]
    constraints: list[Support] = Field(min_length=1)
    admm: Admm | None
    """`null` projects the weights as they are, at once, and retrains: magnitude pruning (Han et al. 2015)."""
    retrain: Phase
    regrow: bool = False
    """Whether weights that the parent pruned may come back. The paper says no (masked ADMM)."""
    duals: Literal["carry", "reset"] = "reset"
    """`carry` starts from the parent's U, rescaled so that rho U is kept; `reset` starts from U = 0."""
    distill: Distill | None = None

    @model_validator(mode="after")
    def _of_admm(self) -> PruneSpec:
        if self.admm is None and (self.regrow or self.duals == "carry"):
            said = "regrow: true" if self.regrow else "duals: carry"
            raise ValueError(f"`{said}` changes nothing without ADMM, and `admm` is null; leave one of them out")
        return self


class Snap(Settings):
    """Iterative quantise-and-retrain (Ye et al. 2018b, Alg. 2): the rest of the weights adapts to those snapped."""

    rounds: int = Field(ge=1)
    """Then what is still free is snapped too."""
    share: float = Field(default=0.3, gt=0, lt=1)
    """In each round: of the free weights nearest to each level this share, the closest first, is put on it and held."""
    epochs: int = Field(default=1, ge=1)
    """Of training after each round."""
    lr: float = Field(gt=0)


class QuantizeSpec(StageSpec):
    """Shared values for the non-zeros: ADMM, then `snap` for levels or `centroids` for clusters."""

    kind: Literal["quantize"]
    constraints: list[AnySet] = Field(min_length=1)
    admm: Admm
    snap: Snap | None = None
    """For levels; without it all weights are snapped at once."""
    centroids: Phase | None = None
    """For clusters: train the shared values, each weight held to its cluster; without it they are clusters' means."""
    retrain: Phase = Phase(epochs=0, lr=1e-3)
    """Last, of what is not quantised: biases, normalisation, weights that no constraint names. None by default."""
    distill: Distill | None = None


class Engine(Settings):
    """How a stage's work is carried out. Changing it changes no key and re-runs nothing."""

    zero: int | None = Field(default=None, ge=0, le=3)
    """DeepSpeed's ZeRO stage. Left out, it is 1, or 0 for a single worker, who shares with nobody, and whose steps are
    faster without."""
    offload: bool = False
    """Keep the optimizer's state, Z and U among it, in the host's memory and step there (DeepSpeed's
    `offload_optimizer` to the CPU): less GPU memory, slower steps. Not with `zero: 0`."""
    accumulate: int = Field(default=1, ge=1)
    """Micro-batches per optimizer step and rank: less memory, and the same step but for batch normalisation and `mix`,
    which see a micro-batch at a time."""
    evaluate: int | None = Field(default=None, ge=1)
    """Samples that each rank evaluates at a time; left out, as many as it trains on at a time."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Checkpoint also within epochs, every so many steps; each epoch ends with one in any case."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each rank; by default what the rank was given."""
    compile: bool = False
    """Have torch.compile make kernels of the network and of its teacher: the first steps of each stage take long, the
    others less. Needs a C++ compiler on the CPU, Triton on GPUs, and a `zero` below 3."""

    @model_validator(mode="after")
    def _sharded(self) -> Engine:
        if self.compile and self.zero == 3:
            raise ValueError("`compile` can't follow weights that ZeRO 3 gathers; leave it out, or lower `zero`")
        if self.offload and self.zero == 0:
            raise ValueError("`offload` moves what ZeRO shards: it needs `zero` 1, 2 or 3; leave one of the two out")
        return self

    def evaluated(self, batch: int, ranks: int) -> int:
        """Samples that each of so many ranks evaluates at a time, where a step has `batch` in all."""
        return self.evaluate or -(-batch // (ranks * self.accumulate))

    def stage(self, ranks: int) -> int:
        """The ZeRO stage of so many ranks."""
        if self.zero is None:
            return 1 if ranks > 1 or self.offload else 0
        return self.zero

"""Settings that kinds of stages share: network, optimizer, epochs and rates, ADMM, sharpness, mixing.

A stage's specification is what can change its result, and so what its key is made of (a stage is a function of its
specification and its parents). A kind's own, a subclass of `StageSpec`, are beside its hooks in `stages.kinds`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, ValidationError, model_validator
from typing_extensions import Self

from dualprune.stages.files import urls
from dualprune.stages.settings.base import Or, Settings, worded
from dualprune.stages.settings.data import Data
from dualprune.stages.settings.objective import Aim, Named

LIBRARIES = ("torchvision", "timm", "transformers")
"""Whose networks are named `LIBRARY:NAME`."""


def _weights(given: str) -> str:
    """Where weights come from; torchvision's are named, not placed."""
    return given if given.partition(":")[0] == "torchvision" else urls.checked(given)


def _patterns(given: Any) -> Any:
    several = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
    if not several or not all(isinstance(one, str) for one in several):
        raise ValueError(f"a pattern is needed, or a list of them, not {repr(given)[:80]}")
    return several


class Partly(Settings):
    """Weights of which not all are taken."""

    file: Annotated[str, AfterValidator(_weights)]
    """Where they come from."""
    skip: Annotated[tuple[str, ...], BeforeValidator(_patterns), Or(type="string")]
    """Shell patterns over the network's tensors: those stay as they were initialised, whatever the file has of them."""


def _given(given: Any) -> Any:
    """A file that is taken whole is said by its place alone."""
    if isinstance(given, dict) and set(given) == {"file"}:
        given = given["file"]
    if isinstance(given, dict):
        try:
            return Partly.model_validate(given)
        except ValidationError as error:
            found = error.errors(include_url=False)
            told = [f"{'.'.join(map(str, one['loc']))}: {worded(one)}" for one in found]
            raise ValueError("; ".join(told)) from None
    if isinstance(given, str):
        return _weights(given)
    if given is not None and not isinstance(given, Partly):
        raise ValueError(f"a path or URL is needed, or {{file: ..., skip: PATTERN}}, not {repr(given)[:80]}")
    return given


class Model(Settings):
    """Which network is built."""

    name: str
    """A built-in network (`stages.networks.builtin.MODELS`), `torchvision:NAME`, `timm:NAME`, `transformers:CLASS`, or
    `package.module:function` of a user's own, whose folder is that of the configuration or on PYTHONPATH."""
    args: dict[str, JsonValue] = Field(default={})
    """What the function is given by name; of transformers its configuration's settings, and `config`, a folder with a
    config.json that these are laid over."""
    classes: int = Field(default=10, ge=1)
    """Number of outputs; a network of a user's own has as many as its `args` say."""
    weights: Annotated[str | Partly | None, BeforeValidator(_given)] = None
    """What a stage without a parent starts from: a state dict (.pth, .th, .safetensors, the index of several, or the
    folder that they are in) by path or URL, or `torchvision` for that library's default weights, `torchvision:NAME` for
    others of it. `{file: ..., skip: "head.*"}` leaves tensors of the network as they were initialised."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the weights' file. A plan finds it out, so that another file is another stage; a given one is insisted on."""
    source: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """sha256 of the code of the network, if that is a user's own, or was changed. A plan finds it out."""

    @property
    def origin(self) -> str | None:
        """Where the weights come from."""
        return self.weights.file if isinstance(self.weights, Partly) else self.weights

    @property
    def skip(self) -> tuple[str, ...]:
        """Patterns of tensors that are not taken from there."""
        return self.weights.skip if isinstance(self.weights, Partly) else ()

    @property
    def file(self) -> str | None:
        """Path or URL of the weights, if they are not torchvision's."""
        return None if self.origin is None or self.origin.partition(":")[0] == "torchvision" else self.origin

    @property
    def network(self) -> tuple[str, int, str]:
        """What is built, whatever it starts from."""
        return self.name, self.classes, json.dumps(self.args, sort_keys=True)

    @property
    def own(self) -> str | None:
        """The user's own module that builds it, if one does."""
        module, _, _ = self.name.rpartition(":")
        return module if module and module not in LIBRARIES else None

    @property
    def folder(self) -> str | None:
        """Where the configuration of a network of transformers lies, if it is given by its place."""
        where = self.args.get("config")
        return where if self.name.startswith("transformers:") and isinstance(where, str) else None

    def __hash__(self) -> int:
        return hash((self.name, self.classes))  # args can't be hashed; equality tells the rest apart

    @model_validator(mode="after")
    def _hashed(self) -> Model:
        if self.sha256 is not None and self.weights is None:
            raise ValueError("`sha256` is of `weights`, and there are none")
        return self


class Optimizer(Settings):
    """The inner optimizer; its state starts anew with each phase of a stage."""

    name: Literal["sgd", "adam", "adamw"] = "adam"
    """Which one, as torch has it."""
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
    """The learning rate of the first step."""
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


class Epochs(Rate):
    """A phase of plain training."""

    epochs: int = Field(ge=0)
    """How many; 0 trains nothing."""


class Sam(Settings):
    """Sharpness-aware minimisation (Foret et al. 2021): of each step the gradient is that of a point nearby, where the
    loss is higher. Two passes forward and back a step, over the same batch."""

    radius: float = Field(ge=0)
    """How far away, as a norm over all parameters: r of W + r g / |g|, g the gradient of the whole batch, over all
    ranks. 0 trains as without it, at twice the cost."""
    adaptive: bool = False
    """Measure it by the weights' own sizes, W + r |W|^2 g / | |W| g | (ASAM, Kwon et al. 2021); radii are then 10 times
    as large, or more."""


class Training(Epochs):
    """A phase of plain training, with what makes it end in better places."""

    sam: Sam | None = None
    """Sharpness-aware steps."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Average the weights: after each step the average is so many parts of itself and the rest of the weights. It
    begins with the phase; it is what epochs are measured on, and what is left in the end. 0.99 spans some 100 steps."""


class Penalty(Settings):
    """The weight of ADMM's penalty, and how it goes on."""

    rho: float = Field(gt=0)
    """Weight of the penalty rho/2 |W - Z + U|^2 before the first update."""
    rho_growth: float = Field(default=1.0, ge=1)
    """Factor on rho after each update; U is divided by it, so that the unscaled dual rho U stays."""
    rho_balance: bool = False
    """Instead of `rho_growth`: double rho while |W - Z| > 10 |Z - Z before|, halve it in the opposite case (after Boyd
    2011, 3.4.1)."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.rho_balance and self.rho_growth != 1.0:
            raise ValueError("`rho_balance` and `rho_growth` both set rho: use one of them")
        return self


class Admm(Rate, Penalty):
    """The ADMM phase (Zhang et al. 2018, section 4): `updates` times, train, then update Z and U."""

    updates: int = Field(ge=1)
    """How often at most: `epochs` of training, then an update of Z and U (K)."""
    epochs: int = Field(default=1, ge=1)
    """Epochs of training before each update (E)."""
    interval: int | None = Field(default=None, ge=1)
    """Z and U are updated within these epochs too, every so many optimizer steps; rho stays what it is there."""
    schedule: Literal["cosine", "constant", "step"] = "constant"
    """As in training, but `constant` by default."""
    lr_restart: bool = True
    """Whether the schedule starts anew with each update, or runs once over all of them."""
    tolerance: float = Field(default=0.0, ge=0)
    """End ADMM early once |W - Z| and |Z - Z before| are both at most so many times |W|."""
    rho_schedule: Literal["cosine", "linear", "geometric"] | None = None
    """Let rho rise from near 0 to `rho` over all of ADMM, at each update of Z and U, in place of `rho_growth`: as half
    a cosine (SAFE, Lee et al. 2025), a line, or by the same factor each time, 1,000 in all. U is divided by what rho is
    multiplied by, as with `rho_growth`; it begins as 0."""
    rate_from: float | None = Field(default=None, ge=1)
    """Let the rates of constraints with `rate` or `keep` rise from this one to their own, so that one stage does what a
    ladder does: what is kept falls as a cubic of the steps that are left (Zhu and Gupta 2017)."""
    ramp: float = Field(default=0.75, gt=0, le=1)
    """Of `rate_from`: the share of ADMM's steps after which constraints hold as they are given."""
    sam: Sam | None = None
    """Sharpness-aware steps (SAFE)."""
    sg: bool = False
    """Add the loss's gradient at the projected weights to each step's, in one more pass (SAFE+SG)."""
    weigh: Literal["fisher", "snip", "activation"] | None = None
    """Keep the entries of largest |W + U| times what each is weighed by, in place of the largest (SAFE+, Lee et al.
    2025): `fisher` the root mean square of its gradients, `snip` the mean of their sizes (Lee et al. 2019),
    `activation` the root mean square of the input that it is multiplied by (Wanda, Sun et al. 2023), in linear layers
    and convolutions; each a running average over steps. The final projection keeps the largest |W| times that. Of
    groups, norms of such products count. For sets that keep entries; the first two take 4 bytes more for each weight of
    theirs."""

    @model_validator(mode="after")
    def _one_rise(self) -> Admm:
        if self.rho_schedule is not None and (self.rho_balance or self.rho_growth != 1.0):
            raise ValueError("`rho_schedule`, `rho_growth` and `rho_balance` all set rho: use one of them")
        if self.rate_from is None and self.ramp != Admm.model_fields["ramp"].default:
            raise ValueError("`ramp` belongs to `rate_from`, which is not given; leave it out")
        return self

    @model_validator(mode="after")
    def _one_fall(self) -> Admm:
        if not self.lr_restart and self.schedule == "constant":
            raise ValueError(
                "`lr_restart: false` is for rates that fall, and `schedule: constant` does not: change one"
            )
        return self


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
    """What the stage does."""
    model: Model
    """Which network is built, and what it starts from."""
    data: Data
    """What it is trained and measured on."""
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
    """The inner optimizer."""
    recalibrate: int | None = Field(default=None, ge=1)
    """Take batch normalisation's statistics anew from so many training samples, in whole batches, after the last of
    ADMM's projections and at the stage's end, before it is measured (SAFE takes 10,000)."""

    @property
    def own(self) -> list[str]:
        """The user's own modules that it names."""
        return [module for module in (self.model.own, self.objective.own, self.data.own) if module is not None]

"""Settings of what a stage learns from another network: its outputs, and what is within it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from dualprune.stages.settings.base import Or, Settings, Texts


class Compared(Settings):
    """Modules whose outputs are compared with those that a teacher's modules of the same names give."""

    weight: float = Field(default=1.0, gt=0)
    """Of the differences, beside 1 for that of the network's outputs."""
    modules: Texts = None
    """Shell pattern over paths of modules, `*` being also many levels of them; or a list of patterns, of which those
    that begin with `!` leave modules out."""
    layers: Texts = None
    """Types of modules, by the names of their classes (`BertLayer`), derived ones included."""

    @model_validator(mode="after")
    def _some(self) -> Compared:
        for name, given in (("modules", self.modules), ("layers", self.layers)):
            if given == []:
                raise ValueError(f"`{name}` is empty, which is not all of them; leave it out, or name some")
        return self

    @property
    def default(self) -> bool:
        """Whether it is left to us which modules these are."""
        return self.modules is None and self.layers is None


def _compared(given: Any) -> Any:
    """Where the weight alone is said."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        if not given > 0:
            raise ValueError(f"must be greater than 0, not {given}; leave it out for none")
        return Compared(weight=float(given))
    if not isinstance(given, dict | Compared | None):
        text = f"a number above 0 is needed, or {{weight, modules, layers}}, not {repr(given)[:80]}"
        raise ValueError(f"{text}; put no number in quotes" if isinstance(given, str) else text)
    return given


Weighed = Annotated[Compared | None, BeforeValidator(_compared), Or(type="number", exclusiveMinimum=0)]
"""A weight, or `{weight, modules, layers}`."""


COMPILED = "`hidden`, `attention` and `maps` look into networks, which `engine.compile` hides; leave them or that out"
"""What is said of a stage that would have both."""


class Distill(Settings):
    """Learn from another stage's outputs too, the parent's if no teacher is named (Hinton et al. 2015); and from what
    is within its network, as TinyBERT, DynaBERT and MLPruning do."""

    weight: float = Field(gt=0, le=1)
    """Share of the distillation loss; the labels have the rest."""
    temperature: float = Field(default=2.0, gt=0)
    """Outputs of both networks are divided by it first: higher ones tell more of the unlikely classes."""
    hidden: Weighed = None
    """The weight of hidden states' mean squared difference, which is summed over layers and added to the outputs': of
    what a transformer's first layer is given, and of what each layer gives. Or `{weight, modules, layers}`: the outputs
    of modules by name, of any network."""
    attention: Weighed = None
    """The same of what attention modules give, which is as wide for any number of heads."""
    maps: float | None = Field(default=None, gt=0)
    """The weight of the mean squared difference of attention's probabilities, head by head, summed over all calls of
    torch's `scaled_dot_product_attention`. Networks with fewer heads have others: they use `attention`."""

    @property
    def inside(self) -> bool:
        """Whether anything but outputs is compared."""
        return self.hidden is not None or self.attention is not None or self.maps is not None

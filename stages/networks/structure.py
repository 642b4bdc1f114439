"""What was changed about a network's shape after it was built: edits, which make the same network of a new one.

A network is remade as `load(build_model(model), structure, weights)`. An edit is data with a line in `EDITS`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn

from dualprune.stages.networks.parameters import tied
from dualprune.stages.settings.base import Settings


class Edit(Settings):
    """One change of one module; what else it needs to know, each kind of edit adds."""

    edit: str
    """Its kind: a name from `EDITS`."""
    module: str
    """The module's path within the network."""


E = TypeVar("E", bound=Edit)


@dataclass(frozen=True)
class EditKind(Generic[E]):
    """A kind of edit."""

    settings: type[E]
    apply: Callable[[E, nn.Module], None]
    """Changes a network in place, on the device `meta` too. Raises ValueError for one that it does not fit."""


EDITS: dict[str, EditKind[Any]] = {}
"""The table of edits. No kind of stage changes a network's shape yet."""


def _parsed(edit: Any) -> Any:
    if isinstance(edit, Edit):
        return edit
    name = edit.get("edit") if isinstance(edit, dict) else None
    if name not in EDITS:
        raise ValueError(f"there is no edit {name!r}; known are {', '.join(EDITS) or 'none'}")
    return EDITS[name].settings.model_validate(edit)


class Structure(Settings):
    """Changes of a network's shape, as JSON a manifest's `structure`. No kind of stage makes any today, so there is
    none in what runs write; what is there is read and kept by the stages after it."""

    edits: list[Annotated[SerializeAsAny[Edit], BeforeValidator(_parsed)]] = Field(default=[])
    """In the order in which they are made."""

    def apply(self, network: nn.Module) -> nn.Module:
        """The network, changed in place. Raises ValueError for one that an edit does not fit."""
        for edit in self.edits:
            EDITS[edit.edit].apply(edit, network)
        return network


def load(network: nn.Module, structure: Structure, weights: Mapping[str, Tensor]) -> nn.Module:
    """A network as it was built, changed in place to have this structure and these weights.

    Of tied tensors, which have several names, weights may have the first alone.
    """
    there = structure.apply(network).state_dict()
    ties = {name: weights[first] for name, first in tied(network).items() if name in there and first in weights}
    whole: Any = OrderedDict({**ties, **weights})
    whole._metadata = getattr(there, "_metadata", {})  # versions of its modules, which some go by (MNASNet)
    network.load_state_dict(whole)
    return network

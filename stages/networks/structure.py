"""What was changed about a network's shape after it was built: edits, which make the same network of a new one.

A network is remade as `load(build_model(model), structure, weights)`. An edit is data of a kind
in `stages.networks.edits.EDITS`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SerializeAsAny
from torch import Tensor, nn

from dualprune.stages.networks.edits import EDITS, Edit
from dualprune.stages.networks.parameters import tied
from dualprune.stages.settings.base import Settings


def _parsed(edit: Any) -> Any:
    if isinstance(edit, Edit):
        return edit
    name = edit.get("edit") if isinstance(edit, dict) else None
    if name not in EDITS:
        raise ValueError(f"there is no edit {name!r}; known are {', '.join(EDITS) or 'none'}")
    return EDITS[name].settings.model_validate(edit)


class Structure(Settings):
    """Changes of a network's shape, as JSON a manifest's `structure`: those of all stages before and of its own."""

    edits: list[Annotated[SerializeAsAny[Edit], BeforeValidator(_parsed)]] = Field(default=[])
    """In the order in which they are made."""

    def apply(self, network: nn.Module) -> nn.Module:
        """The network, changed in place. Raises ValueError for one that an edit does not fit."""
        for edit in self.edits:
            EDITS[edit.edit].apply(edit, network)
        return network

    def carry(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The unchanged network's parameters and buffers as they are after all edits."""
        found = dict(tensors)
        for edit in self.edits:
            found = EDITS[edit.edit].carry(edit, found)
        return found

    def beside(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same of masks and duals, which have their names and shapes."""
        found = dict(tensors)
        for edit in self.edits:
            kind = EDITS[edit.edit]
            found = (kind.beside or kind.carry)(edit, found)
        return found


def untied(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers, tied ones under the first of their names alone."""
    others = tied(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in others}


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

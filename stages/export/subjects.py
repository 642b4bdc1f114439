"""Networks to be timed, from their artefacts alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from dualprune.stages.export.errors import untraceable
from dualprune.stages.export.inputs import Inputs
from dualprune.stages.export.macs import cost
from dualprune.stages.export.reasons import facts
from dualprune.stages.export.source import Origin, source
from dualprune.stages.export.speed import Subject
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.build import build_model
from dualprune.stages.settings.training import Model

DENSE = 1.005
"""Rate up to which nothing was pruned: a trained network may have a zero here and there."""


def is_dense(manifest: Mapping[str, Any]) -> bool:
    """Whether an artefact's network is as it was built: nothing pruned, on shared values or of another shape."""
    metrics = manifest["metrics"]
    held = any(tensor.get("sets") for tensor in manifest.get("tensors", {}).values())
    rate = metrics.get("network_rate") or metrics.get("rate") or 1.0
    return not (held or manifest.get("fixed") or manifest.get("structure")) and rate < DENSE


def subject(store: Folder, key: str, name: str, origin: Origin, dense: str | None) -> Subject:
    """The network of the artefact `key` of a store; `dense` names what it is compared with.

    Raises as `stages.export.source.source` does.
    """
    found = source(store, key, origin)
    return _subject(name, found.call.network, found.call.inputs, found.manifest, dense)


def built(store: Folder, key: str, name: str, origin: Origin, dense: str | None = None) -> Subject:
    """The dense network that the settings of an artefact name, with random weights, which take as long as any.

    For one whose dense ancestor is not in the store any more. Raises as `subject` does.
    """
    found = source(store, key, origin)
    network = copy.deepcopy(found.call.network)
    network.network = build_model(Model(**found.manifest["spec"]["model"])).eval()
    return _subject(name, network, found.call.inputs, {}, dense)


def seeded(network: nn.Module, inputs: Inputs, name: str, dense: str | None) -> Subject:
    """A network that no artefact has, with what it is called with."""
    return _subject(name, network.eval(), inputs, {}, dense)


def _subject(name: str, network: nn.Module, inputs: Inputs, manifest: Mapping[str, Any], dense: str | None) -> Subject:
    try:
        found = cost(network, inputs)
    except Exception as error:
        sizes = " and ".join(" x ".join(map(str, one.shape[1:])) for one in inputs)
        raise untraceable(error, network, f"the network can't take samples of {sizes}") from error
    return Subject(name, network, inputs, facts(network, found, manifest), dense)

"""Networks to be timed, from their artefacts alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.data.format import DataError
from dualprune.stages.export.calls import Call
from dualprune.stages.export.inputs import Inputs, call_of, noise, shards_of
from dualprune.stages.export.macs import cost
from dualprune.stages.export.reasons import facts
from dualprune.stages.export.speed import Subject
from dualprune.stages.files.folder import Folder
from dualprune.stages.networks.build import build_model
from dualprune.stages.settings.training import Model

DENSE = 1.005
"""Rate up to which nothing was pruned: a trained network may have a zero here and there."""


class Unfit(ValueError):
    """Inputs that a network can't take, or that are not there."""


def is_dense(manifest: Mapping[str, Any]) -> bool:
    """Whether an artefact's network is as it was built: nothing pruned, on shared values or of another shape."""
    metrics = manifest["metrics"]
    held = any(tensor.get("sets") for tensor in manifest.get("tensors", {}).values())
    rate = metrics.get("network_rate") or metrics.get("rate") or 1.0
    return not (held or manifest.get("fixed") or manifest.get("structure")) and rate < DENSE


def subject(
    store: Folder, key: str, name: str, dense: str | None, data: str | None = None, shape: tuple[int, ...] | None = None
) -> Subject:
    """The network of the artefact `key` of a store; `dense` names what it is compared with.

    It is called with samples of its data, which is looked for unless `data` says where it is, or with noise of a
    `shape` without the axis of samples. Raises Unfit, FileNotFoundError, and stages.artefacts.manifest.Damaged;
    SpecError for a network whose code has changed, and stages.export.errors.NotExported.
    """
    loaded = artefact.load(store / key)
    return _subject(loaded, artefact.network(loaded), store, name, dense, data, shape)


def built(store: Folder, key: str, name: str, data: str | None = None, shape: tuple[int, ...] | None = None) -> Subject:
    """The dense network that the settings of an artefact name, with random weights, which take as long as any.

    For one whose dense ancestor is not in the store any more. Raises as `subject` does.
    """
    loaded = artefact.load(store / key)
    network = build_model(Model(**loaded.manifest["spec"]["model"])).eval()
    return _subject(loaded, network, store, name, None, data, shape)


def _subject(
    loaded: Artefact,
    network: nn.Module,
    store: Folder,
    name: str,
    dense: str | None,
    data: str | None,
    shape: tuple[int, ...] | None,
) -> Subject:
    called, inputs = _called(loaded, network, store, data, shape)
    try:
        found = cost(called, inputs)
    except Exception as error:
        sizes = " and ".join(" x ".join(map(str, one.shape[1:])) for one in inputs)
        reason = str(error).strip().partition("\n")[0]
        raise Unfit(f"its network can't take inputs of {sizes}: {type(error).__name__}: {reason}") from error
    manifest = loaded.manifest if dense is not None else {}
    return Subject(name, called, inputs, facts(called, found, manifest), dense)


def _called(
    loaded: Artefact, network: nn.Module, store: Folder, data: str | None, shape: tuple[int, ...] | None
) -> tuple[nn.Module, Inputs]:
    """A network that takes tensors in their order, and these."""
    if shape is not None:
        return network, noise(shape)  # run, and so found to fit, when its cost is measured
    try:
        call: Call = call_of(loaded, network, data or shards_of(loaded, store))
    except DataError as error:
        raise Unfit(f"{error}; say where it is (--data), or give noise instead (--noise)") from error
    return call.network, tuple(one.contiguous() for one in call.inputs)


def seeded(network: nn.Module, shape: tuple[int, ...], name: str, dense: str | None) -> Subject:
    """A network that no artefact has, which takes one tensor: for benchmarks."""
    with torch.no_grad():
        inputs = noise(shape)
        return Subject(name, network.eval(), inputs, facts(network, cost(network, inputs), {}), dense)

"""What is exported: a finished network, its tensors, and how it is called on real samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.artefacts.manifest import Damaged, read
from dualprune.stages.data.format import DataError
from dualprune.stages.export.calls import Call, recorded
from dualprune.stages.export.errors import NotExported, untraceable
from dualprune.stages.export.inputs import FEW, Inputs, call_of, noise, plain, shards_of
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.parameters import tied
from dualprune.stages.objectives.table import objective


@dataclass(frozen=True)
class Origin:
    """Where samples come from that the network is called with. With none of these, from the artefact's own data."""

    data: str | None = None
    """A folder or URL of shards."""
    sample: Path | None = None
    """An array of samples (.npy), or several by the names of the data's fields (.npz)."""
    noise: tuple[int, ...] | None = None
    """The shape of one sample."""


@dataclass(frozen=True)
class Source:
    """A finished network to be exported."""

    store: Folder
    key: str
    manifest: dict[str, Any]
    call: Call
    samples: str
    """What the samples of the call are, in words."""

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self.call.network.network

    @property
    def name(self) -> str:
        """Its stage's, as the name of a file."""
        return str(self.manifest.get("name", self.key)).replace("/", "-")

    @property
    def lineage(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Name, key and manifest of its stage and of those before it, nearer ones first; an empty one where the store
        does not have it any more."""
        found = {self.key: (self.name, self.key, self.manifest)}
        waiting: list[Mapping[str, Any]] = [self.manifest]
        while waiting:
            for parent in waiting.pop(0).get("parents", []):
                if parent["key"] not in found:
                    manifest = _manifest(self.store / parent["key"])
                    found[parent["key"]] = (parent["name"], parent["key"], manifest)
                    waiting.append(manifest)
        return list(found.values())

    @property
    def dense(self) -> int:
        """Bytes of the dense network's tensors, fp32 mostly: of the same network before it, at its largest.

        A teacher may be another.
        """
        own = self.manifest["spec"]["model"]["name"]
        before = [one for _, _, one in self.lineage if one and one["spec"].get("model", {}).get("name") == own]
        known = [one["metrics"].get("dense_bytes") or 0 for one in before]
        return max(known, default=0) or sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def same(self) -> dict[str, str]:
        """Names of tied tensors beside their first, and that one."""
        names = self.network.state_dict().keys()
        return {name: first for name, first in tied(self.network).items() if name in names}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, tied ones once."""
        same = self.same
        return {n: t.detach().cpu() for n, t in self.network.state_dict().items() if n not in same}


def source(store: Folder, key: str, origin: Origin) -> Source:
    """The artefact `key` of a store, ready to be exported.

    Raises NotExported for samples that are not there or that it can't take, FileNotFoundError and
    stages.artefacts.manifest.Damaged; SpecError for a network whose code has changed.
    """
    loaded = artefact.load(store / key)
    network = artefact.network(loaded)
    call, samples = _called(loaded, network, store, origin)
    return Source(store, key, loaded.manifest, _several(call), samples)


def _manifest(folder: Folder) -> dict[str, Any]:
    try:
        return read(folder) or {}
    except Damaged:
        return {}


def _called(loaded: Artefact, network: nn.Module, store: Folder, origin: Origin) -> tuple[Call, str]:
    if origin.noise is not None:
        return _plain(network, noise(origin.noise)), "normal noise"
    if origin.sample is not None:
        return _sampled(loaded, network, origin.sample), f"samples of {origin.sample.name}"
    try:
        call = call_of(loaded, network, origin.data or shards_of(loaded, store))
    except DataError as error:
        text = "say where it is (--data), give samples (--sample FILE.npy) or noise (--noise SHAPE)"
        raise NotExported(f"{error}; {text}") from error
    return call, "samples of its validation data"


def _sampled(loaded: Artefact, network: nn.Module, file: Path) -> Call:
    """A call with samples of a file. Raises NotExported."""
    try:
        found = np.load(file, allow_pickle=False)
        several = isinstance(found, np.lib.npyio.NpzFile)
        batch = {name: torch.from_numpy(found[name][:FEW]) for name in found} if several else {}
        array = None if several else torch.from_numpy(found[:FEW])
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise NotExported(f"{file} is no array of samples that NumPy and torch read: {error}") from None
    if array is not None:
        return _plain(network, (array,))
    try:
        return recorded(network, objective(parse(loaded.manifest["spec"])), batch)
    except NotExported:
        raise
    except Exception as error:
        raise untraceable(error, network, f"the network can't be called with {', '.join(batch)} of {file}") from error


def _plain(network: nn.Module, inputs: Inputs) -> Call:
    """A call of a network with one tensor."""
    try:
        whole = plain(network, inputs)
        with torch.no_grad():
            found = whole(*inputs)
    except Exception as error:
        shape = " x ".join(map(str, inputs[0].shape[1:]))
        raise untraceable(error, network, f"the network can't take samples of {shape}") from error
    count = len(found) if isinstance(found, tuple) else 1
    names = ("output",) if count == 1 else tuple(f"output_{number}" for number in range(count))
    return Call(whole, inputs, ("input",), names)


def _several(call: Call) -> Call:
    """The call with two samples at least: of one, tracing would take the number for a constant."""
    first = call.inputs[0]
    if first.ndim and len(first) == 1:
        double = tuple(torch.cat([one, one]) if one.ndim and len(one) == 1 else one for one in call.inputs)
        return Call(call.network, double, call.names, call.outputs)
    return call

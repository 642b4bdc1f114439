"""Trained weights from elsewhere: read, held against the network, and kept in the store under their hash.

A plan reads them, so that what does not fit is refused before a machine is taken. Ranks take them from the
store: they need not reach what the plan was made on, and a file that changes meanwhile changes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from torch import Tensor, nn

from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.networks.builtin import TORCHVISION
from dualprune.stages.settings.spec import Model
from dualprune.stages.solver.targets import build_model

CACHE = Path.home() / ".cache" / "dualprune" / "weights"
"""Where what came from a URL is kept."""
SHOWN = 4
"""Misfits that are told of each file."""


class WeightsError(ValueError):
    """Weights that can't be had, can't be read, or are of another network."""


def bring(settings: Model, store: Folder) -> Model:
    """Put the weights that the settings name into the store; the settings with their hash. Raises WeightsError.

    With a hash given that the store holds already, nothing is looked for elsewhere.
    """
    assert settings.weights is not None
    here = settings.sha256 is not None and store.exists(_place(settings.sha256))
    data = store.read(_place(settings.sha256 or "")) if here else _fetched(settings)
    digest = sha256(data)
    if settings.sha256 not in (None, digest):
        raise WeightsError(f"the sha256 of {settings.weights} is {digest}, and not {settings.sha256} as asked for")
    found = misfits(tensors(data, settings.weights), build_model(settings, device="meta"))
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        network = f"{settings.name} of {settings.classes} classes"
        raise WeightsError(f"{settings.weights} does not fit {network}: {'; '.join(found[:SHOWN])}{more}")
    if not store.exists(_place(digest)):
        store.write(_place(digest), data)
    return settings.model_copy(update={"sha256": digest})


def load(settings: Model, store: Folder, network: nn.Module) -> None:
    """Give a network the weights that `bring` has put into the store. Raises WeightsError."""
    assert settings.sha256 is not None
    try:
        data = store.read(_place(settings.sha256))
    except FileNotFoundError:
        data = b""
    if sha256(data) != settings.sha256:
        text = f"{store.url}/{_place(settings.sha256)} is not there, or not what was put there"
        raise WeightsError(f"{text}: delete it, and run again, which reads {settings.weights} anew")
    network.load_state_dict({**network.state_dict(), **tensors(data, settings.weights or "")})


def tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """A file's tensors by name: of safetensors, or of a state dict that torch saved.

    An enclosing `state_dict` or `model` is opened, and DataParallel's `module.` taken off. Nothing but tensors and
    plain values is ever unpickled. Raises WeightsError.
    """
    try:
        if data[8:9] == b"{":  # after its header's length
            found: Any = safetensors.torch.load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - a file that is anything at all can fail in any way
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{name} holds no weights that can be read safely ({reason}); save a state dict") from None
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{name} holds no state dict: tensors by name")
    return {str(key).removeprefix("module."): value for key, value in found.items() if isinstance(value, Tensor)}


def misfits(found: Mapping[str, Tensor], network: nn.Module) -> list[str]:
    """How a file's tensors differ from a network's in names and shapes, or are no numbers. Files from before PyTorch
    0.4.1 count no batches in their normalisation."""
    wanted = network.state_dict()
    texts = []
    for name, tensor in wanted.items():
        if name not in found:
            if not name.endswith(".num_batches_tracked"):
                texts.append(f"{name} is missing")
        elif found[name].shape != tensor.shape:
            texts.append(f"{name} has shape {tuple(found[name].shape)}, and {tuple(tensor.shape)} is needed")
        elif not bool(found[name].isfinite().all()):
            texts.append(f"{name} has values that are not finite")
    return texts + [f"{name} is none of its tensors" for name in found if name not in wanted]


def _place(digest: str) -> str:
    """Where a store keeps a file of weights."""
    return f"weights/{digest}"


def _fetched(settings: Model) -> bytes:
    """The bytes of the file that the settings name."""
    assert settings.weights is not None
    if settings.file is None:
        return _from_torchvision(settings)
    try:
        filesystem, path = fsspec.core.url_to_fs(settings.file)
        if isinstance(filesystem, LocalFileSystem):
            return Path(path).read_bytes()
        # Downloaded once; again where the service tells that it is another file.
        kept = {"cache_storage": str(CACHE), "check_files": True}
        with fsspec.open(f"filecache::{settings.file}", "rb", filecache=kept) as file:
            data: bytes = file.read()
        return data
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all mean the same here
        way = "; with the file at hand, give its path" if "://" in settings.file else ""
        raise WeightsError(f"{settings.weights} can't be read: {error!r}{way}") from None


def _from_torchvision(settings: Model) -> bytes:
    from torch.hub import download_url_to_file, get_dir
    from torchvision.models import get_model_weights

    if settings.name not in TORCHVISION:
        text = f"torchvision has no {settings.name} as it is here; it has weights for {', '.join(TORCHVISION)}"
        raise WeightsError(f"{text}; give `weights` a file's path")
    there = get_model_weights(settings.name).__members__
    which = (settings.weights or "").partition(":")[2] or "DEFAULT"
    if which not in there:
        raise WeightsError(f"torchvision has no weights {which} for {settings.name}; it has {', '.join(there)}")
    url = there[which].url
    file = Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            beginning = file.stem.rpartition("-")[2]  # of its sha256, which the download is held against
            download_url_to_file(url, str(file), hash_prefix=beginning, progress=False)
        data: bytes = file.read_bytes()
        return data
    except (RuntimeError, OSError) as error:
        text = f"torchvision's weights for {settings.name} can't be downloaded ({error})"
        raise WeightsError(f"{text}; give `weights` the path of their file, or put it at {file}") from None

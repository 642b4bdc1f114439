"""Trained weights from elsewhere: read, held against the network, and kept in the store under their hash.

A plan reads them, so that what does not fit is refused before a machine is taken. Ranks take them from the
store: they need not reach what the plan was made on, and a file that changes meanwhile changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem
from torch import nn

from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.files.home import NoHome, cache_folder
from dualprune.stages.networks.build import build_model, weights
from dualprune.stages.networks.builtin import TORCHVISION
from dualprune.stages.networks.statedict import Taken, taken, zeros
from dualprune.stages.networks.weightsfile import WeightsError, read, some
from dualprune.stages.settings.training import Model

__all__ = ["WeightsError", "bring", "load"]

SPARSE = 0.1
"""A tensor with this share of zeros was pruned."""


class Note(NamedTuple):
    """What a user may not expect of a file of weights."""

    text: str
    kind: str | None = None
    """Of the stages that it is for; None is all."""


def bring(settings: Model, store: Folder, tell: Callable[[Note], None] = lambda note: None) -> Model:
    """Put the weights that the settings name into the store; the settings with their hash. Raises WeightsError.

    With a hash given that the store holds already, nothing is looked for elsewhere. `tell` is given each note on them.
    """
    assert settings.weights is not None
    here = settings.sha256 is not None and store.exists(_place(settings.sha256))
    data = store.read(_place(settings.sha256 or "")) if here else _fetched(settings)
    digest = sha256(data)
    if settings.sha256 not in (None, digest):
        raise WeightsError(f"the sha256 of {settings.weights} is {digest}, and not {settings.sha256} as asked for")
    found = _taken(data, settings, build_model(settings, device="meta"))
    for note in _notes(found, settings):
        tell(note)
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
    network.load_state_dict({**network.state_dict(), **_taken(data, settings, network).tensors})


def _taken(data: bytes, settings: Model, network: nn.Module) -> Taken:
    """The network's tensors out of the bytes of a file. Raises WeightsError."""
    name = settings.weights or ""
    of = f"{settings.name} of {settings.classes} classes"
    return taken(read(data, f"{name}{_kept(settings)}"), network.state_dict(), name, of)


def _kept(settings: Model) -> str:
    """Where on this machine a copy is, of weights that come from elsewhere: a damaged one has to go."""
    if settings.file is None:
        from torch.hub import get_dir

        return f" (as kept in {get_dir()}/checkpoints)"
    return f" (as kept in {cache_folder('weights')})" if "://" in settings.file else ""


def _notes(found: Taken, settings: Model) -> Iterator[Note]:
    if found.others:
        others = " and ".join(f"`{one or 'its top'}`" for one in found.others)
        yield Note(f"of {settings.weights} the weights under `{found.at or 'its top'}` are taken, not {others}")
    elif found.rest:
        yield Note(f"of {settings.weights} what is under `{found.at}` is taken, and not {some(found.rest)}")
    able = weights({name: tensor.shape for name, tensor in found.tensors.items()})
    none, size, most = zeros({name: found.tensors[name] for name in able})
    if most >= SPARSE:
        text = (
            f"{none:,} of the {size:,} weights in {settings.weights} ({100 * none / size:.1f} %) are zero, and a "
            "`train` stage does not hold them there: they train like all others. A `prune` stage in its place, with "
            "`admm: null` and constraints that leave no more weights than there are, holds them"
        )
        yield Note(text, "train")


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
        kept = {"cache_storage": str(cache_folder("weights")), "check_files": True}
        with fsspec.open(f"filecache::{settings.file}", "rb", filecache=kept) as file:
            data: bytes = file.read()
        return data
    except IsADirectoryError as error:
        files = sorted(os.listdir(error.filename or "."))
        raise WeightsError(f"{settings.weights} is a folder, of {some(files) or 'nothing'}; give a file") from None
    except NoHome as error:
        raise WeightsError(f"{settings.weights} can't be read: {error}") from None
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
    if str(file).startswith("~"):
        raise WeightsError(f"there is no home folder to keep {settings.weights}'s weights in: set TORCH_HOME, or HOME")
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

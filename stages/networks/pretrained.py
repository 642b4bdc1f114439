"""Trained weights from elsewhere: read, held against the network, and kept in the store under their hash.

A plan reads them, so that what does not fit is refused before a machine is taken. Ranks take them from the
store: they need not reach what the plan was made on, and a file that changes meanwhile changes nothing.

A plan that read the same file before knows what came of it, and needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dualprune.stages.files.answers import answer
from dualprune.stages.files.folder import Folder, sha256
from dualprune.stages.files.home import NoHome, cache_folder
from dualprune.stages.networks.weightsfile import WeightsError, read, some
from dualprune.stages.networks.weightsfolder import INDEX, gathered, placed
from dualprune.stages.settings.training import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dualprune.stages.networks.statedict import Taken, Wanted

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
        raise WeightsError(f"the sha256 of {settings.origin} is {digest}, and not {settings.sha256} as asked for")
    settings = settings.model_copy(update={"sha256": digest})
    for note in answer("weights", settings.model_dump(mode="json"), lambda: list(_notes(data, settings))):
        tell(Note(*note))
    if not store.exists(_place(digest)):
        store.write(_place(digest), data)
    return settings


def load(settings: Model, store: Folder, network: nn.Module) -> None:
    """Give a network the weights that `bring` has put into the store. Raises WeightsError."""
    from dualprune.stages.networks import structure
    from dualprune.stages.networks.statedict import wanted

    assert settings.sha256 is not None
    try:
        data = store.read(_place(settings.sha256))
    except FileNotFoundError:
        data = b""
    if sha256(data) != settings.sha256:
        text = f"{store.url}/{_place(settings.sha256)} is not there, or not what was put there"
        raise WeightsError(f"{text}: delete it, and run again, which reads {settings.origin} anew")
    found = _taken(data, settings, wanted(network, settings.skip))
    structure.load(network, structure.Structure(), {**network.state_dict(), **found.tensors})


def _taken(data: bytes, settings: Model, needs: Wanted) -> Taken:
    """The network's tensors out of the bytes of a file. Raises WeightsError."""
    from dualprune.stages.networks.statedict import taken

    name = settings.origin or ""
    of = f"{settings.name} of {settings.classes} classes"
    return taken(read(data, f"{name}{_kept(settings)}"), needs, name, of)


def _kept(settings: Model) -> str:
    """Where on this machine a copy is, of weights that come from elsewhere: a damaged one has to go."""
    if settings.file is None:
        from torch.hub import get_dir

        return f" (as kept in {get_dir()}/checkpoints)"
    return f" (as kept in {cache_folder('weights')})" if "://" in settings.file else ""


def _notes(data: bytes, settings: Model) -> Iterator[Note]:
    """What is to be told of a file that the network takes its tensors from. Raises WeightsError."""
    from dualprune.stages.networks.build import sketch
    from dualprune.stages.networks.parameters import parameters, weights
    from dualprune.stages.networks.statedict import wanted, zeros

    network = sketch(settings)
    needs = wanted(network, settings.skip)
    found = _taken(data, settings, needs)
    if found.others:
        others = " and ".join(f"`{one or 'its top'}`" for one in found.others)
        yield Note(f"of {settings.origin} the weights under `{found.at or 'its top'}` are taken, not {others}")
    elif found.rest:
        yield Note(f"of {settings.origin} what is under `{found.at}` is taken, and not {some(found.rest)}")
    left = [name for name in needs.tensors if needs.skips(name)]
    if left:
        texts = [f"{name} {tuple(needs.tensors[name].shape)} ({_there(found.skipped.get(name))})" for name in left]
        verb = "is not taken, and stays" if len(left) == 1 else "are not taken, and stay"
        yield Note(f"of {settings.origin}, as `skip` says, {some(texts)} {verb} as initialised")
    ours = weights(parameters(network))
    none, size, most = zeros({name: found.tensors[name] for name in ours if name in found.tensors})
    if most >= SPARSE:
        text = (
            f"{none:,} of the {size:,} weights in {settings.origin} ({100 * none / size:.1f} %) are zero, and a "
            "`train` stage does not hold them there: they train like all others. A `prune` stage in its place, with "
            "`admm: null` and constraints that leave no more weights than there are, holds them"
        )
        yield Note(text, "train")


def _there(tensor: Tensor | None) -> str:
    return "not in the file" if tensor is None else f"{tuple(tensor.shape)} in the file"


def _place(digest: str) -> str:
    """Where a store keeps a file of weights."""
    return f"weights/{digest}"


def _fetched(settings: Model) -> bytes:
    """The bytes of the file that the settings name; of several with an index, one file with all of their tensors."""
    if settings.file is None:
        return _from_torchvision(settings)
    place = placed(settings.file)
    data = _read(place)
    return gathered(data, place, _read) if place.endswith(INDEX) else data


def _read(place: str) -> bytes:
    """The bytes of a file, by path or URL. Raises WeightsError."""
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
        if isinstance(filesystem, LocalFileSystem):
            return Path(path).read_bytes()
        # Downloaded once; again where the service tells that it is another file.
        kept = {"cache_storage": str(cache_folder("weights")), "check_files": True}
        with fsspec.open(f"filecache::{place}", "rb", filecache=kept) as file:
            data: bytes = file.read()
        return data
    except NoHome as error:
        raise WeightsError(f"{place} can't be read: {error}") from None
    except Exception as error:  # noqa: BLE001 - each filesystem has errors of its own; all mean the same here
        way = "; with the file at hand, give its path" if "://" in place else ""
        raise WeightsError(f"{place} can't be read: {error!r}{way}") from None


def _from_torchvision(settings: Model) -> bytes:
    from torch.hub import download_url_to_file, get_dir
    from torchvision.models import get_model_weights

    library, _, name = settings.name.rpartition(":")
    try:
        if library not in ("", "torchvision"):
            raise ValueError(library)
        there = get_model_weights(name).__members__
    except ValueError:
        raise WeightsError(f"torchvision has no weights for {settings.name}; give `weights` a file's path") from None
    which = (settings.origin or "").partition(":")[2] or "DEFAULT"
    if which not in there:
        known = f"it has {', '.join(there)}" if there else "it has none; give `weights` a file's path"
        raise WeightsError(f"torchvision has no weights {which} for {settings.name}; {known}")
    url = there[which].url
    file = Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if str(file).startswith("~"):
        raise WeightsError(f"there is no home folder to keep {settings.origin}'s weights in: set TORCH_HOME, or HOME")
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

"""Trained weights in a folder, and in several files with an index of which tensor is in which.

Torch is imported by what reads tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import fsspec

from dualprune.stages.networks.weightsfile import WeightsError, read, some

INDEX = ".index.json"
"""What the name of an index ends in."""
NAMES = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
"""Files that a folder of weights is known by; the first of them that is there is taken."""
NO_FOLDERS = ("http", "https")
"""Services that can't be asked whether something is a folder without fetching it."""


def placed(place: str) -> str:
    """The file of weights or the index that is meant by a path or URL: itself, or the one in a folder.

    Raises WeightsError for a folder without one.
    """
    if place.partition("://")[0] in NO_FOLDERS:
        return place
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
        if not filesystem.isdir(path):
            return place
        files = sorted(entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(path, detail=False))
    except Exception:  # noqa: BLE001 - each filesystem has errors of its own; who reads the file says what is wrong
        return place
    for name in NAMES:
        if name in files:
            return f"{place.rstrip('/')}/{name}"
    known = ", ".join(NAMES)
    raise WeightsError(
        f"{place} is a folder, of {some(files) or 'nothing'}; give a file, or a folder with one of {known}"
    )


def gathered(index: bytes, place: str, fetch: Callable[[str], bytes]) -> bytes:
    """All tensors that an index lists, as one file of safetensors. `fetch` gives the bytes of a file by its place.

    Raises WeightsError for an index, or a file beside it, that is not as it should be.
    """
    import safetensors.torch
    import torch
    from torch import Tensor

    files: dict[str, list[str]] = {}
    for name, file in _listed(index, place).items():
        files.setdefault(file, []).append(name)
    found: dict[str, Tensor] = {}
    for file, names in sorted(files.items()):
        beside = f"{place.rpartition('/')[0]}/{file}" if "/" in place else file
        tensors = read(fetch(beside), beside)
        tensors = tensors if isinstance(tensors, dict) else {}
        missing = [name for name in names if not isinstance(tensors.get(name), Tensor)]
        if missing:
            raise WeightsError(f"{place} lists {some(missing)} as in {file}, which has not: get both anew")
        found |= {name: tensors[name] for name in names}
    odd = [name for name, tensor in found.items() if tensor.layout != torch.strided or tensor.is_quantized]
    if odd:
        raise WeightsError(f"{place} lists {some(odd)}, which {'is' if len(odd) == 1 else 'are'} no plain tensor")
    data: bytes = safetensors.torch.save({name: tensor.contiguous().clone() for name, tensor in found.items()})
    return data


def _listed(index: bytes, place: str) -> dict[str, str]:
    """The file of each tensor, by its name."""
    try:
        found = json.loads(index)["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError(f"{place} is no index of weights: JSON with a `weight_map` from tensors to files") from None
    outside = sorted({file for file in files.values() if "/" in file or "\\" in file or file in ("", ".", "..")})
    if outside:
        raise WeightsError(f"{place} lists {some(outside)}, which is not beside it")
    return files

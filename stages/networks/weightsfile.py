"""What is in a file of trained weights, read without running anything of it; what else it is, if it is no such file.

Torch is imported by what reads tensors.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any


class WeightsError(ValueError):
    """Weights that can't be had, can't be read, or are of another network."""


class Passed:
    """Stands for an object of a class that is not read. It takes whatever it is given, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip: unpack it"),
    (b"\xfd7zXZ", "compressed with xz: unpack it"),
    (b"BZh", "compressed with bzip2: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes them: save the network's state dict with torch"),
    (b"GGUF", "a GGUF file: save the network's state dict with torch"),
    (b"\x93NUMPY", "a NumPy array: save the network's state dict with torch"),
    (b"%PDF", "a PDF file: give the file of the weights"),
    (b"\x89PNG", "a picture: give the file of the weights"),
    (b"\xff\xd8\xff", "a picture: give the file of the weights"),
)
"""First bytes of files that are given in the place of weights, and what to say of them."""
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of what torch saved before version 1.6."""
MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Modules that such a file has by the names of Python 2."""
TEXT = re.compile(rb"[\t\n\r\x20-\x7e\x80-\xff]+")
SAVE = "With the program that it is of, save the network's state dict: torch.save(network.state_dict(), FILE)"
"""What to do about a file that holds more than tensors."""
SHOWN = 4
"""Names that are told of many."""


def read(data: bytes, name: str) -> Any:
    """What safetensors or torch saved: tensors by name, and plain values around them. `name` is for people.

    Nothing but tensors and plain values is ever made: for an object of another class, such as a script's options,
    something that does nothing stands under its class's name. Raises WeightsError for what is something else, cut off,
    or changed on the way.
    """
    import safetensors.torch
    import torch

    trouble = _refusal(data)
    if trouble is None:
        try:
            if _safetensors(data):
                return safetensors.torch.load(data)
            with torch.serialization.safe_globals(_others(data)), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, of what is told better below
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 - a file that is anything at all can fail in any way
            trouble = _reason(data, error)
    raise WeightsError(f"{name} {trouble}")


def _others(data: bytes) -> list[Any]:
    """What stands for the classes that a file names, beside torch's own."""
    import torch

    if data.startswith(LEGACY):
        stream = io.BytesIO(data)  # of four pickles before the tensors' numbers
        told = [str(arg) for _ in range(4) for op, arg, _ in pickletools.genops(stream) if op.name == "GLOBAL"]
        names = {".".join((MODULES.get(of, of), name)) for of, name in (one.split(" ", 1) for one in told)}
    else:
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    return [(type(name, (Passed,), {}), name) for name in sorted(names) if not name.startswith("torch.")]


def _safetensors(data: bytes) -> bool:
    """Whether it begins as safetensors does: the length of a header, and the header."""
    return data[4:9] == b"\0\0\0\0{"


def some(names: Sequence[str]) -> str:
    """The first of many, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _refusal(data: bytes) -> str | None:
    """Why it is no file of weights, as far as its first bytes and a zip archive's list tell."""
    if not data:
        return "is empty"
    if not data.strip(b"\0"):
        return f"is {len(data):,} bytes of zeros: nothing was written there; get it anew"
    for start, text in KINDS:
        if data.startswith(start):
            return f"holds no weights: it is {text}"
    if data[257:262] == b"ustar":
        return "holds no weights that can be read: it is a tar archive; unpack it"
    if data.startswith(b"PK"):
        return _zipped(data)
    if TEXT.fullmatch(data[:512]):
        return _text(data)
    return None


def _text(data: bytes) -> str:
    """What to say of text in the place of weights."""
    text = data[:65536].decode(errors="replace").strip()
    if text.startswith("version https://git-lfs"):
        size = re.search(r"^size (\d+)$", text, re.MULTILINE)
        of = f" ({int(size[1]):,} bytes)" if size else ""
        return f"holds no weights: it is a Git LFS pointer to them{of}; `git lfs pull` there brings the file itself"
    if "/annex/objects/" in text[:512]:
        return "holds no weights: it is a git-annex pointer to them; `git annex get` there brings the file itself"
    if re.match(r"<!doctype html|<html|<head|<!--.*<html", text, re.IGNORECASE | re.DOTALL):
        title = re.search(r"<title[^>]*>\s*(.*?)\s*</title>", text, re.IGNORECASE | re.DOTALL)
        of = f" (title: {' '.join(title[1].split())[:80]})" if title else ""
        return f"holds no weights: it is an HTML page{of}; download the file itself, not the page that shows it"
    kind = "XML" if text.startswith("<") else "JSON" if text.startswith("{") else "text"
    return f"holds no weights: it is {kind}, and begins with {' '.join(text[:160].split())[:80]!r}"


def _zipped(data: bytes) -> str | None:
    """Why a zip archive holds no weights that torch saved."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return (
                "is a TorchScript archive, a program together with its weights: "
                "take `torch.jit.load(FILE).state_dict()`, and save that with torch.save"
            )
        if any(name.endswith("/data.pkl") for name in names):
            damaged = [name for name in names if not _whole(archive, name)]
            if damaged and len(damaged) < len(names):  # all of them: torch was told to write no checksums
                return f"is damaged: its member {damaged[0]} is not what was saved; get it anew"
            return None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        return f"is cut off or damaged ({len(data):,} bytes of a zip archive, {error}); get it anew"
    return f"holds no weights: it is a zip archive of {some(names) or 'nothing'}, without the data.pkl of torch.save"


def _whole(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether a member's checksum is right."""
    try:
        with archive.open(name) as member:
            while member.read(1 << 20):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _reason(data: bytes, error: Exception) -> str:
    """Why it could not be read. What torch says of that advises to run what the file says."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    foreign = re.search(r"GLOBAL (\S+)|got <class '(\S+)'>", text)
    if foreign:
        return (
            f"holds objects of the class {foreign[1] or foreign[2]}, which are not read: making them could run any "
            f"program. {SAVE}"
        )
    lines = text.rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    why = f" ({lines[0]})" if lines and "weights_only" not in lines[0] else ""
    if _safetensors(data) or data.startswith(LEGACY):
        return f"of {len(data):,} bytes can't be read{why}; if some are missing or were changed on the way, get it anew"
    if data[:1] == b"\x80":
        return f"is a pickle that torch.save did not write, which is not read: that could run any program. {SAVE}"
    return f"holds no weights that can be read safely{why}; give a state dict, by torch.save or safetensors"

"""A finished network written in one of the formats: it counts once it was loaded back and computes the same."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dualprune.stages.export.card import File, card
from dualprune.stages.export.check import apart
from dualprune.stages.export.errors import NotExported
from dualprune.stages.export.formats import FORMATS
from dualprune.stages.export.onnx import need
from dualprune.stages.export.source import Source
from dualprune.stages.kinds.table import parse
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.sets import NM
from dualprune.stages.solver.patterns import matching
from dualprune.stages.solver.targets import set_of


@dataclass(frozen=True)
class Exported:
    """A file that was written, loaded back and compared."""

    file: Path
    card: Path
    bytes: int
    """Of the file, and of what it needs beside it."""
    dense: int
    """Bytes of the dense network's tensors: fp32, mostly."""
    apart: float
    """How far its outputs are from the artefact's, as a share of the largest."""
    notes: tuple[str, ...]


def export(source: Source, name: str, out: Path, half: bool = False) -> Exported:
    """Write a network in the format `name` into a folder, with its model card; what was there of it is replaced.

    Raises NotExported for a network that the format can't hold, that can't be traced, or whose file does not compute
    the same when it is loaded back: then nothing is left of it. Raises OSError for a folder that can't be written.
    """
    form = FORMATS[name]
    if half and not form.halves:
        raise NotExported(
            f"--half is for {', '.join(n for n, one in FORMATS.items() if one.halves)}, and not for {name}"
        )
    need(*form.needs)
    notes = checked_pattern(source)
    file = f"{source.name}.{form.suffix}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as made:
        folder = Path(made)
        more, lengths = form.write(source, folder / file, half)
        notes += more
        written = sorted(folder.iterdir(), key=lambda path: path.name == file)
        far = apart(source, form, folder, file, half, lengths)
        size = sum(path.stat().st_size for path in written)
        text = card(source, form, name, File(file, size, far, lengths), notes)
        (folder / f"{file}.md").write_text(text, encoding="utf-8")
        for path in (*written, folder / f"{file}.md"):
            _synced(path)
            os.replace(path, out / path.name)
    return Exported(out / file, out / f"{file}.md", size, source.dense, far, tuple(notes))


def checked_pattern(source: Source) -> list[str]:
    """What is to be told of tensors that the stage holds to n of every m inputs.

    Raises NotExported for one that has more.
    """
    there = parameters(source.network)
    notes = []
    for settings in getattr(parse(source.manifest["spec"]), "constraints", ()):
        if not isinstance(settings, NM):
            continue
        names = list(matching(settings, there))
        for name in names:
            tensor = source.network.get_parameter(name).detach()
            if not set_of(settings, there[name]).contains(tensor):
                text = f"{name} should have at most {settings.n} of every {settings.m} inputs, and has more somewhere"
                raise NotExported(text)
        linear = any(there[name].layer == "Linear" for name in names)
        notes.append(_pattern(settings, names, linear))
    return notes


def _pattern(settings: NM, names: list[str], linear: bool) -> str:
    text = f"At most {settings.n} of every {settings.m} consecutive inputs are not zero, checked, in "
    text += ", ".join(f"`{name}`" for name in names)
    if (settings.n, settings.m) == (2, 4) and linear:
        text += "; in half precision on a GPU `torch.sparse.to_sparse_semi_structured` takes those of linear layers"
    return f"{text}."


def _synced(path: Path) -> None:
    """Have a file on the disk before it gets its name."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())

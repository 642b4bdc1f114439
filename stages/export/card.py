"""The model card beside an export: what it is, from what, how good, how large, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualprune.stages.export.building import building
from dualprune.stages.export.formats import Format, Loading
from dualprune.stages.export.program import sequences
from dualprune.stages.export.source import Source
from dualprune.stages.objectives.measures import measures


class File(NamedTuple):
    """A file that was checked."""

    name: str
    bytes: int
    apart: float
    """How far its outputs are from the artefact's, as a share of the largest."""
    lengths: bool
    """Whether sequences may be of any length."""


def card(source: Source, form: Format, name: str, file: File, notes: list[str]) -> str:
    """The text, in Markdown, of an export in the format `name`."""
    lines = [
        f"# {source.name}, as {name}",
        "",
        f"`{file.name}`: the network `{source.manifest['spec']['model']['name']}` of the stage `{source.name}` "
        f"({source.manifest.get('kind', 'stage')}), key `{source.key}`, exported by dualprune.",
        "",
        *(f"- {line}" for line in _facts(source, file)),
        *(f"- {note}" for note in notes),
        "",
        "## What it came of",
        "",
        *_lineage(source),
        "",
        "## How it is loaded",
        "",
        *(_called(source, form, file) if form.holds == "network" else _built(source, form, file)),
    ]
    return "\n".join(lines) + "\n"


def _facts(source: Source, file: File) -> Iterator[str]:
    metrics, first = source.manifest["metrics"], source.call.inputs[0]
    ratio = f", {source.dense / file.bytes:.3g} times as many" if source.dense > file.bytes else ""
    yield f"size: {file.bytes:,} bytes on disk; the dense network's tensors take {source.dense:,}{ratio}"
    if metrics.get("network_weights"):
        left, size = metrics["network_nonzeros"], metrics["network_weights"]
        yield f"weights: {size:,}, of which {left:,} are not zero ({size / max(1, left):.4g}x fewer)"
    together = f"{len(first)} together and one alone" if first.ndim else "called once"
    yield (
        f"checked: loaded back without dualprune and compared with the artefact on {source.samples}, {together}: "
        f"outputs differ by {file.apart:.2g} of the largest at most"
    )
    yield f"speed: `dualprune speed {source.key}` times the network beside the dense one"


def _lineage(source: Source) -> Iterator[str]:
    """A table of this stage and those before it."""
    of = measures(source.manifest)
    unit = f" ({of.unit})" if of.unit else ""
    yield f"| stage | kind | key | weights not zero | {of.of('val')}{unit} | {of.of('test')}{unit} |"
    yield "|---|---|---|---|---|---|"
    for name, key, manifest in source.lineage:
        yield f"| {name} | {_row(key, manifest, of.best)} |"


def _row(key: str, manifest: Mapping[str, Any], best: str) -> str:
    if not manifest:
        return f"- | `{key}` | not in the store any more | - | -"
    metrics = manifest["metrics"]
    left, *scores = (metrics.get(what) for what in ("network_nonzeros", f"val_{best}", f"test_{best}"))
    shown = ["-" if left is None else f"{left:,}", *("-" if score is None else f"{score:.4g}" for score in scores)]
    return f"{manifest.get('kind', '-')} | `{key}` | {' | '.join(shown)}"


def _called(source: Source, form: Format, file: File) -> Iterator[str]:
    """Code that loads a whole network and calls it."""
    loading = form.loading(source, file.name)
    given = zip(source.call.names, source.call.inputs, strict=True)
    examples = [f"{name} = {_example(one, loading)}" for name, one in given]
    yield from ("```python", *_imported(loading), "", *examples, loading.call or "", "```", "")
    long = sequences(source.call.inputs) if file.lengths else []
    varies = "; sequences may be of any length" if long else ""
    yield f"The first axis of each is samples, any number of them{varies}. {_outputs(source)}"


def _imported(loading: Loading) -> list[str]:
    """Code that loads, with what examples need beside it."""
    first, *rest = loading.load.splitlines()
    return [first, *(["import numpy"] if loading.arrays else []), *rest]


def _built(source: Source, form: Format, file: File) -> Iterator[str]:
    """Code that loads weights and gives them to a network."""
    loading, found = form.loading(source, file.name), building(source.manifest)
    yield from ("```python", loading.load, "```", "")
    if found.code is not None:
        arrays = "tensors = {name: torch.from_numpy(one) for name, one in tensors.items()}\n" if loading.arrays else ""
        put = f"network.load_state_dict(tensors{', assign=True' if loading.assign else ''})"
        code = f"{'import torch' if arrays else ''}\n{found.code}\n{arrays}{put}".strip()
        yield from ("They are the weights of a network that is built so:", "", "```python", code, "network.eval()")
        yield from ("```", "")
    yield found.needs


def _example(tensor: Tensor, loading: Loading) -> str:
    """Code for a tensor, or array, like this one, of one sample."""
    shape = tuple(1 if not place else size for place, size in enumerate(tensor.shape))
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"numpy.zeros({shape}, {kind!r})" if loading.arrays else f"torch.zeros({shape}, dtype=torch.{kind})"


def _outputs(source: Source) -> str:
    with torch.no_grad():
        found = source.call.network(*source.call.inputs)
    several = found if isinstance(found, tuple) else (found,)
    shown = (
        f"`{name}` [n{''.join(f', {size}' for size in one.shape[1:])}]"
        for name, one in zip(source.call.outputs, several, strict=True)
    )
    data = source.manifest["spec"].get("data", {})
    mean, std = data.get("mean", [0.0]), data.get("std", [1.0])
    pictures = f" Pictures go in as shares of white, less {mean}, over {std}." if (mean, std) != ([0.0], [1.0]) else ""
    return f"It gives {', '.join(shown)}.{pictures}"

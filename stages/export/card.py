"""The model card beside an export: what it is, from what, how good, how large, and how it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dualprune.stages.artefacts.manifest import Damaged, read
from dualprune.stages.export.building import building
from dualprune.stages.export.formats import Format
from dualprune.stages.export.source import Source
from dualprune.stages.objectives.measures import measures


def card(source: Source, form: Format, name: str, file: str, size: int, far: float, notes: list[str]) -> str:
    """The text, in Markdown, of an export of `size` bytes in the format `name`, whose outputs are `far` from the
    artefact's (a share of the largest)."""
    metrics = source.manifest["metrics"]
    dense = metrics.get("dense_bytes") or sum(tensor.nbytes for tensor in source.tensors.values())
    lines = [
        f"# {source.name}, as {name}",
        "",
        f"`{file}`: the network `{source.manifest['spec']['model']['name']}` of the stage `{source.name}` "
        f"({source.manifest.get('kind', 'stage')}), key `{source.key}`, exported by dualprune.",
        "",
        f"- size: {size:,} bytes on disk; as dense fp32 its tensors take {dense:,}, {dense / size:.3g} times as many",
        *_left(metrics),
        f"- checked: loaded back without dualprune and compared with the artefact on {source.samples}, "
        f"{len(source.call.inputs[0]) if source.call.inputs[0].ndim else 1} together and one alone: outputs differ by "
        f"{far:.2g} of the largest at most",
        *(f"- {note}" for note in notes),
        "",
        "## What it came of",
        "",
        *_lineage(source),
        "",
        "## How it is loaded",
        "",
        *_loading(source, form, file),
    ]
    return "\n".join(lines) + "\n"


def _left(metrics: Mapping[str, Any]) -> Iterator[str]:
    if metrics.get("network_weights"):
        left, size = metrics["network_nonzeros"], metrics["network_weights"]
        yield f"- weights: {size:,}, of which {left:,} are not zero ({size / max(1, left):.4g}x fewer)"


def _lineage(source: Source) -> Iterator[str]:
    """A table of this stage and those before it, as far as its store has them."""
    of = measures(source.manifest)
    unit = f" ({of.unit})" if of.unit else ""
    yield f"| stage | kind | key | weights not zero | {of.of('val')}{unit} | {of.of('test')}{unit} |"
    yield "|---|---|---|---|---|---|"
    waiting, seen = [(source.name, source.key, source.manifest)], set()
    while waiting:
        name, key, manifest = waiting.pop(0)
        if key in seen:
            continue
        seen.add(key)
        yield f"| {name} | {_row(key, manifest, of.best)} |"
        for parent in manifest.get("parents", []) if manifest else []:
            waiting.append((parent["name"], parent["key"], _manifest(source, parent["key"])))


def _manifest(source: Source, key: str) -> dict[str, Any]:
    """A manifest of the same store; nothing where it is gone, or damaged."""
    try:
        return read(source.store / key) or {}
    except Damaged:
        return {}


def _row(key: str, manifest: Mapping[str, Any], best: str) -> str:
    if not manifest:
        return f"- | `{key}` | not in the store any more | - | -"
    metrics = manifest["metrics"]
    left = metrics.get("network_nonzeros")
    scores = (metrics.get(f"{split}_{best}") for split in ("val", "test"))
    shown = [f"{left:,}" if left is not None else "-", *("-" if score is None else f"{score:.4g}" for score in scores)]
    return f"{manifest.get('kind', '-')} | `{key}` | {' | '.join(shown)}"


def _loading(source: Source, form: Format, file: str) -> Iterator[str]:
    loading = form.loading(source, file)
    if form.holds == "network":
        given = [
            f"{name} = {_example(one)}  # the first axis may be any number of samples"
            for name, one in zip(source.call.names, source.call.inputs, strict=True)
        ]
        yield from (
            "```python",
            loading.load if "import torch" in loading.load else f"{loading.load}\nimport torch",
            "",
        )
        yield from (*given, loading.call or "", "```", "", _outputs(source))
        return
    yield from ("```python", loading.load, "```", "")
    found = building(source.manifest)
    if found.code is not None:
        yield "The tensors are the weights of a network that is built so:"
        converted = ""
        if "torch" not in loading.load:
            converted = "import torch\n\ntensors = {name: torch.from_numpy(one) for name, one in tensors.items()}\n"
        yield from (
            "",
            "```python",
            found.code,
            f"{converted}network.load_state_dict(tensors)",
            "network.eval()",
            "```",
            "",
        )
    yield found.needs


def _example(tensor: Tensor) -> str:
    """Code for a tensor like this one, of one sample."""
    shape = ", ".join(map(str, (1, *tensor.shape[1:]) if tensor.ndim else ()))
    return f"torch.zeros({shape or '()'}{'' if tensor.dtype == torch.float32 else f', dtype={tensor.dtype}'})"


def _outputs(source: Source) -> str:
    with torch.no_grad():
        found = source.call.network(*source.call.inputs)
    several = found if isinstance(found, tuple) else (found,)
    shown = (
        f"`{n}` [n{''.join(f', {s}' for s in one.shape[1:])}]"
        for n, one in zip(source.call.outputs, several, strict=True)
    )
    return f"It gives {', '.join(shown)}. Inputs have to be normalised as in training: {_normalised(source)}."


def _normalised(source: Source) -> str:
    data = source.manifest["spec"].get("data", {})
    mean, std = data.get("mean", [0.0]), data.get("std", [1.0])
    return f"pictures in [0, 1], less {mean}, over {std}" if mean != [0.0] or std != [1.0] else "as the data has them"

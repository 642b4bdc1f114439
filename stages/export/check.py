"""An export loaded back, in a process that has no dualprune, and compared on real inputs with the network it is of."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dualprune.stages.export.errors import NotExported
from dualprune.stages.export.formats import Format, Loading
from dualprune.stages.export.program import sequences
from dualprune.stages.export.source import Source

NEAR = 1e-4
"""How far outputs of a network may be from the artefact's, as a share of the largest: fp32 sums in another order."""
NEAR_HALF = 2e-2
"""The same of one whose numbers were rounded to fp16."""
PATIENCE = 1800.0
"""Seconds for which a file is loaded and run at most."""

_AFTER = """
import sys
import torch

_given, _found = torch.load("given.pt"), {}
for _number, _inputs in enumerate(_given):
    {names} = [one.numpy() for one in _inputs] if {arrays} else _inputs
    {call}
    _outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    _found[_number] = [torch.as_tensor(one).detach() for one in _outputs]
assert "dualprune" not in sys.modules
torch.save(_found, "found.pt")
"""
_AFTER_TENSORS = """
import sys
import torch

assert "dualprune" not in sys.modules
torch.save({name: torch.as_tensor(tensor) for name, tensor in tensors.items()}, "found.pt")
"""


@torch.no_grad()
def apart(source: Source, form: Format, folder: Path, file: str, half: bool, lengths: bool) -> float:
    """How far what a file's network gives is from what the artefact's own does: the largest difference as a share of
    the largest output, over all samples together and the first alone; with `lengths`, cut to half their length too.

    Raises NotExported where that is too much, or where the file does not load; then with the end of what Python said.
    """
    batches = _batches(source.call.inputs, lengths)
    wanted = [_listed(source.call.network(*inputs)) for inputs in batches]
    loading = form.loading(source, file)
    if form.holds == "network":
        found = _run(loading, source.call.names, batches, folder)
    else:
        tensors = {
            name: one if one.layout == torch.strided else one.to_dense() for name, one in _read(loading, folder).items()
        }
        found = _rebuilt(source, tensors, batches, half)
    far = max(_apart(one, other) for one, other in zip(_flat(found), _flat(wanted), strict=True))
    most = NEAR_HALF if half else NEAR
    if not far <= most:
        text = f"the exported network's outputs differ from the artefact's by {far:.3g} of the largest"
        raise NotExported(f"{text}, more than {most:g}: the file is not kept")
    return far


def _batches(inputs: tuple[Tensor, ...], lengths: bool) -> list[tuple[Tensor, ...]]:
    """All samples, the first alone and, where that may be, all without their second half."""
    samples = len(inputs[0]) if inputs[0].ndim else None
    batches = [inputs, tuple(one[:1] if one.ndim and len(one) == samples else one for one in inputs)]
    if lengths:
        long = sequences(inputs)
        half = inputs[long[0]].shape[1] // 2
        batches.append(tuple(one[:, :half] if number in long else one for number, one in enumerate(inputs)))
    return batches


def _run(
    loading: Loading, names: Sequence[str], batches: Sequence[tuple[Tensor, ...]], folder: Path
) -> list[list[Tensor]]:
    """Outputs of a loaded network for each batch."""
    torch.save([list(inputs) for inputs in batches], folder / "given.pt")
    after = _AFTER.replace("{names}", f"[{', '.join(names)}]").replace("{call}", loading.call or "")
    after = after.replace("{arrays}", str(loading.arrays))
    found = _child(f"{loading.load}\n{after}", folder)
    return [found[number] for number in range(len(batches))]


def _read(loading: Loading, folder: Path) -> dict[str, Tensor]:
    """Tensors as they were loaded."""
    found: dict[str, Tensor] = _child(f"{loading.load}\n{_AFTER_TENSORS}", folder)
    return found


def _child(code: str, folder: Path) -> dict:
    """What a process of its own that runs some code in a folder leaves there. Raises NotExported."""
    (folder / "load.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "load.py"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise NotExported(f"the exported file was not loaded and run within {PATIENCE:g} seconds") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotExported(f"the exported file does not load and run without dualprune: {lines[-1]}")
    found: dict = torch.load(folder / "found.pt", weights_only=True)
    for name in ("load.py", "given.pt", "found.pt"):
        (folder / name).unlink(missing_ok=True)
    return found


def _rebuilt(
    source: Source, tensors: Mapping[str, Tensor], batches: Sequence[tuple[Tensor, ...]], half: bool
) -> list[list[Tensor]]:
    """Outputs of the network with the tensors of a file. Raises NotExported for tensors that are not the network's."""
    own = source.network.state_dict()
    changed = [n for n, t in own.items() if n not in tensors or not (half or _equal(tensors[n], t))]
    if changed or len(tensors) != len(own):
        raise NotExported(f"tensors of the file are not the network's: {', '.join(changed or tensors)}")
    network = copy.deepcopy(source.call.network)
    network.network.load_state_dict({name: tensors[name] for name in own})
    return [_listed(network(*inputs)) for inputs in batches]


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether tensors have the same numbers, NaN among them."""
    return one.shape == other.shape and bool(torch.allclose(one.to(other.dtype), other.cpu(), 0, 0, equal_nan=True))


def _apart(one: Tensor, other: Tensor) -> float:
    one, other = one.cpu().double(), other.cpu().double()
    if one.shape != other.shape or not torch.equal(one.isnan(), other.isnan()):
        return float("inf")
    one, other = one.nan_to_num(), other.nan_to_num()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30)) if one.numel() else 0.0


def _listed(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _flat(batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [output for outputs in batches for output in outputs]

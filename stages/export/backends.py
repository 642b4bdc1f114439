"""What runs a network: torch as it is, compiled, with sparse layers; ONNX Runtime. One line in `BACKENDS` each."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.export.calls import Plain, leaves
from dualprune.stages.export.csr import with_csr
from dualprune.stages.export.errors import NotExported
from dualprune.stages.export.halves import halved, in_halves
from dualprune.stages.export.inputs import Inputs, batched, plain
from dualprune.stages.export.onnx import slower, to_onnx

TOLERANCE = 1e-3
"""Of the largest output: how far a backend's outputs may be from torch's."""

NO_TWO_FOUR = "no linear layer has two of every four weights at zero, and sides of multiples of 32 and 64"


class Unavailable(Exception):
    """A backend that is not installed, or that can't run a network; the reason, for people."""


@dataclass(frozen=True)
class Bound:
    """A network with inputs on a backend."""

    call: Callable[[], Any]
    """Runs it once, to its end."""
    outputs: Callable[[Any], list[Tensor]]
    """The tensors in what a call gives."""
    sparse: tuple[str, ...] | None = None
    """Of backends with sparse layers: which those are."""


Bind = Callable[[Inputs], Bound]
"""Given inputs, of any number of samples."""


@dataclass(frozen=True)
class Backend:
    """One way of running networks."""

    title: str
    prepare: Callable[[nn.Module, Inputs, torch.device, int], Bind]
    """Of a network on the CPU, inputs as an example, a device and the number of threads. Raises Unavailable."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    needs: tuple[str, ...] = ()
    """Modules that have to be installed."""
    extra: str = ""
    """What installs them: an extra of this package."""
    tolerance: float = TOLERANCE
    """Of the largest output: how far outputs may be from torch's."""
    unfit: str = ""
    """Of backends with sparse layers: what is said of a network that has none, which is not timed there."""

    def missing(self) -> str | None:
        """What to install before it can be used, or None."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if not absent:
            return None
        return f"{self.title} needs {' and '.join(absent)}: pip install 'dualprune[{self.extra}]'"


def _eager(network: nn.Module, example: Inputs, device: torch.device, threads: int) -> Bind:
    on = copy.deepcopy(network).to(device)

    def bind(inputs: Inputs) -> Bound:
        return Bound(_called(on, _moved(inputs, device), device), _tensors)

    return bind


def _compiled(network: nn.Module, example: Inputs, device: torch.device, threads: int) -> Bind:
    on = copy.deepcopy(network).to(device)

    def bind(inputs: Inputs) -> Bound:
        call = _called(torch.compile(on, dynamic=False), _moved(inputs, device), device)
        try:
            call()
        except Exception as error:
            raise Unavailable(f"torch.compile can't: {type(error).__name__}: {_first_line(error)}") from error
        return Bound(call, _tensors)

    return bind


def _with_csr(network: nn.Module, example: Inputs, device: torch.device, threads: int) -> Bind:
    def bind(inputs: Inputs) -> Bound:
        try:
            changed, found = with_csr(network, inputs)
        except (ArithmeticError, RuntimeError) as error:
            raise Unavailable(f"sparse rows can't: {_first_line(error)}") from error
        before = "network." if isinstance(network, Plain) else ""
        layers = tuple(name.removeprefix(before) for name in found)
        return Bound(_called(changed, inputs, device), _tensors, layers)

    return bind


def _in_halves(network: nn.Module, example: Inputs, device: torch.device, threads: int) -> Bind:
    try:
        on, layers = in_halves(network, device)
    except (NotImplementedError, RuntimeError) as error:  # of GPUs without such kernels, say
        raise Unavailable(f"half precision with 2:4 kernels can't: {_first_line(error)}") from error
    before = "network." if isinstance(network, Plain) else ""
    named = tuple(name.removeprefix(before) for name in layers)

    def bind(inputs: Inputs) -> Bound:
        call = _called(on, halved(_moved(inputs, device)), device)
        try:
            call()
        except (NotImplementedError, RuntimeError) as error:
            raise Unavailable(f"half precision with 2:4 kernels can't: {_first_line(error)}") from error
        return Bound(call, _tensors, named)

    return bind


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _moved(inputs: Inputs, device: torch.device) -> Inputs:
    return tuple(one.to(device) for one in inputs)


def _tensors(outputs: Any) -> list[Tensor]:
    return [tensor.cpu() for _, tensor in leaves(outputs)]


def _called(network: Callable[..., Any], inputs: Inputs, device: torch.device) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            outputs = network(*inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return outputs

    return call


def _onnx(network: nn.Module, example: Inputs, device: torch.device, threads: int) -> Bind:
    import onnxruntime

    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise Unavailable("this ONNX Runtime has no CUDA: pip install onnxruntime-gpu in place of onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads would go on spinning after a call, on cores that others are timed on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            two = batched(example, 2)
            to_onnx(network if isinstance(network, Plain) else plain(network, two), two, path)
        except NotExported as error:
            raise Unavailable(str(error)) from None
        without = slower(network) if device.type == "cpu" else ()
        session = onnxruntime.InferenceSession(path, options, providers=[provider], disabled_optimizers=without)
    names = [one.name for one in session.get_inputs()]

    def bind(inputs: Inputs) -> Bound:
        feed = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True)}
        return Bound(lambda: session.run(None, feed), lambda arrays: [torch.from_numpy(one) for one in arrays])

    return bind


BACKENDS: dict[str, Backend] = {
    "torch": Backend("torch", _eager),
    "compile": Backend("torch compiled", _compiled),
    "csr": Backend("torch csr", _with_csr, devices=("cpu",), unfit="no linear layer is faster with sparse rows"),
    "2:4": Backend("torch fp16, 2:4", _in_halves, devices=("cuda",), tolerance=0.02, unfit=NO_TWO_FOUR),
    "onnx": Backend("ONNX Runtime", _onnx, needs=("onnx", "onnxscript", "onnxruntime"), extra="onnx"),
}
"""The table of backends, in the order in which they are shown."""


def check(network: nn.Module, inputs: Inputs, bound: Bound, tolerance: float = TOLERANCE) -> None:
    """Raise Unavailable where a backend computes something else than torch does: by that much of the largest output."""
    with torch.inference_mode():
        wanted = _tensors(network(*inputs))
    got = bound.outputs(bound.call())
    if len(wanted) != len(got):
        raise Unavailable(f"it gives {len(got)} outputs, and torch {len(wanted)}")
    for ours, theirs in zip(wanted, got, strict=True):
        apart = float((theirs.double() - ours.double()).abs().max()) if ours.shape == theirs.shape else float("inf")
        if not apart <= tolerance * max(1.0, float(ours.abs().max())):
            raise Unavailable(f"its outputs are {apart:.2g} from torch's")


def devices() -> list[str]:
    """The kinds of devices that there are on this machine."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def known(names: Sequence[str]) -> list[Backend]:
    """Backends by their names. Raises ValueError for one that there is not."""
    for name in names:
        if name not in BACKENDS:
            raise ValueError(f"there is no backend {name!r}; there are {', '.join(BACKENDS)}")
    return [BACKENDS[name] for name in names]

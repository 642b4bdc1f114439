"""Parameters of a user's own network, and ADMM's state of each, whole by name: what the engine gives the pipeline.

Under plain torch and DDP a parameter is whole. Under FSDP2 it is a DTensor, whose state lies as it does: it is gathered
to be read, one tensor at a time, and each rank writes its own part.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate

from dualprune.stages.engine.state import Whole, divide


class ModuleTensors(Whole):
    """The named parameters of a module with their state: the accessor that `stages.solver.admm` works on."""

    def __init__(
        self, module: nn.Module, names: Iterable[str], penalised: Collection[str], valued: Collection[str]
    ) -> None:
        """Those that are only masked are in `names` too; `valued` are those whose set changes values."""
        super().__init__(penalised, valued)
        self.module = module
        rest(module)
        found = dict(module.named_parameters())
        self.parameters = {name: found[name] for name in names}
        self.state = {
            name: {
                key: torch.zeros_like(p, dtype=torch.uint8 if key == "marks" else _precise(p), requires_grad=False)
                for key in self.kept(name)
            }
            for name, p in self.parameters.items()
        }

    def seen(self, name: str, state: str | None = None) -> Tensor:
        """The whole parameter in fp32 or better, or its state as it is kept, to be looked at until the next `write`."""
        value = self._own(name, state).detach()
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        return whole.to(whole.dtype if state == "marks" else _precise(whole))

    @torch.no_grad()
    def write(self, name: str, value: Tensor, state: str | None) -> None:
        """Put a whole tensor, the same on every rank, in the place of a parameter or of its state."""
        own = self._own(name, state)
        value = value.to(device=local(own).device, dtype=own.dtype)
        if isinstance(own, DTensor):
            mesh = own.device_mesh
            whole = DTensor.from_local(value, mesh, [Replicate()] * mesh.ndim, run_check=False)
            value = whole.redistribute(placements=own.placements).to_local()
        local(own).copy_(value)

    def divide(self, factor: float) -> None:
        """U / factor, of this rank's part of all tensors."""
        for name in self.penalised:
            divide({key: local(value) for key, value in self.state[name].items()}, factor)

    def parts(self, names: Iterable[str], state: str) -> list[Tensor]:
        """This rank's parts of a state of several parameters."""
        return [local(self.state[name][state]) for name in names]

    def _own(self, name: str, state: str | None) -> Tensor:
        return self.parameters[name] if state is None else self.state[name][state]


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor: its own memory, not a copy."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local()


def rest(module: nn.Module) -> None:
    """Let FSDP2 give up gathered parameters, such as a forward without a backward leaves: they would not be written."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)

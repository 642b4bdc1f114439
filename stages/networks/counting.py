"""What a network computes, as torch's own counter has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

GLOBAL = "Global"
"""torch's name for what is counted of all modules together."""


@dataclass
class Counted:
    """Filled in when the counting ends."""

    macs: int = 0
    """Multiplications with additions of matrix products, convolutions and attention, those with zeros too. Recurrent
    layers are not counted, which torch runs as a whole."""
    modules: dict[str, int] = field(default_factory=dict)
    """The same of each module by its path, with what is in it; the network's own is empty."""


class _Tracker:
    """Which modules are at work, by their paths: in place of torch's tracker, which fails where a module is given a
    parameter and no gradient is kept."""

    def __init__(self) -> None:
        self._paths: dict[nn.Module, str] = {}
        self._stack: list[str] = []
        self._handles: list[RemovableHandle] = []

    @property
    def parents(self) -> set[str]:
        """Those that are at work now, and all."""
        return {GLOBAL, *self._stack}

    def __enter__(self) -> _Tracker:
        self._handles = [
            register_module_forward_pre_hook(self._enters),
            register_module_forward_hook(self._leaves, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _enters(self, module: nn.Module, _: Any) -> None:
        if not self._stack:
            self._paths = {one: path for path, one in module.named_modules()}
        self._stack.append(self._paths.get(module, ""))

    def _leaves(self, *_: Any) -> None:
        self._stack.pop()


@contextmanager
def counted() -> Iterator[Counted]:
    """Count what networks that are run within this compute. Nothing is kept for gradients."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    found = Counted()
    fast = torch.backends.mha.get_fastpath_enabled()
    # Attention in one piece is no product that torch counts.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = _Tracker()  # type: ignore[assignment]
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield found
        found.macs = counter.get_total_flops() // 2
        counts = counter.get_flop_counts()
        found.modules = {path: sum(one.values()) // 2 for path, one in counts.items() if path != GLOBAL}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

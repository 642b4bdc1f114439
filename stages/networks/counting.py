"""What a network computes, as torch's own counter has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Counted:
    """Filled in when the counting ends."""

    macs: int = 0
    """Multiplications with additions of matrix products, convolutions and attention, those with zeros too. Recurrent
    layers are not counted, which torch runs as a whole."""
    modules: dict[str, int] = field(default_factory=dict)
    """The same of each module by its path, with what is in it; the network's own is empty."""


class _Nowhere:
    """In place of torch's tracker of modules, which fails where one is given a parameter and no gradient is kept."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None: ...


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
        counter.mod_tracker = _Nowhere()  # type: ignore[assignment]
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            yield found
        found.macs = counter.get_total_flops() // 2
        counts = {name: sum(one.values()) // 2 for name, one in counter.get_flop_counts().items() if name != "Global"}
        found.modules = {name.partition(".")[2]: count for name, count in counts.items()}
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)

"""Seeding of torch's generators, fast enough for each step."""

from __future__ import annotations

import torch


def seeded(number: int) -> None:
    """Seed the generators of the CPU and of GPUs, as `torch.manual_seed` does. That one also asks for devices of other
    makes, and formats its caller's stack for a GPU that is not used yet: half a millisecond, each time."""
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)

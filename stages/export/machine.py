"""What the processor of this machine is called."""

from __future__ import annotations

import platform
from pathlib import Path


def machine(device: str = "cpu") -> str:
    """The name of the CPU, or of the first GPU. Raises ValueError where torch finds no CUDA device."""
    if device == "cpu":
        return _cpu()
    import torch

    if not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device on this machine")
    return str(torch.cuda.get_device_name())


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # there is none outside of Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()

"""The C library's allocator, told to keep what a step frees: the next step takes as much again.

A step on a CPU frees its activations at its end. glibc hands the top of its heap back to the system then, and the next
step pays for each page anew: 14 % of a step of ResNet-20 (batch 128, one core).
"""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""mallopt(3): numbers of what can be set."""
NEVER = 2**31 - 1
LARGEST = 32 * 2**20
"""Bytes: what is larger is always handed back. glibc takes no more on 64 bits."""
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
"""Environment variables by which a user sets the same."""


def keep_freed() -> bool:
    """Keep freed memory of this process from now on, after what is free has been handed back once.

    Nothing is done, and False returned, where the C library is not glibc or a user has set its allocator up.
    """
    if any(name in os.environ for name in OWN):
        return False
    library = ctypes.CDLL(None)
    if not (hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt")):
        return False
    library.malloc_trim(0)  # an earlier stage of this process may have been larger
    return all(library.mallopt(*pair) == 1 for pair in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, NEVER)))

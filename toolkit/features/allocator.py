"""How this process asks the system for memory while networks run on its CPU."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER_TRIM = 2**31 - 1
_LARGEST_FROM_HEAP_BYTES = 2**30


def keep_freed_memory() -> None:
    """Let freed tensors' memory serve the next ones, for the rest of this process's life.

    By default glibc returns every large block to the system, which hands out and clears pages anew
    for each activation of each forward pass: half the time of ResNet-50 on a CPU where
    that was measured (see docs/performance.md). Peak memory stays the same; after it, the process
    stays that large. Without effect where the C library is another one.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)

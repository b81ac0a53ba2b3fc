"""Memory that one batch frees is kept for the next: without it the system maps and zeroes every map of every batch anew."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of the GNU C library
KEPT_BYTES = 1 << 30
MAPPED_ALONE_BYTES = 32 << 20  # the most it takes; larger blocks are still given back at once


def keep_freed_memory() -> bool:
    """Let the process's allocator keep up to a GiB of freed memory; False where it is not the GNU C library's.

    One arena for all threads: those that other threads get are unmapped whenever they are empty, which is after every
    batch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = ((M_TRIM_THRESHOLD, KEPT_BYTES), (M_MMAP_THRESHOLD, MAPPED_ALONE_BYTES), (M_ARENA_MAX, 1))
    return all([mallopt(option, value) == 1 for option, value in wanted])

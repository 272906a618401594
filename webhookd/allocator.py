"""Has the memory of large bodies go back to the system as soon as they are let go of."""

from __future__ import annotations

import ctypes

LARGE = 4 * 1024**2
"""Blocks of so many bytes and more are mapped one by one: for less, mapping costs more CPU than it saves memory."""
_M_MMAP_THRESHOLD = -3
"""From malloc.h of glibc."""


def map_large_blocks() -> bool:
    """Have malloc map every block of LARGE bytes by itself; return whether it can be told so, as glibc's can.

    Left alone, glibc raises its threshold to the largest block that was ever freed, up to 32 MiB (mallopt(3)). Large
    bodies then come from the heap, where what is between two of them keeps it from shrinking, and where a buffer that
    grows is copied and not remapped: 64 senders of 25 MiB take half as much again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_MMAP_THRESHOLD, LARGE) == 1

"""What glibc's malloc keeps, bounded: for a process that computes batches of all sizes for days.

A freed tensor below 32 MiB goes back to the heap. The next batch has another length and needs another size of hole, so
the heap becomes holes: of 600 MiB of a small model's server more than 300 were, after a minute, and none of it in use.
Larger blocks are therefore mapped one by one, which gives them back at once; what is smaller finds its hole again.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Container

LARGE_BYTES = 8 << 20
"""Of a block that is mapped by itself. Mapping costs a page fault for 4 KiB: of 4 MiB and more a twelfth of a batch's
time was measured, of 8 MiB and more a fortieth; and none for the usual requests, which have no such blocks."""
TOP_BYTES = 64 << 20
"""Free at the heap's end before it is shortened; at the default, 128 KiB, every batch would shorten it."""
GIVE_BACK_SECONDS = 5.0
"""Between two looks for whole pages in the holes that are left."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's `mallopt` (malloc.h)."""
CHOSEN_BY = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Whoever set one of these has chosen how memory is kept, or another malloc."""


def keep_few_holes(environ: Container[str]) -> bool:
    """Have large blocks mapped by themselves in this process.

    Args:
        environ: names that are set. What the user has chosen stays.

    Returns:
        Whether it was done; False: it was chosen otherwise, or this is not glibc.
    """
    if any(name in environ for name in CHOSEN_BY) or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, LARGE_BYTES) and mallopt(_TRIM_THRESHOLD, TOP_BYTES))


class Holes:
    """Gives pages that nothing uses back to the system, now and then, where malloc is glibc's."""

    def __init__(self) -> None:
        self._trim = (
            getattr(ctypes.CDLL(None), "malloc_trim", None) if platform.libc_ver()[0] == "glibc" else None
        )
        self._last = time.monotonic()

    def give_back(self) -> bool:
        """To be called between batches; whether it was time."""
        if self._trim is None or time.monotonic() - self._last < GIVE_BACK_SECONDS:
            return False
        self._trim(0)
        self._last = time.monotonic()
        return True

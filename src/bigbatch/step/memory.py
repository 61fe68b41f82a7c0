"""Out of memory, in whichever words torch and Python say it."""

from __future__ import annotations

import torch


class OutOfMemory(Exception):
    """A micro-batch did not fit; the weights are untouched, so the loop can replay the update in smaller pieces."""


_CPU_ALLOCATOR = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
"""How torch's CPU allocator says it, on Windows and on Linux: as a plain RuntimeError."""


def is_memory_error(error: BaseException | None) -> bool:
    """Whether torch, or Python, ran out of memory."""
    if isinstance(error, (OutOfMemory, torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_ALLOCATOR)


class memory_errors:
    """Turn every way in which torch says "out of memory" into OutOfMemory."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if is_memory_error(error) and not isinstance(error, OutOfMemory):
            raise OutOfMemory(str(error)) from error

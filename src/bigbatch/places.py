"""Where a process stands among others, and which part of the work is its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process stands in its group, as torchrun tells it."""

    rank: int
    """From 0, over all machines."""
    size: int
    """Processes of the group."""
    local_rank: int
    """From 0, on this machine."""
    local_size: int
    """Processes on this machine."""
    meeting: Path | None = None
    """Where the ranks find each other, in a folder of their user alone; None: at the address that torchrun left."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part `rank` of `size` of the micro-batches of a batch."""

    rank: int
    size: int
    even: bool = False
    """Whether every rank must run equally many forwards: a parameter that is shared is gathered in each."""
    aligned: bool = False
    """Whether micro-batches are the same for any `size` and each part is an aligned block of them, so that sums can
    have the same bits."""


ALL = Part(rank=0, size=1)

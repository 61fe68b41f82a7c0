"""Copies of gradients on their way between ranks that hold whole models: a few buckets, whatever the model's size."""

from __future__ import annotations

BUCKET_BYTES = 25 * 2**20
"""Most bytes of a bucket, as torch's DistributedDataParallel has it; a larger gradient travels alone, uncopied."""
ON_THEIR_WAY = 2
"""Most buckets that have been sent and not come back."""
OF_A_TREE = 1
"""Buckets of memory that a sum in the order of a tree takes: half of one is sent while another half is received."""


def travelling_bytes(trained_bytes: int, copies: int, *, bitwise: bool = False) -> int:
    """Memory that summing gradients takes beside them.

    Args:
        trained_bytes: of all gradients of one rank.
        copies: ranks that hold the same parameters and sum in buckets.
        bitwise: whether sums have the order of a tree.
    """
    if copies < 2:
        return 0
    buckets = OF_A_TREE if bitwise else ON_THEIR_WAY
    return buckets * min(BUCKET_BYTES, trained_bytes)

"""Which rank computes which micro-batch. Arithmetic on their sizes alone, the same on every rank."""

from __future__ import annotations

import numpy as np

from bigbatch.places import Part


def dealt(costs_M: np.ndarray, part: Part) -> list[int]:
    """The micro-batches of one part, so that the part with most has as little as can be found quickly.

    The dearest first, each to the part that has least so far (of equal ones, to the lowest rank).

    Args:
        costs_M: (M,) computed tokens of each micro-batch.
        part: whose.

    Returns:
        Their numbers, ascending. With `part.even` every part has at most ceil(M / size).
    """
    if part.size == 1:
        return list(range(len(costs_M)))
    most = -(-len(costs_M) // part.size)
    loads = [0] * part.size
    counts = [0] * part.size
    mine: list[int] = []
    for number in np.argsort(-np.asarray(costs_M, np.int64), kind="stable").tolist():
        open_ranks = [rank for rank in range(part.size) if not part.even or counts[rank] < most]
        rank = min(open_ranks, key=lambda rank: (loads[rank], rank))
        loads[rank] += int(costs_M[number])
        counts[rank] += 1
        if rank == part.rank:
            mine.append(number)
    return sorted(mine)


def leaves(count: int) -> list[int]:
    """Positions of micro-batches among `leaf_count(count)` leaves of a binary tree, spread evenly over it."""
    total = leaf_count(count)
    return [number * total // count for number in range(count)]


def leaf_count(count: int) -> int:
    """Leaves of the tree: the smallest power of two that is not below `count`."""
    return 1 << max(0, count - 1).bit_length()


def block_of(leaf: int, count: int, part: Part) -> bool:
    """Whether a leaf is in the aligned block of a part; with more ranks than leaves some blocks are empty.

    Args:
        leaf: number of a micro-batch, from 0.
        count: micro-batches of the batch.
        part: this rank among those that divide them.
    """
    total = leaf_count(count)
    if part.size <= total:
        return leaf // (total // part.size) == part.rank
    return leaf * (part.size // total) == part.rank

"""How long the samples are: what the planner and the report know about them."""

from __future__ import annotations

import numpy as np

from bigbatch.data.order import epoch_order
from bigbatch.data.packs import cut
from bigbatch.facts import LengthFacts
from bigbatch.plan.graph import Padding
from bigbatch.samples import Table

_RANDOM_BATCH = 32
"""Samples per batch in `padding_share_random`: the usual default elsewhere."""


def length_facts(table: Table, drawn_N: np.ndarray | None = None) -> LengthFacts:
    """Counts, percentiles and the padding that random batches of 32 would compute.

    Args:
        table: the training split.
        drawn_N: (N,) rows that stand for all, where some are drawn more often than others; None: each counts once.
    """
    lengths_B = table.lengths_B if drawn_N is None else table.lengths_B[drawn_N]
    points = np.percentile(lengths_B, [10, 50, 90, 99]) if len(lengths_B) else np.zeros(4)
    return LengthFacts(
        samples=len(lengths_B),
        tokens=int(lengths_B.sum()),
        longest=int(table.lengths_B.max(initial=0)),
        percentiles={
            name: float(value) for name, value in zip(("p10", "p50", "p90", "p99"), points, strict=True)
        },
        truncated_samples=table.truncated_samples,
        padding_share_random=padding_share(lengths_B[epoch_order(0, 0, len(lengths_B))], _RANDOM_BATCH),
    )


def padding_share(lengths_B: np.ndarray, batch_samples: int) -> float:
    """1 - real / computed tokens when consecutive samples are padded to the longest of their batch."""
    if not len(lengths_B):
        return 0.0
    starts = np.arange(0, len(lengths_B), batch_samples)
    longest = np.maximum.reduceat(lengths_B, starts)
    counts = np.diff(np.append(starts, len(lengths_B)))
    computed = int((longest * counts).sum())
    return 1 - int(lengths_B.sum()) / computed if computed else 0.0


def padding_by_way(lengths_B: np.ndarray, micro_tokens: int) -> Padding:
    """What each way of cutting one global batch computes in vain.

    Args:
        lengths_B: (B,) tokens of the batch's samples, in stream order.
        micro_tokens: budget of a micro-batch, padding included.
    """
    ordered_B = np.sort(lengths_B)
    pieces = cut(lengths_B, micro_tokens, "padded")
    computed = sum(len(piece) * int(lengths_B[piece].max()) for piece in pieces)
    real = int(lengths_B.sum())
    return Padding(
        samples=len(lengths_B),
        real_tokens=real,
        random_32=padding_share(lengths_B, _RANDOM_BATCH),
        sorted_32=padding_share(ordered_B, _RANDOM_BATCH),
        sorted_budget=1 - real / computed if computed else 0.0,
    )

"""FlexAttention's mask over a pack, from where samples begin: blocks of 128 x 128 pairs, without looking at pairs.

A query sees one run of keys: of its own sample, up to itself when causal, not further than the window. So a block is
computed where it meets a run of one of its queries, and needs no mask where all of its queries see all of its keys.
Of a pattern it sees several runs, and every block asks pair by pair; further tokens of `strided` and `fixed` lie in
nearly every block, so that there only `chunked` saves time.

Shapes: Q queries, T packed tokens, N blocks of queries, M blocks of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigbatch.model.layout import Attention, LastBlock, Layout, to_device
from bigbatch.model.patterns import Pattern

BLOCK = 128
"""Queries, and keys, of a block: FlexAttention's own."""


def block_mask(asked: Attention, device: torch.device) -> Any:
    """The mask of a micro-batch, made for the first layer that asks and kept for the others.

    Args:
        asked: by the layer.
        device: where attention is computed.
    """
    layout = asked.layout
    last = layout.last if asked.reads_only else None
    pattern = None if asked.pattern is None or asked.pattern.is_window else asked.pattern
    key = ("flex", last is not None, asked.window, asked.causal, pattern)
    if key not in layout.masks:
        layout.masks[key] = _made(layout, last, asked.window, asked.causal, pattern, device)
    return layout.masks[key]


def _made(
    layout: Layout,
    last: LastBlock | None,
    window: int | None,
    causal: bool,
    pattern: Pattern | None,
    device: torch.device,
) -> Any:
    from torch.nn.attention.flex_attention import BlockMask

    tokens = int(layout.cumulative_B1[-1])
    at_Q = np.arange(tokens) if last is None else last.at_R
    if pattern is None:
        partial_NM, full_NM = blocks(*runs(layout.cumulative_B1, at_Q, window, causal), tokens)
    else:
        found = pattern_runs(layout.cumulative_B1, at_Q, pattern, causal)
        partial_NM = np.logical_or.reduce([np.logical_or(*blocks(*run, tokens)) for run in found])
        full_NM = np.zeros_like(partial_NM)
    return BlockMask.from_kv_blocks(
        *_ordered(partial_NM, device),
        *_ordered(full_NM, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=_seen(layout, None if last is None else last.rows_R, window, causal, pattern),
        seq_lengths=(len(at_Q), tokens),
    )


def _seen(
    layout: Layout, rows_R: Tensor | None, window: int | None, causal: bool, pattern: Pattern | None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Whether a query sees a key: what the kernel asks inside of blocks that are not full."""
    sample_T = layout.sample_of_token()
    starts_B1 = layout.starts()

    def seen(_batch: Tensor, _head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        at = query_at if rows_R is None else rows_R[query_at]
        same = sample_T[at] == sample_T[key_at]
        if causal:
            same = same & (key_at <= at)
        if pattern is not None:
            start = starts_B1[sample_T[at]]
            return same & pattern.seen(at - start, key_at - start)
        return same if window is None else same & ((at - key_at).abs() < window)

    return seen


def runs(
    cumulative_B1: np.ndarray, at_Q: np.ndarray, window: int | None, causal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(first key, end of keys) that each query sees, (Q,) each.

    Args:
        cumulative_B1: where samples begin, and where the last ends.
        at_Q: positions of the queries in the pack.
        window: as in `block_mask`.
        causal: as in `block_mask`.
    """
    sample_Q = np.searchsorted(cumulative_B1, at_Q, side="right") - 1
    first_Q, end_Q = cumulative_B1[sample_Q], cumulative_B1[sample_Q + 1]
    if window is not None:
        first_Q, end_Q = np.maximum(first_Q, at_Q - window + 1), np.minimum(end_Q, at_Q + window)
    return first_Q, np.minimum(end_Q, at_Q + 1) if causal else end_Q


def pattern_runs(
    cumulative_B1: np.ndarray, at_Q: np.ndarray, pattern: Pattern, causal: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs of keys that hold all that each query sees, as of `runs`; empty ones end where they begin.

    Args:
        cumulative_B1: where samples begin, and where the last ends.
        at_Q: positions of the queries in the pack.
        pattern: of their samples.
        causal: as in `block_mask`.
    """
    whole = runs(cumulative_B1, at_Q, None, causal)
    if pattern.stride or pattern.summary:
        return [whole]
    start_Q, end_Q = whole
    if pattern.block:
        own_Q = start_Q + (at_Q - start_Q) // pattern.block * pattern.block
        near = own_Q, np.minimum(end_Q, own_Q + pattern.block)
    else:
        near = runs(cumulative_B1, at_Q, pattern.window, causal)
    columns = start_Q, np.minimum(end_Q, start_Q + pattern.first)
    is_row_Q = at_Q - start_Q < pattern.first
    rows = start_Q, np.where(is_row_Q, end_Q, start_Q)
    return [near, columns, rows] if pattern.first else [near]


def blocks(first_Q: np.ndarray, end_Q: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) bool each: blocks of which some pairs are seen, and those of which all are.

    Args:
        first_Q: first key of each query.
        end_Q: end of its keys.
        tokens: all keys.
    """
    queries = len(first_Q)
    shape = -(-queries // BLOCK), -(-tokens // BLOCK)
    row_Q = np.arange(queries) // BLOCK
    # Each run opens at its first block and closes behind its last one.
    steps_NM = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(steps_NM, (row_Q, first_Q // BLOCK), 1)
    np.add.at(steps_NM, (row_Q, (end_Q - 1) // BLOCK + 1), -1)
    some_NM = steps_NM.cumsum(1)[:, :-1] > 0
    starts_N = np.arange(0, queries, BLOCK)
    begin_M = np.arange(shape[1]) * BLOCK
    all_NM = np.maximum.reduceat(first_Q, starts_N)[:, None] <= begin_M
    all_NM &= np.minimum.reduceat(end_Q, starts_N)[:, None] >= begin_M + BLOCK
    if queries % BLOCK:
        all_NM[-1] = False  # the last block has empty places
    return some_NM & ~all_NM, all_NM


def _ordered(dense_NM: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 1, N) how many blocks of each row, (1, 1, N, M) their numbers first."""
    order_NM = np.argsort(~dense_NM, axis=1, kind="stable").astype(np.int32)
    counts_N = dense_NM.sum(1).astype(np.int32)
    return to_device(counts_N, device)[None, None], to_device(order_NM, device)[None, None]

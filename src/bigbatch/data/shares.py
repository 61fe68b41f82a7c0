"""Which samples of a global batch each replica trains on, when replicas train apart.

Dealt like cards by stream position: the shares of a batch differ by at most one sample, and over the run every replica
gets as many as any other. Arithmetic alone, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from bigbatch.data.packs import micro_batches
from bigbatch.data.ragged import all_targets, flat_indexes, targets_of
from bigbatch.records import GlobalBatch, MicroBatch, Packing, TokenTable

STRIDE = 2**20
"""Micro-batches of replica m are numbered from m * STRIDE, so that each has dropout masks of its own."""


def share_of(batch: GlobalBatch, table: TokenTable, replica: int, replicas: int) -> GlobalBatch:
    """The samples of one replica, in stream order; `first_position` stays the whole batch's.

    Args:
        batch: all samples of the update.
        table: the split that its row numbers belong to.
        replica: whose, from 0.
        replicas: of how many.
    """
    if replicas == 1:
        return batch
    places_B = batch.first_position + np.arange(batch.samples, dtype=np.int64)
    return chosen_of(batch, table, np.flatnonzero(places_B % replicas == replica))


def chosen_of(batch: GlobalBatch, table: TokenTable, chosen: np.ndarray) -> GlobalBatch:
    """Some samples of a batch, by their places in it, in this order; `first_position` stays the whole batch's.

    Args:
        batch: a global batch of B samples.
        table: that it was drawn from.
        chosen: (b,) places in the batch, from 0.
    """
    ids_B = batch.sample_ids_B[chosen]
    view = None if batch.view is None else rows_of(batch.view, chosen)
    return replace(
        batch,
        sample_ids_B=ids_B,
        lengths_B=batch.lengths_B[chosen],
        targets=targets_of(table, ids_B) if view is None else all_targets(view),
        view=view,
    )


def micro_batches_apart(
    batch: GlobalBatch,
    table: TokenTable,
    held: Iterable[int],
    replicas: int,
    *,
    micro_tokens: int,
    packing: Packing,
) -> Iterator[MicroBatch]:
    """The micro-batches of some replicas, one replica behind the other. Cut the same wherever a replica is computed.

    Args:
        batch: all samples of the update.
        table: the split that its row numbers belong to.
        held: the replicas.
        replicas: how many there are.
        micro_tokens: upper bound of computed tokens.
        packing: `packed` or `padded`.
    """
    for replica in held:
        share = share_of(batch, table, replica, replicas)
        for piece in micro_batches(share, table, micro_tokens=micro_tokens, packing=packing):
            yield replace(piece, index=replica * STRIDE + piece.index)


def replica_of(micro_batch: MicroBatch) -> int:
    """Whose it is."""
    return micro_batch.index // STRIDE


def rows_of(table: TokenTable, rows_B: np.ndarray) -> TokenTable:
    """A table of these rows alone."""
    tokens_T, lengths_B = flat_indexes(table.token_offsets, rows_B)
    units_U, counts_B = flat_indexes(table.unit_offsets, rows_B)
    return TokenTable(
        ids=table.ids[tokens_T],
        token_offsets=_offsets(lengths_B),
        segments=None if table.segments is None else table.segments[tokens_T],
        reads=table.reads[units_U],
        unit_offsets=_offsets(counts_B),
        values=table.values[units_U],
        weights=table.weights[units_U],
        extras={name: values[units_U] for name, values in table.extras.items()},
    )


def _offsets(lengths_B: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_B, dtype=np.int64)])

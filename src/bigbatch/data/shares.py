"""Which samples of a global batch each replica trains on, when replicas train apart.

Dealt like cards by stream position: the shares of a batch differ by at most one sample, and over the run every replica
gets as many as any other. Arithmetic alone, the same on every rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from bigbatch.data.packs import micro_batches
from bigbatch.samples import GlobalBatch, MicroBatch, Packing

STRIDE = 2**20
"""Micro-batches of replica m are numbered from m * STRIDE, so that each has dropout masks of its own."""


def share_of(batch: GlobalBatch, replica: int, replicas: int) -> GlobalBatch:
    """The samples of one replica, in stream order; `first_position` stays the whole batch's.

    Args:
        batch: all samples of the update.
        replica: whose, from 0.
        replicas: of how many.
    """
    if replicas == 1:
        return batch
    places_B = batch.first_position + np.arange(batch.samples, dtype=np.int64)
    return chosen_of(batch, np.flatnonzero(places_B % replicas == replica))


def chosen_of(batch: GlobalBatch, chosen: np.ndarray) -> GlobalBatch:
    """Some rows of a batch, by their places in it, in this order; `first_position` stays the whole batch's.

    Args:
        batch: a global batch of B rows.
        chosen: (b,) places in the batch, from 0; ascending where a row has several samples.
    """
    table, groups = batch.table, batch.table.groups
    if groups is None:
        table = table.take(chosen)
    else:  # a row's samples are numbered by its place
        places = np.flatnonzero(np.isin(groups, chosen))
        table = replace(table.take(places), groups=np.searchsorted(chosen, groups[places]))
    return replace(
        batch,
        sample_ids_B=batch.sample_ids_B[chosen],
        lengths_B=batch.lengths_B[chosen],
        table=table,
        targets=table.targets,
    )


def micro_batches_apart(
    batch: GlobalBatch,
    held: Iterable[int],
    replicas: int,
    *,
    micro_tokens: int,
    packing: Packing,
) -> Iterator[MicroBatch]:
    """The micro-batches of some replicas, one replica behind the other. Cut the same wherever a replica is computed.

    Args:
        batch: all samples of the update.
        held: the replicas.
        replicas: how many there are.
        micro_tokens: upper bound of computed tokens.
        packing: `packed` or `padded`.
    """
    for replica in held:
        share = share_of(batch, replica, replicas)
        for piece in micro_batches(share, micro_tokens=micro_tokens, packing=packing):
            yield replace(piece, index=replica * STRIDE + piece.index)


def replica_of(micro_batch: MicroBatch) -> int:
    """Whose it is."""
    return micro_batch.index // STRIDE

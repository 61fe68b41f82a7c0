"""Micro-batches: how a global batch is cut for the machine. Changes nothing but rounding.

Samples inside a global batch are sorted by length and cut so that the computed tokens of each micro-batch,
padding included, stay within a budget. Cuts depend on lengths and budget alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bigbatch.data.deal import block_of, dealt, leaves
from bigbatch.data.ragged import flat_indexes, starts_of, targets_of
from bigbatch.places import ALL, Part
from bigbatch.records import GlobalBatch, MicroBatch, Packing, Targets, TokenTable

ALIGNED = 8
"""Aligned micro-batches come in multiples of this, so that up to so many ranks have equally many."""


def cut(lengths_B: np.ndarray, micro_tokens: int, packing: Packing, multiple_of: int = 1) -> list[np.ndarray]:
    """Divide samples into micro-batches of similar length.

    In order of length (equal ones in order of position), as many as fit; then the budget is lowered as far as the
    number of micro-batches stays the same, so that none is much smaller than the others.

    Args:
        lengths_B: (B,) tokens of each sample.
        micro_tokens: upper bound of computed tokens: the sum of lengths when packed, count times longest
            when padded. A longer sample is alone.
        packing: `packed` or `padded`.
        multiple_of: their number is raised to a multiple of this where there are samples enough, so that so many
            ranks get equally many.

    Returns:
        Index arrays (int64) into `lengths_B`; each sample is in exactly one.
    """
    order_B = np.argsort(lengths_B, kind="stable").astype(np.int64)
    sorted_B = np.asarray(lengths_B, np.int64)[order_B]
    ends = _ends(sorted_B, micro_tokens, packing) or []
    most = -(-len(ends) // multiple_of) * multiple_of
    low, high = 1, micro_tokens
    # The fewest micro-batches never rise with the budget, so bisection finds the lowest one.
    while low < high:
        middle = (low + high) // 2
        tighter = _ends(sorted_B, middle, packing, at_most=most)
        if tighter is None:
            low = middle + 1
        else:
            high, ends = middle, tighter
    return np.split(order_B, ends[:-1]) if ends else []


def _ends(
    sorted_B: np.ndarray, budget: int, packing: Packing, at_most: int | None = None
) -> list[int] | None:
    """End of each micro-batch in the sorted lengths; None when more than `at_most` are needed."""
    ends: list[int] = []
    sums_B = np.cumsum(sorted_B)
    start = 0
    while start < len(sorted_B):
        if at_most is not None and len(ends) == at_most:
            return None
        if packing == "packed":
            before = int(sums_B[start - 1]) if start else 0
            end = int(np.searchsorted(sums_B, before + budget, side="right"))
        else:
            most = budget // max(1, int(sorted_B[start]))
            window = sorted_B[start : start + most]
            end = start + int(np.searchsorted(np.arange(1, len(window) + 1) * window, budget, side="right"))
        start = max(end, start + 1)
        ends.append(start)
    return ends


def micro_batches(
    batch: GlobalBatch | np.ndarray,
    table: TokenTable,
    *,
    micro_tokens: int,
    packing: Packing,
    unit_weights: Callable[[Targets], Targets] | None = None,
    part: Part = ALL,
) -> Iterator[MicroBatch]:
    """The micro-batches of a global batch (or of any row numbers), numbered from 0; one rank's part of them.

    With `part.even` each part has equally many: fillers, whose units weigh nothing, stand where samples ran out.

    Args:
        batch: a global batch, or (B,) row numbers of `table`.
        table: the tokenised split that the rows belong to.
        micro_tokens: upper bound of computed tokens.
        packing: `packed` or `padded`.
        unit_weights: multiplies further weights into the targets (`Task.prepare`).
        part: which of them; they are cut the same for every rank.
    """
    ids_B = batch.sample_ids_B if isinstance(batch, GlobalBatch) else np.asarray(batch, np.int64)
    view = batch.view if isinstance(batch, GlobalBatch) else None
    # A view may hold several texts of a row: they are cut on their own.
    texts = None if view is None or len(view) == len(ids_B) else view
    lengths_B = (
        texts.lengths_B if texts is not None else table.token_offsets[ids_B + 1] - table.token_offsets[ids_B]
    )
    pieces = cut(lengths_B, micro_tokens, packing, ALIGNED if part.aligned else part.size)

    def piece(index: int, chosen: np.ndarray) -> MicroBatch:
        if view is None:
            return gather(table, ids_B[chosen], index, micro_tokens, packing, unit_weights)
        seen = gather(view, chosen, index, micro_tokens, packing, unit_weights)
        return seen if texts is not None else replace(seen, sample_ids_B=ids_B[chosen])

    if part.aligned:
        own = [
            (leaf, chosen)
            for leaf, chosen in zip(leaves(len(pieces)), pieces, strict=True)
            if block_of(leaf, len(pieces), part)
        ]
        for leaf, chosen in own:
            yield replace(piece(leaf, chosen), last=leaf == own[-1][0])
        return
    mine = dealt(computed_tokens(lengths_B, pieces, packing), part)
    idle = -(-len(pieces) // part.size) - len(mine) if part.even else 0
    for index in mine:
        yield replace(piece(index, pieces[index]), last=index == mine[-1] and not idle)
    shortest = np.argsort(lengths_B, kind="stable")[:1]
    for number in range(idle):
        yield replace(filler(piece(len(pieces) + number, shortest)), last=number == idle - 1)


def computed_tokens(lengths_B: np.ndarray, pieces: Sequence[np.ndarray], packing: Packing) -> np.ndarray:
    """Tokens that run through the model for each micro-batch (M,) int64, padding included.

    Args:
        lengths_B: (B,) tokens of each sample.
        pieces: of each micro-batch, the places of its samples in the batch.
        packing: `packed` or `padded`: samples count as long as their longest.
    """
    if packing == "packed":
        return np.array([lengths_B[chosen].sum() for chosen in pieces], np.int64)
    return np.array([len(chosen) * lengths_B[chosen].max(initial=0) for chosen in pieces], np.int64)


def filler(micro_batch: MicroBatch) -> MicroBatch:
    """The same work without weight: a rank that has nothing to do computes it, and nothing changes."""
    targets = micro_batch.targets
    return replace(
        micro_batch,
        sample_ids_B=np.full_like(micro_batch.sample_ids_B, -1),
        targets=replace(targets, weights=np.zeros_like(targets.weights)),
    )


def gather(
    table: TokenTable,
    ids_B: np.ndarray,
    index: int,
    micro_tokens: int,
    packing: Packing,
    unit_weights: Callable[[Targets], Targets] | None = None,
) -> MicroBatch:
    """One micro-batch of exactly these rows, in this order.

    Where none of them has a unit, one of weight 0 that reads the first token stands in: heads, losses and the
    collectives of divided models always have something to work on, and nothing changes.

    Args:
        table: of tokens and units.
        ids_B: (B,) row numbers of the table.
        index: number of the micro-batch in its pass: dropout masks follow from it.
        micro_tokens: the capacity that is asked for; a longer sample is alone.
        packing: how tokens will be laid out.
        unit_weights: multiplies what a task found in training into the weights.
    """
    tokens_T, lengths_B = flat_indexes(table.token_offsets, ids_B)
    units_U, units_per_sample_B = flat_indexes(table.unit_offsets, ids_B)
    targets = targets_of(table, ids_B)
    reads_U = table.reads[units_U].astype(np.int64) + np.repeat(starts_of(lengths_B), units_per_sample_B)
    unit_sample_U = np.repeat(np.arange(len(ids_B), dtype=np.int64), units_per_sample_B)
    if not len(units_U):
        targets, reads_U, unit_sample_U = _stand_in(targets), np.zeros(1, np.int64), np.zeros(1, np.int64)
    return MicroBatch(
        index=index,
        sample_ids_B=ids_B,
        ids_T=table.ids[tokens_T].astype(np.int64),
        lengths_B=lengths_B,
        segments_T=None if table.segments is None else table.segments[tokens_T].astype(np.int64),
        reads_U=reads_U,
        unit_sample_U=unit_sample_U,
        targets=targets if unit_weights is None else unit_weights(targets),
        packing=packing,
        capacity_tokens=micro_tokens,
    )


def _stand_in(targets: Targets) -> Targets:
    """One unit of value 0 and weight 0, shaped as the (no) units that are there."""
    return targets.map(lambda values_U: np.zeros((1, *values_U.shape[1:]), values_U.dtype))


def evaluation_batches(
    table: TokenTable, *, micro_tokens: int, packing: Packing, window: int = 4096, part: Part = ALL
) -> Iterator[MicroBatch]:
    """Every row once, sorted by length within windows of rows; numbered from 0 over the whole pass.

    Parts take them in turn. They are cut the same for any number of ranks, so that outputs have the same bits.

    Args:
        table: of one split.
        micro_tokens: computed tokens of a micro-batch, padding included.
        packing: how tokens are laid out.
        window: rows that are sorted at once, so that memory stays bounded.
        part: which of the micro-batches this rank computes.
    """
    index = 0
    for first in range(0, len(table), window):
        rows_B = np.arange(first, min(first + window, len(table)), dtype=np.int64)
        for chosen in cut(
            table.token_offsets[rows_B + 1] - table.token_offsets[rows_B], micro_tokens, packing
        ):
            if index % part.size == part.rank:
                yield gather(table, rows_B[chosen], index, micro_tokens, packing)
            index += 1
    if part.even and index % part.size and part.rank >= index % part.size:
        shortest = np.argsort(table.lengths_B, kind="stable")[:1]
        yield filler(gather(table, shortest, index, micro_tokens, packing))

"""Micro-batches: how a global batch is cut for the machine. Changes nothing but rounding.

Samples inside a global batch are sorted by length and cut so that the computed tokens of each micro-batch,
padding included, stay within a budget. Cuts depend on lengths and budget alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bigbatch.data.deal import block_of, dealt, leaves
from bigbatch.places import ALL, Part
from bigbatch.samples import UNITS, GlobalBatch, MicroBatch, Packing, Stream, Table, flat_indexes

ALIGNED = 8
"""Aligned micro-batches come in multiples of this, so that up to so many ranks have equally many."""


def cut(
    lengths: np.ndarray,
    micro_tokens: int,
    packing: Packing,
    multiple_of: int = 1,
    groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Divide samples into micro-batches of similar length.

    In order of length (equal ones in order of position), as many as fit; then the budget is lowered as far as the
    number of micro-batches stays the same, so that none is much smaller than the others.

    Args:
        lengths: (B,) tokens of each sample; (B, S) where samples have several streams, each padded for itself.
        micro_tokens: upper bound of computed tokens: the sum of lengths when packed, count times longest
            when padded. A longer sample is alone.
        packing: `packed` or `padded`.
        multiple_of: their number is raised to a multiple of this where there are samples enough, so that so many
            ranks get equally many.
        groups: (B,) equal numbers, side by side, are samples that stay together; None: each is alone.

    Returns:
        Index arrays (int64) into `lengths`; each sample is in exactly one.
    """
    lengths = np.asarray(lengths, np.int64)
    items = _items(lengths if lengths.ndim == 2 else lengths[:, None], groups)
    order_B = np.argsort(items.longest.sum(1), kind="stable").astype(np.int64)
    sorted_items = items.take(order_B)
    ends = _ends(sorted_items, micro_tokens, packing) or []
    most = -(-len(ends) // multiple_of) * multiple_of
    low, high = 1, micro_tokens
    # The fewest micro-batches never rise with the budget, so bisection finds the lowest one.
    while low < high:
        middle = (low + high) // 2
        tighter = _ends(sorted_items, middle, packing, at_most=most)
        if tighter is None:
            low = middle + 1
        else:
            high, ends = middle, tighter
    found = np.split(order_B, ends[:-1]) if ends else []
    return found if groups is None else [flat_indexes(items.offsets, chosen)[0] for chosen in found]


@dataclass(frozen=True, eq=False)
class _Items:
    """What is cut: samples, or groups of them. Shapes: B items, S streams."""

    total: np.ndarray
    """(B,) tokens."""
    longest: np.ndarray
    """(B, S) of the longest sample in each stream."""
    samples: np.ndarray
    """(B,) how many samples an item has."""
    offsets: np.ndarray
    """(B + 1,) its samples' places."""

    def take(self, order_B: np.ndarray) -> _Items:
        return _Items(self.total[order_B], self.longest[order_B], self.samples[order_B], self.offsets)


def _items(lengths_BS: np.ndarray, groups: np.ndarray | None) -> _Items:
    if groups is None or not len(lengths_BS):
        count = len(lengths_BS)
        return _Items(lengths_BS.sum(1), lengths_BS, np.ones(count, np.int64), np.arange(count + 1))
    first = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(np.diff(groups)) + 1])
    return _Items(
        np.add.reduceat(lengths_BS.sum(1), first),
        np.maximum.reduceat(lengths_BS, first),
        np.diff(first, append=len(groups)),
        np.append(first, len(groups)),
    )


def _ends(items: _Items, budget: int, packing: Packing, at_most: int | None = None) -> list[int] | None:
    """End of each micro-batch in the sorted items; None when more than `at_most` are needed."""
    ends: list[int] = []
    sums_B = np.cumsum(items.total)
    start, count = 0, len(items.total)
    while start < count:
        if at_most is not None and len(ends) == at_most:
            return None
        if packing == "packed":
            before = int(sums_B[start - 1]) if start else 0
            end = int(np.searchsorted(sums_B, before + budget, side="right"))
        else:
            most = budget // max(1, int(items.longest[start].sum()))
            window = slice(start, start + most)
            # Each stream is padded to its longest so far; the number of samples and these only grow.
            widths = np.maximum.accumulate(items.longest[window], axis=0).sum(1)
            end = start + int(
                np.searchsorted(np.cumsum(items.samples[window]) * widths, budget, side="right")
            )
        start = max(end, start + 1)
        ends.append(start)
    return ends


def cut_table(table: Table, micro_tokens: int, packing: Packing, part: Part = ALL) -> list[np.ndarray]:
    """The samples of a table, cut the same for every rank (`cut`); groups stay together.

    Args:
        table: taken or gathered.
        micro_tokens: upper bound of computed tokens.
        packing: `packed` or `padded`.
        part: of how many parts one rank's is, whichever it is.
    """
    multiple_of = ALIGNED if part.aligned else part.size
    return cut(table.lengths_BS, micro_tokens, packing, multiple_of, _bound(table))


def _bound(table: Table) -> np.ndarray | None:
    """Groups that no cut may tear (N,) int64; None: each sample is alone."""
    return table.groups if table.together else None


def micro_batches(
    batch: GlobalBatch,
    *,
    micro_tokens: int,
    packing: Packing,
    part: Part = ALL,
) -> Iterator[MicroBatch]:
    """The micro-batches of a global batch, numbered from 0; one rank's part of them.

    With `part.even` each part has equally many: fillers, whose units weigh nothing, stand where samples ran out.

    Args:
        batch: its table is cut; samples are gathered one micro-batch at a time.
        micro_tokens: upper bound of computed tokens.
        packing: `packed` or `padded`.
        part: which of them; they are cut the same for every rank.
    """
    table = batch.table
    # A view may hold several texts of a row: they are numbered by their own places.
    ids_B = batch.sample_ids_B if len(table) == batch.samples else np.arange(len(table), dtype=np.int64)
    pieces = cut_table(table, micro_tokens, packing, part)

    def piece(index: int, chosen: np.ndarray) -> MicroBatch:
        return gather(table, chosen, index, micro_tokens, packing, ids_B[chosen])

    if part.aligned:
        own = [
            (leaf, chosen)
            for leaf, chosen in zip(leaves(len(pieces)), pieces, strict=True)
            if block_of(leaf, len(pieces), part)
        ]
        for leaf, chosen in own:
            yield replace(piece(leaf, chosen), last=leaf == own[-1][0])
        return
    lengths_BS = table.lengths_BS
    mine = dealt(computed_tokens(lengths_BS, pieces, packing), part)
    idle = -(-len(pieces) // part.size) - len(mine) if part.even else 0
    for index in mine:
        yield replace(piece(index, pieces[index]), last=index == mine[-1] and not idle)
    for number in range(idle):
        yield replace(filler(piece(len(pieces) + number, _shortest(table))), last=number == idle - 1)


def _shortest(table: Table) -> np.ndarray:
    """Places of the shortest sample, with those that stay together with it; none of a table without samples."""
    shortest = np.argsort(table.lengths_B, kind="stable")[:1]
    groups = _bound(table)
    return shortest if groups is None else np.flatnonzero(np.isin(groups, groups[shortest]))


def computed_tokens(lengths: np.ndarray, pieces: Sequence[np.ndarray], packing: Packing) -> np.ndarray:
    """Tokens that run through the model for each micro-batch (M,) int64, padding included.

    Args:
        lengths: (B,) or (B, S) tokens of each sample, as of `cut`.
        pieces: of each micro-batch, the places of its samples in the batch.
        packing: `packed` or `padded`: samples count as long as their longest.
    """
    if packing == "packed":
        return np.array([lengths[chosen].sum() for chosen in pieces], np.int64)
    return np.array(
        [len(chosen) * lengths[chosen].max(axis=0, initial=0).sum() for chosen in pieces], np.int64
    )


def filler(micro_batch: MicroBatch) -> MicroBatch:
    """The same work without weight: a rank that has nothing to do computes it, and nothing changes."""
    targets = micro_batch.targets
    return replace(
        micro_batch,
        sample_ids_B=np.full_like(micro_batch.sample_ids_B, -1),
        targets=replace(targets, weights=np.zeros_like(targets.weights)),
    )


def gather(
    table: Table,
    chosen: np.ndarray,
    index: int,
    micro_tokens: int,
    packing: Packing,
    ids_B: np.ndarray | None = None,
) -> MicroBatch:
    """One micro-batch of exactly these samples, in this order.

    Where none of them has a unit, one of weight 0 that reads the first token stands in: heads, losses and the
    collectives of divided models always have something to work on, and nothing changes.

    Args:
        table: of the samples.
        chosen: (B,) their places in it.
        index: number of the micro-batch in its pass: dropout masks follow from it.
        micro_tokens: the capacity that is asked for; a longer sample is alone.
        packing: how tokens will be laid out.
        ids_B: (B,) numbers of the samples; None: their places.
    """
    found = table.take(chosen).load()
    if not found.unit_offsets[-1]:
        found = _with_stand_in(found)
    return MicroBatch(
        index=index,
        sample_ids_B=chosen if ids_B is None else ids_B,
        table=found,
        targets=found.targets,
        packing=packing,
        capacity_tokens=micro_tokens,
    )


def _with_stand_in(table: Table) -> Table:
    """One unit of value 0 and weight 0 in the first sample, shaped as the (no) units that are there."""
    columns = {
        name: np.zeros((1, *column.shape[1:]), column.dtype) for name, column in table[UNITS].columns.items()
    }
    offsets = np.minimum(np.arange(len(table) + 1, dtype=np.int64), 1)
    return table.replaced(units=Stream(columns=columns, offsets=offsets))


def evaluation_batches(
    table: Table, *, micro_tokens: int, packing: Packing, window: int = 4096, part: Part = ALL
) -> Iterator[MicroBatch]:
    """Every sample once, sorted by length within windows of samples; numbered from 0 over the whole pass.

    Parts take them in turn. They are cut the same for any number of ranks, so that outputs have the same bits.

    Args:
        table: of one split.
        micro_tokens: computed tokens of a micro-batch, padding included.
        packing: how tokens are laid out.
        window: samples that are sorted at once, so that memory stays bounded; a few more where groups stay together.
        part: which of the micro-batches this rank computes.
    """
    index = first = 0
    while first < len(table):
        end = end_of_group(table, min(first + window, len(table)))
        rows_B = np.arange(first, end, dtype=np.int64)
        for chosen in cut_table(table.take(rows_B), micro_tokens, packing):
            if index % part.size == part.rank:
                yield gather(table, rows_B[chosen], index, micro_tokens, packing)
            index += 1
        first = end
    if part.even and index % part.size and part.rank >= index % part.size:
        yield filler(gather(table, _shortest(table), index, micro_tokens, packing))


def end_of_group(table: Table, end: int) -> int:
    """The next place from `end` on at which no group of a table is torn."""
    if table.groups is None:
        return end
    while end < len(table) and table.groups[end] == table.groups[end - 1]:
        end += 1
    return end

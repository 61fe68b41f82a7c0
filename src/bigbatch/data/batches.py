"""Global batches: which samples an update consumes. Arithmetic on the stream; no state but the position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bigbatch.data.mixture import MixedOrder
from bigbatch.data.order import SampleOrder
from bigbatch.data.shards import ShardOrder
from bigbatch.data.streamed import shelf_of
from bigbatch.protocols import View
from bigbatch.samples import TOKENS, UNITS, GlobalBatch, Table, offsets_of


def batch_of(
    table: Table, ids_B: np.ndarray, seen: Table | None = None, *, position: int = 0, update: int = 1
) -> GlobalBatch:
    """Some rows as a batch.

    Args:
        table: the tokenised split.
        ids_B: (B,) row numbers.
        seen: a view of these rows; None: as the table has them.
        position: samples of the stream consumed before it.
        update: 1-based number.
    """
    taken = table.take(ids_B)
    seen = taken if seen is None else seen
    return GlobalBatch(
        update=update,
        first_position=position,
        sample_ids_B=ids_B,
        lengths_B=taken.lengths_B,
        table=seen,
        targets=seen.targets,
    )


def beginnings(table: Table, most_tokens: int) -> Table:
    """The first tokens of each sample, with the units that are read there.

    Args:
        table: gathered, of tokens and units.
        most_tokens: of a sample.
    """
    tokens, units = table[TOKENS], table[UNITS]
    place_T = np.arange(len(table.ids)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
    place_U, kept_T = table.reads, place_T < most_tokens
    kept_U = place_U < most_tokens
    owner_U = np.repeat(np.arange(len(table)), units.lengths)
    return table.replaced(
        tokens=replace(
            tokens,
            columns={name: column[kept_T] for name, column in tokens.columns.items()},
            offsets=offsets_of(np.minimum(tokens.lengths, most_tokens)),
        ),
        units=replace(
            units,
            columns={name: column[kept_U] for name, column in units.columns.items()},
            offsets=offsets_of(np.bincount(owner_U[kept_U], minlength=len(table))),
        ),
    )


def _order_of(table: Table, seed: int, parts: Sequence[int]) -> SampleOrder | MixedOrder | ShardOrder:
    """All rows alike, or as their sources ask."""
    if not table.sources:
        return SampleOrder(len(table), seed)
    sizes = np.diff([*table.sources, len(table)]).tolist()
    return MixedOrder(sizes, parts, seed) if parts else ShardOrder(sizes, seed)


class Batches:
    """The global batches of a split, of a number of samples or of at most a number of tokens.

    Args:
        table: the tokenised training split.
        seed: `seed.data`.
        samples: samples per update, over all ranks; batches cross the end of an epoch.
        tokens: instead of `samples`: the longest prefix of the stream with at most this many tokens, but at
            least one sample.
        view: what an epoch sees of the table's rows; None: the rows themselves.
        parts: of each of the table's sources in the stream (`data.mixture.whole_parts`); empty: they are shards.
    """

    def __init__(
        self,
        table: Table,
        *,
        seed: int,
        samples: int | None = None,
        tokens: int | None = None,
        view: View | None = None,
        parts: Sequence[int] = (),
    ) -> None:
        assert (samples is None) != (tokens is None), "exactly one of samples and tokens"
        self.table = table
        self.samples = samples
        self.tokens = tokens
        self.seed = seed
        self._view = view
        self._parts = parts
        self._stream = _order_of(table, seed, parts)
        self._lengths = table.lengths_B

    def at(self, position: int, update: int, samples: int | None = None) -> GlobalBatch:
        """The batch that starts at this stream position (samples consumed so far), of another size where one is given.

        Its cost does not grow with `position`: at most two epoch orders are kept and none is replayed.

        Args:
            position: samples of the stream consumed before it.
            update: number of the update, from 1.
            samples: of this batch; None: the recipe's size.
        """
        ids_B = self._ids(position) if samples is None else self._stream.ids(position, samples)
        # A batch that crosses the end of an epoch is seen partly as the next one sees it.
        epochs_B = self._stream.epochs(position, len(ids_B))
        return self._batch(ids_B, epochs_B, position, update)

    def some(self, rows_B: np.ndarray) -> GlobalBatch:
        """Any rows, as the first epoch sees them: for trials before the run."""
        return self._batch(rows_B, np.zeros(len(rows_B), np.int64), 0, 1)

    def _batch(self, ids_B: np.ndarray, epochs_B: np.ndarray, position: int, update: int) -> GlobalBatch:
        seen = None if self._view is None else self._view(self.table, ids_B, epochs_B)
        return batch_of(self.table, ids_B, seen, position=position, update=update)

    def shards_at(self, position: int, samples: int | None = None) -> list[int]:
        """Shards of the batch that starts at this stream position.

        Args:
            position: samples of the stream consumed before it.
            samples: of this batch; None: the recipe's size.
        """
        ids_B = self._ids(position) if samples is None else self._stream.ids(position, samples)
        return np.unique(np.searchsorted(self.table.sources, ids_B, side="right") - 1).tolist()

    def shards_from(self, position: int) -> Iterator[int]:
        """Shards in the order in which the stream needs them from here on, without an end; for another thread."""
        assert self.table.sources and not self._parts
        return ShardOrder(np.diff([*self.table.sources, len(self.table)]).tolist(), self.seed).shards_from(
            position
        )

    @property
    def at_hand(self) -> np.ndarray:
        """Rows that can be looked at before the run: all, or of data that are streamed those that come first (n,)."""
        if shelf_of(self.table) is None:
            return np.arange(len(self.table))
        return np.sort(self._stream.ids(0, min(len(self.table), max(64, len(self._ids(0))))))

    def tokens_before(self, position: int) -> int:
        """Real tokens of all samples at earlier stream positions: the clock of language models."""
        return self._stream.sum_before(position, self._lengths)

    @property
    def first_epoch(self) -> np.ndarray:
        """Rows of the table in the order of the first positions, as many as it has (N,) int64."""
        return self._stream.ids(0, len(self.table))

    def twin(self) -> Batches:
        """The same batches with a cache of orders of its own: for another thread."""
        return self.over(self.table)

    def over(self, table: Table) -> Batches:
        """The same batches of a table with the same rows and further columns."""
        return Batches(
            table,
            seed=self.seed,
            samples=self.samples,
            tokens=self.tokens,
            view=self._view,
            parts=self._parts,
        )

    def next_position(self, position: int) -> int:
        """Where the batch after the one at `position` starts."""
        return position + (self.samples if self.samples is not None else len(self._ids(position)))

    def _ids(self, position: int) -> np.ndarray:
        if self.samples is not None:
            return self._stream.ids(position, self.samples)
        assert self.tokens is not None
        return self._prefix(position, self.tokens)

    def _prefix(self, position: int, budget_tokens: int) -> np.ndarray:
        """Longest stretch from `position` whose lengths sum to at most the budget; at least one sample."""
        step = max(64, 2 * budget_tokens * len(self.table) // max(1, int(self._lengths.sum())))
        parts: list[np.ndarray] = []
        taken, used_tokens = 0, 0
        while True:
            ids = self._stream.ids(position + taken, step)
            sums = used_tokens + np.cumsum(np.maximum(self._lengths[ids], 1))
            fit = int(np.searchsorted(sums, budget_tokens, side="right"))
            parts.append(ids[:fit])
            taken += fit
            if fit < step:
                break
            used_tokens = int(sums[-1])
        return np.concatenate(parts) if taken else self._stream.ids(position, 1)

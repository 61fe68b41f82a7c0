"""Global batches: which samples an update consumes. Arithmetic on the stream; no state but the position."""

from __future__ import annotations

import numpy as np

from bigbatch.data.order import Stream
from bigbatch.data.ragged import targets_of
from bigbatch.records import GlobalBatch, TokenTable


class Batches:
    """The global batches of a split, of a number of samples or of at most a number of tokens.

    Args:
        table: the tokenised training split.
        seed: `seed.data`.
        samples: samples per update, over all ranks; batches cross the end of an epoch.
        tokens: instead of `samples`: the longest prefix of the stream with at most this many tokens, but at
            least one sample.
    """

    def __init__(
        self, table: TokenTable, *, seed: int, samples: int | None = None, tokens: int | None = None
    ) -> None:
        assert (samples is None) != (tokens is None), "exactly one of samples and tokens"
        self.table = table
        self.samples = samples
        self.tokens = tokens
        self.seed = seed
        self._stream = Stream(len(table), seed)
        self._lengths = table.lengths_B

    def at(self, position: int, update: int) -> GlobalBatch:
        """The batch that starts at this stream position (samples consumed so far).

        Its cost does not grow with `position`: at most two epoch orders are kept and none is replayed.
        """
        ids_B = self._ids(position)
        return GlobalBatch(
            update=update,
            first_position=position,
            sample_ids_B=ids_B,
            lengths_B=self._lengths[ids_B],
            targets=targets_of(self.table, ids_B),
        )

    def twin(self) -> Batches:
        """The same batches with a cache of orders of its own: for another thread."""
        return Batches(self.table, seed=self.seed, samples=self.samples, tokens=self.tokens)

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
        step = max(64, 2 * budget_tokens * len(self.table) // max(1, int(self.table.token_offsets[-1])))
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

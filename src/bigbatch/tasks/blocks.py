"""The samples that a causal language model is trained in, cut out of tokenised documents.

    documents:  d0 d1 d2 d3 d4 d5 d6 | e0 e1        fixed (3):  d0 d1 d2 | d3 d4 d5 | d6 e0 e1
    pieces (4): d0 d1 d2 d3 | d3 d4 d5 d6 | e0 e1

Position i predicts token i + 1. Pieces of a document overlap by one token, so that each token but its first is
predicted exactly once. Blocks do not overlap: the first token of a block is not predicted.

Shapes: S samples, T tokens, U units (predicted tokens).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigbatch.data.ragged import starts_of
from bigbatch.errors import DataError
from bigbatch.records import TokenTable


def piece_bounds(table: TokenTable, most_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and end token of each piece of each document, and the document's number (S,) int64 each.

    Documents of one token predict nothing and have no piece.
    """
    starts_D, ends_D = table.token_offsets[:-1], table.token_offsets[1:]
    pieces_D = np.maximum(ends_D - starts_D - 1, 0) + most_tokens - 2
    pieces_D = pieces_D // (most_tokens - 1)  # ceil((length - 1) / (most_tokens - 1))
    owners_S = np.repeat(np.arange(len(table)), pieces_D)
    number_S = np.arange(len(owners_S)) - np.repeat(starts_of(pieces_D), pieces_D)
    firsts_S = starts_D[owners_S] + number_S * (most_tokens - 1)
    return firsts_S, np.minimum(firsts_S + most_tokens, ends_D[owners_S]), owners_S


def block_bounds(table: TokenTable, most_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """First and end token of each block of all documents joined (S,) int64 each; the last may be shorter."""
    total = int(table.token_offsets[-1])
    firsts_S = np.arange(0, total - 1, most_tokens, dtype=np.int64)
    return firsts_S, np.minimum(firsts_S + most_tokens, total)


def next_token_table(table: TokenTable, firsts_S: np.ndarray, ends_S: np.ndarray) -> TokenTable:
    """Stretches of a table's tokens as samples in which every token predicts the next.

    Args:
        table: documents; a unit a token, as `CausalLM.encode` gives them.
        firsts_S: first token of each sample, in the flat array.
        ends_S: end of each sample; at least two tokens after its first.

    Raises:
        DataError: there is no sample.
    """
    if not len(firsts_S):
        raise DataError("no document has two tokens: there is nothing to predict")
    lengths_S = ends_S - firsts_S
    # Stretches that lie one behind the other, from the first token to the last, need no copy.
    joined = bool((firsts_S[1:] == ends_S[:-1]).all()) and firsts_S[0] == 0 and ends_S[-1] == len(table.ids)
    tokens_T = slice(None) if joined else _stretches(firsts_S, lengths_S)
    targets_U = _stretches(firsts_S + 1, lengths_S - 1)
    reads_U = targets_U - 1 - np.repeat(firsts_S, lengths_S - 1)
    return replace(
        table,
        ids=table.ids[tokens_T],
        token_offsets=_offsets(lengths_S),
        segments=None if table.segments is None else table.segments[tokens_T],
        reads=reads_U.astype(np.int32),
        unit_offsets=_offsets(lengths_S - 1),
        values=table.ids[targets_U],
        weights=table.weights[targets_U],
        extras={name: values[targets_U] for name, values in table.extras.items()},
    )


def _stretches(firsts_S: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """first, first + 1, … of each stretch, one behind the other (sum of lengths,) int64."""
    return np.arange(int(lengths_S.sum())) + np.repeat(firsts_S - starts_of(lengths_S), lengths_S)


def _offsets(counts_S: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_S, dtype=np.int64)])

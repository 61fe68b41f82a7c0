"""How well queries find their documents in a corpus: exact ranks, counted block by block.

Shapes: N queries, M documents of the corpus, R relevant (query, document) pairs, D width of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK_SCORES = 8_000_000
"""Scores that exist at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """Where each query's relevant documents stand."""

    query_R: np.ndarray
    """(R,) int64 number of the query, ascending."""
    rank_R: np.ndarray
    """(R,) int64 from 1; among equal scores the document that comes first in the corpus is ahead."""
    queries: int


def ranks_of(query_ND: np.ndarray, document_MD: np.ndarray, relevant_R2: np.ndarray) -> Ranks:
    """Ranks by dot product, without ever holding all scores.

    Args:
        query_ND: embeddings of the queries.
        document_MD: embeddings of the corpus.
        relevant_R2: (R, 2) int64 pairs of query and document numbers, no pair twice.
    """
    pairs_R2 = relevant_R2[np.lexsort((relevant_R2[:, 1], relevant_R2[:, 0]))]
    rank_R = np.empty(len(pairs_R2), np.int64)
    rows = max(1, BLOCK_SCORES // max(1, len(document_MD)))
    for first in range(0, len(query_ND), rows):
        scores = query_ND[first : first + rows] @ document_MD.T
        begin, end = np.searchsorted(pairs_R2[:, 0], [first, first + rows])
        for place in range(begin, end):
            query, document = pairs_R2[place]
            own = scores[query - first]
            ahead = np.count_nonzero(own > own[document]) + np.count_nonzero(own[:document] == own[document])
            rank_R[place] = 1 + ahead
    return Ranks(query_R=pairs_R2[:, 0], rank_R=rank_R, queries=len(query_ND))


def recall(ranks: Ranks, depth: int) -> np.ndarray:
    """Share of a query's relevant documents among the first `depth` (N,)."""
    found_N = np.bincount(ranks.query_R, ranks.rank_R <= depth, ranks.queries)
    return found_N / np.bincount(ranks.query_R, minlength=ranks.queries)


def reciprocal_rank(ranks: Ranks, depth: int) -> np.ndarray:
    """1 / rank of the first relevant document, 0 behind `depth` (N,)."""
    best_N = np.full(ranks.queries, np.iinfo(np.int64).max)
    np.minimum.at(best_N, ranks.query_R, ranks.rank_R)
    return np.where(best_N <= depth, 1.0 / best_N, 0.0)


def ndcg(ranks: Ranks, depth: int) -> np.ndarray:
    """Normalised discounted cumulative gain of binary relevance, discount log2(rank + 1) (N,)."""
    gains_R = np.where(ranks.rank_R <= depth, 1.0 / np.log2(ranks.rank_R + 1.0), 0.0)
    gained_N = np.bincount(ranks.query_R, gains_R, ranks.queries)
    relevant_N = np.bincount(ranks.query_R, minlength=ranks.queries)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(1, depth + 1) + 1.0))])
    return gained_N / ideal[np.minimum(relevant_N, depth)]

"""The figures of matching by name: recall@k, mrr@k, ndcg@k of queries against all documents of a split.

`recall@10@64` is recall@10 of embeddings cut to their first 64 numbers.

The corpus is every distinct document and hard negative of the split; relevant is every document that the split names
for the same query. Means over queries; ranks are exact, counted block by block.

Shapes: N queries, M documents of the corpus, R relevant (query, document) pairs, D width of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigbatch.data.texts import DOCUMENT, HASH, OWNER, QUERY, ROLE
from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.states import joined
from bigbatch.metrics.sums import exact_parts, total
from bigbatch.protocols import Metric
from bigbatch.samples import Predictions, Targets

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


USUAL = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
_FIGURES: dict[str, Callable[[Ranks, int], np.ndarray]] = {
    "recall": recall,
    "mrr": reciprocal_rank,
    "ndcg": ndcg,
}
_NAME = re.compile(r"(recall|mrr|ndcg)@([1-9]\d{0,4})(?:@([1-9]\d{0,5}))?")
Chunks = tuple[tuple[Predictions, Targets], ...]


class Ranking:
    """Ranks of a split's queries; the metrics of one evaluation share the latest."""

    def __init__(self, dimension: int | None = None, *, cosine: bool = True) -> None:
        """Keep what embeddings are cut to (None: nothing), and whether they are of length 1 then."""
        self._dimension = dimension
        self._cosine = cosine
        self._of: Chunks = ()
        self._found: Ranks | None = None

    def __call__(self, chunks: Chunks) -> Ranks:
        """The ranks, computed once for the same chunks."""
        seen = [each for pair in self._of for each in pair]
        asked = [each for pair in chunks for each in pair]
        if (
            self._found is None
            or len(seen) != len(asked)
            or any(a is not b for a, b in zip(seen, asked, strict=True))
        ):
            predictions, targets = joined(chunks)
            found_KD = cut_embeddings(predictions.scores, self._dimension, cosine=self._cosine)
            self._found, self._of = _ranks(found_KD, targets), chunks
        return self._found


@dataclass(frozen=True, kw_only=True)
class RankMetric:
    """A figure of ranks; the state is the embeddings so far, in order."""

    name: str
    ranking: Ranking
    larger_is_better: bool = True
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> Chunks:
        """These texts."""
        return ((predictions, targets),)

    def merge(self, left: Chunks, right: Chunks) -> Chunks:
        """Both, in this order."""
        return left + right

    def value(self, state: Chunks) -> float:
        """Mean over queries."""
        values_N = self.per_query(state)
        return total(exact_parts(values_N)) / len(values_N) if len(values_N) else Undefined("no queries")

    def per_query(self, state: Chunks) -> np.ndarray:
        """The figure of each query (N,), in order of occurrence."""
        what, depth, *_ = self.name.split("@")
        return _FIGURES[what](self.ranking(state), int(depth))


def rank_metrics(
    names: Sequence[str | Metric], *, where: str = "recipe", cosine: bool = True
) -> tuple[Metric, ...]:
    """Metrics by name, those of the user's own as they are; they compute ranks together.

    Args:
        names: `recall@10`, or `recall@10@64` of embeddings cut to 64 numbers.
        where: the place that a message names.
        cosine: whether embeddings that were cut are brought to length 1 again.

    Raises:
        RecipeError: a name that is none.
    """
    rankings: dict[str, Ranking] = {}
    found: list[Metric] = []
    for name in names:
        if isinstance(name, str):
            check_rank_metric(name, where=where)
            _, _, cut = name.partition("@")[2].partition("@")
            ranking = rankings.setdefault(cut, Ranking(int(cut) if cut else None, cosine=cosine))
            found.append(RankMetric(name=name, ranking=ranking))
        else:
            found.append(name)
    return tuple(found)


def check_rank_metric(name: str, *, where: str = "recipe") -> None:
    """Refuse a name that is no figure of ranks.

    Raises:
        RecipeError: with the names there are.
    """
    if not _NAME.fullmatch(name):
        known = f"recall@k, mrr@k and ndcg@k, such as {USUAL[1]}; {USUAL[1]}@64 of 64 dimensions"
        what = f"unknown metric {name!r} for matching (known: {known})"
        raise RecipeError([Problem(where=where, key="metrics", what=what)])


def dimension_of(name: str) -> int | None:
    """What a figure's embeddings are cut to; None: nothing, or it is no figure of ranks."""
    found = _NAME.fullmatch(name)
    return int(found[3]) if found and found[3] else None


def cut_embeddings(found_KD: np.ndarray, dimension: int | None, *, cosine: bool) -> np.ndarray:
    """The first numbers of embeddings.

    Args:
        found_KD: (K, D).
        dimension: how many are kept; None: all, as they are.
        cosine: whether they are of length 1 then.
    """
    if dimension is None:
        return found_KD
    cut_KD = found_KD[:, :dimension]
    return cut_KD / np.maximum(np.linalg.norm(cut_KD, axis=-1, keepdims=True), 1e-12) if cosine else cut_KD


def _ranks(embeddings_KD: np.ndarray, targets: Targets) -> Ranks:
    values_K4 = np.asarray(targets.values)
    role_K, hash_K, owner_K = values_K4[:, ROLE], values_K4[:, HASH], values_K4[:, OWNER]
    asking_K, holding_K = np.flatnonzero(role_K == QUERY), np.flatnonzero(role_K != QUERY)
    query_first, query_number = _distinct(hash_K[asking_K])
    document_first, document_number = _distinct(hash_K[holding_K])
    number_of_row = np.full(int(owner_K.max(initial=-1)) + 1, -1)
    number_of_row[owner_K[asking_K]] = query_number
    right = role_K[holding_K] == DOCUMENT
    relevant_R2: Any = np.column_stack([number_of_row[owner_K[holding_K[right]]], document_number[right]])
    return ranks_of(
        embeddings_KD[asking_K[query_first]],
        embeddings_KD[holding_K[document_first]],
        np.unique(relevant_R2[relevant_R2[:, 0] >= 0], axis=0),
    )


def _distinct(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each distinct text occurs first, in order of occurrence, and the number of each text among these."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    return first[order], number[inverse]

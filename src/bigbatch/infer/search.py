"""The nearest of many embeddings, exactly: every product is taken, block by block; nothing is approximated.

Shapes: N queries, M texts of the corpus, D width of an embedding, R queries of a block, k nearest.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

BLOCK_SCORES = 8_000_000
"""Scores that exist at a time."""


def nearest(
    query_ND: np.ndarray, corpus_MD: np.ndarray, most: int, *, device: str = "cpu"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The largest dot products of each query, and which texts have them; among equal ones the earlier text is ahead.

    Args:
        query_ND: (N, D) float32.
        corpus_MD: (M, D) float32.
        most: k, at most M are given.
        device: where products are taken.

    Yields:
        For some queries after the other: (R, k) int64 texts, best first, and (R, k) float32 scores.

    Example:
        >>> corpus = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
        >>> [(ids.tolist(), scores.tolist()) for ids, scores in nearest(corpus[:1], corpus, 2)]
        [([[0, 2]], [[1.0, 1.0]])]
    """
    corpus_DM = torch.from_numpy(corpus_MD).to(device).T
    most = min(most, len(corpus_MD))
    rows = max(1, BLOCK_SCORES // max(1, len(corpus_MD)))
    for first in range(0, len(query_ND), rows):
        scores_RM = torch.from_numpy(query_ND[first : first + rows]).to(device) @ corpus_DM
        top = scores_RM.topk(most, dim=1)
        ids_Rk = top.indices.cpu().numpy()
        best_Rk = top.values.cpu().numpy()
        # Which of several equal ones `topk` gives is nobody's promise.
        last_R1 = top.values[:, -1:]
        torn_R = (scores_RM == last_R1).sum(1) > (top.values == last_R1).sum(1)
        for row in torn_R.nonzero()[:, 0].tolist():
            scores_M = scores_RM[row].cpu().numpy()
            above = np.flatnonzero(scores_M > best_Rk[row, -1])
            equal = np.flatnonzero(scores_M == best_Rk[row, -1])[: most - len(above)]
            ids_Rk[row] = np.concatenate([above, equal])
            best_Rk[row] = scores_M[ids_Rk[row]]
        order_Rk = np.lexsort((ids_Rk, -best_Rk), axis=1)
        yield np.take_along_axis(ids_Rk, order_Rk, 1), np.take_along_axis(best_Rk, order_Rk, 1)

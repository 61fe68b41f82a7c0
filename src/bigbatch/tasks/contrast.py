"""The contrastive loss of a batch of pairs (InfoNCE; van den Oord et al. 2018, equation 4).

    loss of query i = - log( exp(s(q_i, d_i) / t) / sum over candidates c  exp(s(q_i, c) / t) )

Candidates are all documents and hard negatives of the batch. Differs from the paper: those whose text is known to be
right as well, or is the query's own, are none; `symmetric` asks both ways, as Radford et al. 2021 do (CLIP). A judge
leaves out candidates that are likely to be right, too (Solatorio 2024, GISTEmbed; by a model's own scores: Zhang et al.
2025, Qwen3 Embedding).

Shapes: K texts, Q queries, C candidates, D width of an embedding, E of a judge's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bigbatch.data.texts import DOCUMENT, HASH, OWNER, QUERY, ROLE

_CHUNK_ROWS = 1024
"""Queries whose scores exist at a time."""
_NOBODY = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Which texts of a batch belong together: places among its K texts, and what tells them apart."""

    queries_Q: Tensor
    """(Q,) int64 place of each query whose document is there."""
    documents_Q: Tensor
    """(Q,) int64 place of its document."""
    candidates_C: Tensor
    """(C,) int64 place of every document and negative."""
    own_Q: Tensor
    """(Q,) int64 index of the query's document among the candidates."""
    query_hash_Q: Tensor
    document_hash_Q: Tensor
    candidate_hash_C: Tensor
    asked_hash_C: Tensor
    """(C,) int64 hash of the query that a document answers; -1 for negatives."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Leaves out candidates that it scores above the right one, less a margin; nothing is learnt through it."""

    vectors_KE: Tensor
    """Embeddings of length 1 of all texts of the batch."""
    margin: float = 0.0
    relative: bool = False
    """Whether the margin is a share of the right one's score."""

    def of(self, asking_Q: Tensor, right_Q: Tensor, answering_C: Tensor) -> Callable[[slice], Tensor]:
        """Rows of queries -> (R, C) which candidates are left out.

        Args:
            asking_Q: (Q,) place of each query among the texts.
            right_Q: (Q,) place of the right one.
            answering_C: (C,) place of each candidate.
        """

        def left_out(rows: slice) -> Tensor:
            asking_RE = self.vectors_KE[asking_Q[rows]]
            right_R = (asking_RE * self.vectors_KE[right_Q[rows]]).sum(-1)
            bound_R = right_R - self.margin * (right_R.abs() if self.relative else 1.0)
            return asking_RE @ self.vectors_KE[answering_C].T > bound_R[:, None]

        return left_out


def pairs_of(values_K4: Tensor) -> Pairs:
    """What belongs together.

    Args:
        values_K4: int64, as `data.texts.text_table` has them.
    """
    role_K, hash_K, owner_K = values_K4[:, ROLE], values_K4[:, HASH], values_K4[:, OWNER]
    candidates_C = (role_K != QUERY).nonzero()[:, 0]
    queries = (role_K == QUERY).nonzero()[:, 0]
    rows = int(owner_K.max()) + 1 if len(owner_K) else 0
    document_at = torch.full((rows,), _NOBODY, device=values_K4.device)
    answers_C = role_K[candidates_C] == DOCUMENT
    document_at[owner_K[candidates_C[answers_C]]] = answers_C.nonzero()[:, 0]
    asked = torch.full((rows,), _NOBODY, dtype=torch.int64, device=values_K4.device)
    asked[owner_K[queries]] = hash_K[queries]
    own = document_at[owner_K[queries]]
    queries, own = queries[own != _NOBODY], own[own != _NOBODY]
    return Pairs(
        queries_Q=queries,
        documents_Q=candidates_C[own],
        candidates_C=candidates_C,
        own_Q=own,
        query_hash_Q=hash_K[queries],
        document_hash_Q=hash_K[candidates_C[own]],
        candidate_hash_C=hash_K[candidates_C],
        asked_hash_C=torch.where(answers_C, asked[owner_K[candidates_C]], _NOBODY),
    )


def contrastive_losses(
    embeddings_KD: Tensor,
    values_K4: Tensor,
    *,
    temperature: float,
    cosine: bool,
    symmetric: bool,
    judge: Judge | None = None,
) -> Tensor:
    """Loss of each query (Q,), nats, in the order of the batch.

    Args:
        embeddings_KD: of all texts of the batch.
        values_K4: int64: role, hash, row and place of each text.
        temperature: scores are divided by it.
        cosine: whether embeddings are brought to length 1 before they are multiplied.
        symmetric: also ask each document for its query, and take the mean of both.
        judge: leaves out candidates; None: only what is known to be right is left out.

    Example:
        Two queries, each with its document in its own direction: log(1 + 1 / e) each.

        >>> values = torch.tensor([[QUERY, 1, 0, 0], [DOCUMENT, 2, 0, 1], [QUERY, 3, 1, 2], [DOCUMENT, 4, 1, 3]])
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> losses = contrastive_losses(embeddings, values, temperature=1.0, cosine=True, symmetric=False)
        >>> [round(loss, 4) for loss in losses.tolist()]
        [0.3133, 0.3133]
    """
    pairs = pairs_of(values_K4)
    found_KD = functional.normalize(embeddings_KD, dim=-1) if cosine else embeddings_KD
    query_QD, candidate_CD = found_KD[pairs.queries_Q], found_KD[pairs.candidates_C]

    judged = None if judge is None else judge.of(pairs.queries_Q, pairs.documents_Q, pairs.candidates_C)

    texts_C = pairs.candidate_hash_C.unique(return_inverse=True)[1]

    def ask(rows: slice, query_RD: Tensor, candidate_CD: Tensor) -> Tensor:
        known_RC = pairs.document_hash_Q[rows, None] == pairs.candidate_hash_C
        known_RC |= pairs.query_hash_Q[rows, None] == pairs.asked_hash_C
        known_RC = _of_equal_texts(known_RC, texts_C)
        known_RC |= pairs.query_hash_Q[rows, None] == pairs.candidate_hash_C
        if judged is not None:
            known_RC |= judged(rows)
        return _losses(query_RD @ candidate_CD.T / temperature, known_RC, pairs.own_Q[rows])

    losses_Q = _in_chunks(ask, query_QD, candidate_CD)
    if not symmetric:
        return losses_Q
    own_Q = torch.arange(len(query_QD), device=query_QD.device)

    back = None if judge is None else judge.of(pairs.documents_Q, pairs.queries_Q, pairs.queries_Q)

    texts_Q = pairs.query_hash_Q.unique(return_inverse=True)[1]

    def answer(rows: slice, document_RD: Tensor, query_QD: Tensor) -> Tensor:
        known_RQ = pairs.query_hash_Q[rows, None] == pairs.query_hash_Q
        known_RQ |= pairs.document_hash_Q[rows, None] == pairs.document_hash_Q
        known_RQ = _of_equal_texts(known_RQ, texts_Q)
        if back is not None:
            known_RQ |= back(rows)
        return _losses(document_RD @ query_QD.T / temperature, known_RQ, own_Q[rows])

    return (losses_Q + _in_chunks(answer, found_KD[pairs.documents_Q], query_QD)) / 2


def _of_equal_texts(known_RC: Tensor, texts_C: Tensor) -> Tensor:
    """Whether a candidate, or another one of the same text (number of it), is known."""
    row, candidate = known_RC.nonzero(as_tuple=True)
    known_RT = known_RC.new_zeros(len(known_RC), int(texts_C.max()) + 1 if len(texts_C) else 0)
    known_RT[row, texts_C[candidate]] = True
    return known_RT[:, texts_C]


def _losses(scores_RC: Tensor, known_RC: Tensor, own_R: Tensor) -> Tensor:
    """Cross-entropy of each row against its own column; other columns that are right as well are left out."""
    others_RC = known_RC.scatter(1, own_R[:, None], False)
    return functional.cross_entropy(scores_RC.masked_fill(others_RC, -torch.inf), own_R, reduction="none")


def _in_chunks(
    losses: Callable[[slice, Tensor, Tensor], Tensor], asking_QD: Tensor, answering_CD: Tensor
) -> Tensor:
    """All rows' losses; scores of more than one chunk are computed again on the way back instead of being kept."""
    starts = range(0, len(asking_QD), _CHUNK_ROWS)
    rows = [slice(first, min(first + _CHUNK_ROWS, len(asking_QD))) for first in starts]
    if len(rows) < 2:
        return losses(slice(0, len(asking_QD)), asking_QD, answering_CD)
    return torch.cat(
        [checkpoint(losses, part, asking_QD[part], answering_CD, use_reentrant=False) for part in rows]  # type: ignore[arg-type]
    )

"""Losses of pairs by a teacher's scores: what a slow model says of a query and its candidates, learnt by embeddings.

::

    margin_mse    of each negative n of (q, d):   ((s(q, d) - s(q, n)) - (t(q, d) - t(q, n)))^2
    listwise_kl   of each (q, d):   KL(softmax(t / T) || softmax(s / temperature))   over d and its negatives

s is the model's score, t the teacher's. Sources: margin_mse Hofstätter et al. 2020 ("Improving Efficient Neural Ranking
Models with Cross-Architecture Knowledge Distillation"); listwise_kl as in Ren et al. 2021 (RocketQAv2). Differs from
both: candidates are those that the row names, never others of the batch, since the teacher has not scored those.

Shapes: K texts, D width of an embedding, R rows of a query with its document, P negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bigbatch.data.texts import DOCUMENT, NEGATIVE, OWNER, QUERY, ROLE

TEACHER = "teacher"
"""The extra of units: the teacher's score of each document and negative; 0 of queries."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Candidates with both scores, row by row."""

    model_C: Tensor
    teacher_C: Tensor
    row_C: Tensor
    """(C,) int64 row of each candidate."""
    right_R: Tensor
    """(R,) int64 which candidate is the document of the row."""
    negative_C: Tensor
    """(C,) bool."""


def scored(vectors_KD: Tensor, values_K4: Tensor, teacher_K: Tensor) -> Scored:
    """The model's scores beside the teacher's.

    Args:
        vectors_KD: embeddings of all texts of whole rows.
        values_K4: int64: role, hash, row and place of each text.
        teacher_K: the teacher's scores.
    """
    role_K, owner_K = values_K4[:, ROLE], values_K4[:, OWNER]
    candidates_C = (role_K != QUERY).nonzero()[:, 0]
    queries = (role_K == QUERY).nonzero()[:, 0]
    rows = owner_K.new_zeros(int(owner_K.max()) + 1 if len(owner_K) else 0)
    query_of = rows.index_copy(0, owner_K[queries], queries)
    own_C = owner_K[candidates_C]
    documents = (role_K[candidates_C] == DOCUMENT).nonzero()[:, 0]
    number_of = rows.index_copy(0, own_C[documents], torch.arange(len(documents), device=rows.device))
    return Scored(
        model_C=(vectors_KD[query_of[own_C]] * vectors_KD[candidates_C]).sum(-1),
        teacher_C=teacher_K[candidates_C].to(vectors_KD.dtype),
        row_C=number_of[own_C],
        right_R=documents,
        negative_C=role_K[candidates_C] == NEGATIVE,
    )


def margin_mse(found: Scored) -> Tensor:
    """(P,) squared difference of both margins, of each negative.

    Example:
        >>> one = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> texts = torch.tensor([[QUERY, 1, 0, 0], [DOCUMENT, 2, 0, 1], [NEGATIVE, 3, 0, 2]])
        >>> margin_mse(scored(one, texts, torch.tensor([0.0, 5.0, 2.0]))).tolist()
        [4.0]
    """
    right_C = found.right_R[found.row_C]
    model_C = found.model_C[right_C] - found.model_C
    teacher_C = found.teacher_C[right_C] - found.teacher_C
    return (model_C - teacher_C).square()[found.negative_C]


def listwise_kl(found: Scored, *, temperature: float, teacher_temperature: float) -> Tensor:
    """(R,) nats of each row; 0 where there is nothing but the document.

    Args:
        found: of whole rows.
        temperature: the model's scores are divided by it.
        teacher_temperature: the teacher's are.
    """
    model_C = _log_softmax(found.model_C / temperature, found)
    teacher_C = _log_softmax(found.teacher_C / teacher_temperature, found)
    shares_C = teacher_C.exp() * (teacher_C - model_C)
    return shares_C.new_zeros(len(found.right_R)).index_add(0, found.row_C, shares_C)


def _log_softmax(scores_C: Tensor, found: Scored) -> Tensor:
    """Within each row."""
    rows = len(found.right_R)
    most_R = scores_C.new_full((rows,), -torch.inf).scatter_reduce(0, found.row_C, scores_C.detach(), "amax")
    lowered_C = scores_C - most_R[found.row_C]
    total_R = scores_C.new_zeros(rows).index_add(0, found.row_C, lowered_C.exp())
    return lowered_C - total_R.log()[found.row_C]

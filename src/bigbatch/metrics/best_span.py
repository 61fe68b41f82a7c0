"""The best answer that logits of start and end give a question, over all windows of its text.

    score(i, j) = start_i + end_j       i <= j < i + most tokens, both tokens of the text, in one window
    null        = min over windows of (start + end of the token that stands for no answer)

as BERT's own script has it (Devlin et al. 2019), but that every pair is looked at, not only the 20 best starts with
the 20 best ends.

Shapes: T tokens of all windows, Q questions, D tokens of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bigbatch.data.windows import BEGIN, END, FIRST, FLAGS, NULL, WINDOW, window_starts


@dataclass(frozen=True, kw_only=True, eq=False)
class BestSpans:
    """Of each question (Q,)."""

    first: np.ndarray
    """First character of the best answer; -1 where there is none at all."""
    end: np.ndarray
    """The one behind its last."""
    score: np.ndarray
    """Its score, float64."""
    log_probability: np.ndarray
    """Of its start times that of its end, among all tokens of its window, nats."""
    null: np.ndarray
    """Score of no answer."""


def best_spans(logits_T2: np.ndarray, values_T6: np.ndarray, most_tokens: int) -> BestSpans:
    """The best answer of each question.

    Args:
        logits_T2: (T, 2) of start and end.
        values_T6: (T, 6) of a table of windows, whole.
        most_tokens: of an answer.
    """
    score_T, end_T = _best_from(logits_T2, values_T6, most_tokens)
    questions_Q = np.flatnonzero(values_T6[:, FLAGS] & FIRST)
    if not len(questions_Q):
        none = np.empty(0)
        return BestSpans(
            first=none.astype(np.int64),
            end=none.astype(np.int64),
            score=none,
            log_probability=none,
            null=none,
        )
    best_Q = _first_largest(score_T, questions_Q)
    found_Q = np.isfinite(score_T[best_Q])
    shares_T2 = _log_shares(logits_T2, values_T6)
    null_T = np.where(values_T6[:, FLAGS] & NULL, logits_T2.sum(1), np.inf)
    return BestSpans(
        first=np.where(found_Q, values_T6[best_Q, BEGIN], -1).astype(np.int64),
        end=np.where(found_Q, values_T6[end_T[best_Q], END], -1).astype(np.int64),
        score=score_T[best_Q],
        log_probability=shares_T2[best_Q, 0] + shares_T2[end_T[best_Q], 1],
        null=np.minimum.reduceat(null_T, questions_Q),
    )


def further_spans(
    logits_T2: np.ndarray, values_T6: np.ndarray, most_tokens: int, count: int
) -> list[list[tuple[int, int, float]]]:
    """Of each question the best answers at different places, best first: (first character, end, score).

    Args:
        logits_T2: (T, 2) of start and end.
        values_T6: (T, 6) of a table of windows, whole.
        most_tokens: of an answer.
        count: answers of a question, at most.
    """
    found = []
    bounds = [*np.flatnonzero(values_T6[:, FLAGS] & FIRST).tolist(), len(values_T6)]
    for begin, end in pairwise(bounds):
        logits, values = logits_T2[begin:end], values_T6[begin:end]
        scores_DT = np.stack([scores for scores in _by_length(logits, values, most_tokens)])
        order = np.argsort(-scores_DT, axis=None, kind="stable")
        own: dict[tuple[int, int], float] = {}
        for place in order[: 20 * count].tolist():  # neighbouring windows hold the same places
            length, start = divmod(place, scores_DT.shape[1])
            if not np.isfinite(scores_DT[length, start]) or len(own) == count:
                break
            key = int(values[start, BEGIN]), int(values[start + length, END])
            own.setdefault(key, float(scores_DT[length, start]))
        found.append([(*key, score) for key, score in own.items()])
    return found


def _by_length(logits_T2: np.ndarray, values_T6: np.ndarray, most_tokens: int):  # type: ignore[no-untyped-def]
    """Of answers of 1, 2, … tokens, the score of the one that starts at each token (T,); -inf where there is none."""
    allowed_T = (values_T6[:, END] > values_T6[:, BEGIN]) & (values_T6[:, BEGIN] >= 0)
    starts_T, ends_T = (
        np.where(allowed_T & ~np.isnan(logits_T2[:, side]), logits_T2[:, side], -np.inf) for side in (0, 1)
    )
    for length in range(min(most_tokens, len(logits_T2))):
        scores_T = np.full(len(logits_T2), -np.inf)
        left, right = slice(0, len(logits_T2) - length), slice(length, None)
        with np.errstate(invalid="ignore"):
            sums = starts_T[left] + ends_T[right]
        same = values_T6[left, WINDOW] == values_T6[right, WINDOW]
        scores_T[left] = np.where(same & ~np.isnan(sums), sums, -np.inf)
        yield scores_T


def _best_from(
    logits_T2: np.ndarray, values_T6: np.ndarray, most_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) score of the best answer that starts at each token, and the token that it ends at."""
    best_T, end_T = np.full(len(logits_T2), -np.inf), np.arange(len(logits_T2))
    for length, scores_T in enumerate(_by_length(logits_T2, values_T6, most_tokens)):
        better_T = scores_T > best_T
        best_T = np.where(better_T, scores_T, best_T)
        end_T = np.where(better_T, np.arange(len(logits_T2)) + length, end_T)
    return best_T, end_T


def _first_largest(values_T: np.ndarray, starts_Q: np.ndarray) -> np.ndarray:
    """(Q,) the first place of the largest value of each stretch."""
    largest_Q = np.maximum.reduceat(values_T, starts_Q)
    lengths_Q = np.diff(starts_Q, append=len(values_T))
    at_T = np.flatnonzero(values_T == np.repeat(largest_Q, lengths_Q))
    return at_T[np.searchsorted(at_T, starts_Q)]


def _log_shares(logits_T2: np.ndarray, values_T6: np.ndarray) -> np.ndarray:
    """(T, 2) log softmax of start and of end over each window."""
    starts_W = window_starts(values_T6)
    lengths_W = np.diff(starts_W, append=len(values_T6))
    with np.errstate(invalid="ignore", over="ignore"):
        shifted_T2 = logits_T2 - np.repeat(np.maximum.reduceat(logits_T2, starts_W), lengths_W, axis=0)
        sums_W2 = np.add.reduceat(np.exp(shifted_T2), starts_W)
        return shifted_T2 - np.repeat(np.log(sums_W2), lengths_W, axis=0)

"""Extractive question answering: where in a text the answer to a question starts, and where it ends.

A text longer than the model reads is seen through windows that overlap. Of each window

    loss_w = -(log p_start[s] + log p_end[e]) / 2

where p_start and p_end are softmaxes over all tokens of the window, s and e the first and last token of the answer;
where the window does not hold all of it, both are the token that stands for no answer (Devlin et al. 2019). The loss is

    sum over questions of (mean over its windows of loss_w)  /  questions of the global batch

so that a question counts the same however long its text is, and what is divided by is known before any forward.

Shapes: U units (tokens), W windows, Q questions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bigbatch.data.tokens import as_table
from bigbatch.data.windows import (
    ANSWERS,
    CONTEXT,
    COUNT,
    ENDS,
    FIRST,
    FLAGS,
    STARTS,
    WINDOW,
    texts_of,
    window_table,
)
from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.best_span import BestSpans, best_spans, further_spans
from bigbatch.metrics.span import LANGUAGES, span_metrics
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.base import RunTable, Task
from bigbatch.tasks.labelled import fp64
from bigbatch.tasks.windows import Windows, encode_windows

TERM = "span"


@dataclass(frozen=True, kw_only=True)
class Span(Task[Tensor]):
    """Find the answer to a question in a text."""

    stride: int | None = None
    """Tokens of the text that neighbouring windows share; None: 128, or half of what a window has for the text if
    that is less."""
    max_query_length: int | None = None
    """Tokens kept of a question; None: 64, or a quarter of a window if that is less."""
    max_answer_tokens: int = 30
    """Tokens of an answer that is predicted, at most."""
    null_threshold: float | None = None
    """No answer is predicted where its score is larger than that of the best answer by more than this; None: always an
    answer."""
    n_best: int = 1
    """Answers that a prediction names; from 2 on as `alternatives`."""
    language: Literal["auto", "en", "zh"] = "auto"
    """How answers are compared: as SQuAD's script does (`en`), or as that of CMRC 2018 (`zh`); auto: by the answers."""

    def __post_init__(self) -> None:
        least = {"stride": 0, "max_query_length": 1, "max_answer_tokens": 1, "n_best": 1}
        wrong = {
            name: f"found {getattr(self, name)}; expected a whole number from {lowest} up"
            for name, lowest in least.items()
            if getattr(self, name) is not None and getattr(self, name) < lowest
        }
        if self.null_threshold is not None and not math.isfinite(self.null_threshold):
            wrong["null_threshold"] = f"found {self.null_threshold}; expected a finite number"
        if self.language not in LANGUAGES:
            wrong["language"] = f"found {self.language!r}; expected {', '.join(LANGUAGES)}"
        if wrong:
            raise RecipeError(
                [Problem(where="recipe", key=f"task.{key}", what=what) for key, what in wrong.items()]
            )

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return {
            "question": Role(meaning="the question"),
            "context": Role(meaning="the text that the answer stands in"),
            "answers": Role(meaning="the answers, each with its text and answer_start", kind="answers"),
        }

    @property
    def head(self) -> Head:
        """Two outputs a token."""
        return Head(kind="span", outputs=2)

    @property
    def longest(self) -> int | None:
        """Any number of tokens: texts are seen through windows."""
        return None

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """Exact match and F1; where a question may have no answer, of both kinds of questions too."""
        known = span_metrics(self.language)
        return tuple(known.values())[: 2 if self.null_threshold is None else None]

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of `metrics.span`."""
        found = span_metrics(self.language).get(name)
        return super().metric(name, where=where) if found is None else found

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows, with two calls of the tokenizer."""
        cut = Windows(
            max_length=self.facts.max_length or 512,
            stride=self.stride,
            max_query_length=self.max_query_length,
        )
        return encode_windows(rows, tokenizer, cut, labelled=labelled)

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows window by window; the same in every epoch."""
        del epochs_B
        return window_table(table, rows_B, whole=False)

    def fixed(self, table: Table) -> Table:
        """A whole split window by window."""
        return window_table(table, np.arange(len(table), dtype=np.int64), whole=True)

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Questions: the sum of their weights, fp64 (numpy)."""
        firsts_U = (np.asarray(targets.values)[:, FLAGS] & FIRST) > 0
        return {TERM: float(np.sum(np.asarray(targets.weights)[firsts_U], dtype=np.float64))}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One weighted value per window (W,), nats.

        Args:
            outputs: (U, 2) logits of start and end, of whole windows.
            targets: theirs, as tensors on the same device, window by window.
        """
        logits_U2, values = outputs.double(), targets.values.long()
        starts_U = torch.ones(len(values), dtype=torch.bool, device=values.device)
        starts_U[1:] = values[1:, WINDOW] != values[:-1, WINDOW]
        windows_U, starts_W = starts_U.long().cumsum(0) - 1, starts_U.nonzero()[:, 0]
        index_U2 = windows_U[:, None].expand(-1, 2)
        most_W2 = logits_U2.detach().new_full((len(starts_W), 2), -math.inf)
        most_W2 = most_W2.scatter_reduce(0, index_U2, logits_U2.detach(), "amax")
        shifted_U2 = logits_U2 - most_W2[windows_U]
        sums_W2 = torch.zeros_like(most_W2).index_add(0, windows_U, shifted_U2.exp())
        flags_U = values[:, FLAGS]
        targets_W2 = torch.stack(
            [shifted_U2[(flags_U & flag) > 0, side] for side, flag in enumerate((STARTS, ENDS))], dim=1
        )
        losses_W = (sums_W2.log() - targets_W2).mean(1) / values[starts_W, COUNT]
        weights_W = targets.weights[starts_W].double()
        return {TERM: torch.where(weights_W == 0, 0.0, losses_W * weights_W)}

    # ------------------------------------------------------------ evaluation and prediction

    def decode(self, kept: np.ndarray) -> Predictions:
        """Logits of start and end; which answer they give follows from whole questions (`answers`)."""
        logits_U2 = fp64(kept)
        return Predictions(kind="span", scores=logits_U2, probabilities=None, values=logits_U2.argmax(-1))

    def best(self, logits_U2: np.ndarray, table: Table) -> BestSpans:
        """The best answer of each question.

        Args:
            logits_U2: (U, 2) of start and end.
            table: as `fixed` gives it.
        """
        return best_spans(logits_U2, np.asarray(table.values), self.max_answer_tokens)

    def answered(self, found: BestSpans) -> np.ndarray:
        """(Q,) bool: whether an answer is given."""
        given_Q = found.first >= 0
        return (
            given_Q
            if self.null_threshold is None
            else given_Q & ~(found.null - found.score > self.null_threshold)
        )

    def texts(self, found: BestSpans, table: Table) -> tuple[list[str], list[list[str]]]:
        """(predicted answers, all right answers) of each question of a split that has both; no answer is ""."""
        contexts = [content.decode() for content in texts_of(table, CONTEXT)]
        bounds = zip(contexts, found.first, found.end, self.answered(found), strict=True)
        predicted = [_answer_at(text, first, end) if given else "" for text, first, end, given in bounds]
        return predicted, [json.loads(content) for content in texts_of(table, ANSWERS)]

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The answer to each question.

        Yields:
            `{"answer", "start", "end", "probability", "null_score"}`: characters of the context, from 0, the end not
            included; the probability of start and end within their window; by how much the score of no answer is larger
            than that of the best one. With no answer `""`, and start and end None. `alternatives`, best first, where
            `n_best` asks for them.
        """
        del tokenizer
        table = self.fixed(as_table(samples))
        logits_U2 = fp64(run(table, self.keep))
        found = self.best(logits_U2, table)
        further = (
            further_spans(logits_U2, np.asarray(table.values), self.max_answer_tokens, self.n_best)
            if self.n_best > 1
            else [[] for _ in rows]
        )
        given_Q, gaps_Q = self.answered(found), found.null - found.score
        for number, row in enumerate(rows):
            first, end, given = int(found.first[number]), int(found.end[number]), bool(given_Q[number])
            first, end = _bare(row["context"], first, end)
            told: dict[str, Json] = {
                "answer": row["context"][first:end] if given else "",
                "start": first if given else None,
                "end": end if given else None,
                "probability": _finite(math.exp(found.log_probability[number])) if given else None,
                "null_score": _finite(gaps_Q[number]),
            }
            if self.n_best > 1:
                told["alternatives"] = [
                    _told(row["context"], first, end, score) for first, end, score in further[number]
                ]
            yield told

    def nothing(self) -> dict[str, Json]:
        """The prediction of a text without tokens."""
        found: dict[str, Json] = {
            "answer": "",
            "start": None,
            "end": None,
            "probability": None,
            "null_score": None,
        }
        return {**found, "alternatives": []} if self.n_best > 1 else found


def _answer_at(text: str, first: int, end: int) -> str:
    """A stretch of a text without blanks around it, which some tokenizers count to their tokens."""
    return text[first:end].strip() if first >= 0 else ""


def _bare(text: str, first: int, end: int) -> tuple[int, int]:
    found = text[first:end]
    return first + len(found) - len(found.lstrip()), end - len(found) + len(found.rstrip())


def _told(context: str, first: int, end: int, score: float) -> dict[str, Json]:
    first, end = _bare(context, first, end)
    return {"answer": context[first:end], "start": first, "end": end, "score": _finite(score)}


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None

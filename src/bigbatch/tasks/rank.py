"""Ranking: which of a query's candidates are relevant, by a model that reads both together (a cross-encoder).

    listwise    - sum_i y_i / sum(y)  log softmax(s)_i                        one value a query     (Cao et al. 2007)
    pairwise    mean over pairs y_i > y_j of  -log sigmoid(s_i - s_j)         one value a query     (Burges et al. 2005)
    pointwise   - y_i log sigmoid(s_i) - (1 - y_i) log sigmoid(-s_i)          one value a candidate

s is the one output of a sequence classifier, y the relevance. The sum is divided by the queries (candidates) of the
global batch that have such a value: known from the data. The candidates of a query stay in one micro-batch.

Shapes: S candidates (one unit each), Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from bigbatch.data.histories import items_of
from bigbatch.data.lists import CANDIDATE, GROUP, LABEL, LIST, QUERY, RELEVANCE, list_table
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError
from bigbatch.metrics.listwise import USUAL, list_metric
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import UNITS, Predictions, Sample, Table, Targets
from bigbatch.tasks.base import NOT_AN_OPTION, RunTable, Task
from bigbatch.tasks.inputs import Inputs, encode_texts
from bigbatch.tasks.losses import Kind, refuse_settings

if TYPE_CHECKING:
    from bigbatch.recipe.learning import LossSpec

LISTWISE, PAIRWISE, POINTWISE = LOSSES = ("listwise", "pairwise", "pointwise")


@dataclass(frozen=True, kw_only=True)
class Rank(Task[Tensor]):
    """How relevant a candidate is to a query, learnt by a sequence classifier with one output."""

    loss_name: str = field(default=LISTWISE, metadata=NOT_AN_OPTION)
    """`loss.name`."""

    couples = "group"

    @override
    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with `loss:` of the recipe; without one it is listwise.

        Raises:
            RecipeError: another loss, or an option.
        """
        del folder
        name = LISTWISE if loss.name == "cross_entropy" else loss.name
        refused = {
            "name": (name not in LOSSES, f"found {name}; of task rank expected {', '.join(LOSSES)}"),
            "label_smoothing": (loss.label_smoothing > 0, "relevances are no classes; leave it out"),
            "class_weights": (loss.class_weights != "none", "relevances are no classes; leave it out"),
            "args": (bool(loss.args), f"{name} has no options; leave it out"),
        }
        refuse_settings({key: what for key, (is_so, what) in refused.items() if is_so}, where)
        return replace(self, loss_name=name)

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: a candidate a row, or all of a query."""
        return {
            QUERY: Role(meaning="what is looked for"),
            CANDIDATE: Role(meaning="what may answer it; or several", kind="items"),
            LABEL: Role(meaning="how relevant each is, from 0; or which of several is right", kind="grades"),
            GROUP: Role(
                meaning="whose rows belong together; without it those of one query do", required=False
            ),
        }

    @property
    def kind(self) -> Kind:
        """A number, and no label that anybody wrote down."""
        return "single"

    @property
    def head(self) -> Head:
        """One output for a query and a candidate."""
        return Head(kind="sequence", outputs=1)

    @property
    def title(self) -> str:
        """Of the model card."""
        return "Reranker"

    @property
    def longest(self) -> int | None:
        """Any number of tokens: those of all candidates lie one behind the other."""
        return None

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """Those of `metrics.listwise.USUAL`."""
        return tuple(map(list_metric, USUAL))

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of ranked candidates.

        Raises:
            RecipeError: with the names there are.
        """
        return list_metric(name, where=where)

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows with one call of the tokenizer: the query and each candidate, as any two texts are read."""
        if tokenizer is None:
            raise DataError("task rank reads texts: rows of token ids cannot say where a candidate ends")
        candidates = [items_of(row.get(CANDIDATE)) for row in rows]
        queries = [row[QUERY] for row, own in zip(rows, candidates, strict=True) for _ in own]
        flat = [text for own in candidates for text in own]
        inputs = iter(encode_texts(queries, flat, tokenizer, self.facts.max_length))
        return [
            _joined([next(inputs) for _ in own], row.get(LABEL) if labelled else None)
            for row, own in zip(rows, candidates, strict=True)
        ]

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The queries candidate by candidate; the same in every epoch."""
        del epochs_B
        return list_table(table, rows_B, last=self.facts.pools != "first")

    def fixed(self, table: Table) -> Table:
        """A whole split candidate by candidate."""
        return list_table(table, np.arange(len(table), dtype=np.int64), last=self.facts.pools != "first")

    # ------------------------------------------------------------ denominators, loss

    @property
    def idle_because(self) -> str:
        """What a query lacks."""
        return {
            LISTWISE: "no candidate of the query is relevant",
            PAIRWISE: "all candidates of the query have the same label",
            POINTWISE: "the query has no candidate",
        }[self.loss_name]

    def counted(self, table: Table) -> np.ndarray:
        """(N,) 1 for each query that the loss has a value for; of pointwise its candidates."""
        if self.loss_name == POINTWISE:
            return table.counted_units
        units = table[UNITS].load()
        owner_S = np.repeat(np.arange(len(table), dtype=np.float64), units.lengths)
        values_S2 = np.column_stack([units.columns["values"].astype(np.float64), owner_S])
        return _counted(torch.from_numpy(values_S2), self.loss_name).numpy().astype(np.int64)

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Queries that have something to learn, or candidates: numbers of the data (numpy)."""
        values = torch.from_numpy(np.array(targets.values, np.float64))
        if values.ndim == 1 or self.loss_name == POINTWISE:  # before `view` they are relevances alone
            return {self.loss_name: float(np.sum(np.asarray(targets.weights) > 0))}
        return {self.loss_name: float(_counted(values, self.loss_name).sum())}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """One value a query (Q,), 0 where there is nothing to learn; of pointwise one a candidate (S,).

        Args:
            outputs: (S, 1) scores of all candidates of some queries.
            targets: theirs, as tensors on the same device.
        """
        scores_S, values_S2 = outputs[:, 0].double(), targets.values.double()
        if self.loss_name == POINTWISE:
            weights_S = targets.weights.double()
            found = functional.binary_cross_entropy_with_logits(
                scores_S, values_S2[:, RELEVANCE].clamp(max=1.0), reduction="none"
            )
            return {POINTWISE: found * weights_S}
        counted_Q = _counted(values_S2, self.loss_name).to(scores_S.dtype)
        scores_QN, relevance_QN, there_QN = _by_query(scores_S, values_S2)
        if self.loss_name == LISTWISE:
            shares_QN = relevance_QN / relevance_QN.sum(1, keepdim=True).clamp(min=1e-300)
            logp_QN = scores_QN.masked_fill(~there_QN, -torch.inf).log_softmax(1).masked_fill(~there_QN, 0.0)
            return {LISTWISE: -(shares_QN * logp_QN).sum(1) * counted_Q}
        before_QNN = (
            (relevance_QN[:, :, None] > relevance_QN[:, None]) & there_QN[:, :, None] & there_QN[:, None]
        )
        losses_QNN = -functional.logsigmoid(scores_QN[:, :, None] - scores_QN[:, None]) * before_QNN
        return {PAIRWISE: losses_QNN.sum((1, 2)) / before_QNN.sum((1, 2)).clamp(min=1) * counted_Q}

    # ------------------------------------------------------------ evaluation and prediction

    def decode(self, kept: np.ndarray) -> Predictions:
        """Scores (S, 1)."""
        scores_S1 = np.asarray(kept, np.float64)
        return Predictions(kind="language", scores=scores_S1, probabilities=None, values=scores_S1[:, 0])

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The score of each row's candidate, between 0 and 1 (sigmoid); of rows with several, all, and the best one.

        Yields:
            `{"score"}`, or `{"scores", "best"}`: the place of the best candidate, from 0.
        """
        del rows, tokenizer
        scores = 1 / (1 + np.exp(-self.decode(run(self.fixed(as_table(samples)), self.keep)).values))
        first = 0
        for sample in samples:
            own = scores[first : first + len(sample.reads)].tolist()
            first += len(own)
            if len(own) == 1:
                yield {"score": own[0] if math.isfinite(own[0]) else None}
            else:
                yield {"scores": own, "best": int(np.argmax(own))}

    def nothing(self) -> dict[str, Json]:
        """The prediction of a row without candidate."""
        return {"score": None}


def _joined(inputs: Sequence[Inputs], labels: Sequence[float] | None) -> Sample:
    """All sequences of a query, one behind the other; a unit at the first token of each."""
    if not inputs:
        raise DataError("found no candidate")
    lengths = np.array([len(each.ids) for each in inputs])
    segments = [each.segments for each in inputs if each.segments is not None]
    return Sample(
        ids=np.concatenate([each.ids for each in inputs]),
        segments=np.concatenate(segments) if segments else None,
        reads=(np.cumsum(lengths) - lengths).astype(np.int32),
        values=np.asarray([0.0] * len(inputs) if labels is None else labels, np.float32),
        weights=np.ones(len(inputs), np.float32),
        truncated=any(each.truncated for each in inputs),
    )


def _queries(values_S2: Tensor) -> Tensor:
    """(S,) int64: the query of each candidate, numbered from 0 in order."""
    own_S = values_S2[:, LIST]
    changes_S = torch.zeros(len(own_S), dtype=torch.int64, device=own_S.device)
    changes_S[1:] = (own_S[1:] != own_S[:-1]).long()
    return changes_S.cumsum(0)


def _by_query(scores_S: Tensor, values_S2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and relevances (Q, N) of each query's candidates, and which places are filled."""
    queries_S = _queries(values_S2)
    counts_Q = torch.bincount(queries_S)
    starts_Q = counts_Q.cumsum(0) - counts_Q
    places_S = torch.arange(len(scores_S), device=scores_S.device) - starts_Q[queries_S]
    shape = len(counts_Q), int(counts_Q.max()) if len(counts_Q) else 0
    scores_QN = scores_S.new_zeros(shape).index_put((queries_S, places_S), scores_S)
    relevance_QN = scores_S.new_zeros(shape).index_put(
        (queries_S, places_S), values_S2[:, RELEVANCE].to(scores_S)
    )
    there_QN = torch.arange(shape[1], device=scores_S.device) < counts_Q[:, None]
    return scores_QN, relevance_QN, there_QN


def _counted(values_S2: Tensor, loss: str) -> Tensor:
    """(Q,) bool: queries with a relevant candidate (listwise), or with two of unequal relevance (pairwise)."""
    queries_S, relevance_S = _queries(values_S2), values_S2[:, RELEVANCE].double()
    shape = (int(queries_S[-1]) + 1 if len(queries_S) else 0,)
    most_Q = relevance_S.new_zeros(shape).scatter_reduce(
        0, queries_S, relevance_S, "amax", include_self=False
    )
    least_Q = relevance_S.new_zeros(shape).scatter_reduce(
        0, queries_S, relevance_S, "amin", include_self=False
    )
    return most_Q > (0 if loss == LISTWISE else least_Q)

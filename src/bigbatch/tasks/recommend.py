"""Recommendation: which item a user has next, from the items that they had (Kang and McAuley 2018).

Items are tokens, and a user's history is a text of them. The unit is an item that is predicted from those in front of
it, in windows of at most `data.max_length` items (`data.item_windows`):

    loss = sum over predicted items  -log softmax(scores over all items)[item]  /  number of these in the global batch

Evaluations rank all items, but for those that the user had before (`repeats`), and predictions are the first of such a
list.

Shapes: U units (predicted items), V rows of the embedding (the items, and three marks in front), H items of a history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from bigbatch.data.histories import KNOWN, items_of
from bigbatch.data.item_windows import EVALUATED, SEEN, history_windows
from bigbatch.data.tokens import as_table
from bigbatch.errors import ModelError, Problem, RecipeError
from bigbatch.metrics.recommend import DEPTH, LISTED, NLL, RANK, USUAL, depth_of, recommend_metric
from bigbatch.model.heads import Head
from bigbatch.model.logits import DeferredLogits
from bigbatch.model.sequential import SPECIAL, UNKNOWN, ids_of, names_of, sequential_model
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.base import RunTable
from bigbatch.tasks.inputs import NoTokens, is_tokenised, tokenised_inputs
from bigbatch.tasks.language import PredictedTokens, logits_in_parts

if TYPE_CHECKING:
    from torch import nn

    from bigbatch.recipe.learning import ModelSpec
    from bigbatch.tasks.facts import BuildFacts


@dataclass(frozen=True, kw_only=True)
class Recommend(PredictedTokens):
    """Predict the next item of a user."""

    stride: int | None = None
    """Items by which the windows of a long history are apart; None: half of `data.max_length`. Each item is predicted
    once, from the window that has most in front of it."""
    repeats: bool = False
    """Whether an item that a user had may be recommended to them again."""
    top: int = DEPTH
    """Items of a prediction."""

    known_metrics = USUAL
    clock = "samples"
    loss_is_own = "task recommend takes the cross-entropy over all items; leave it out"

    def __post_init__(self) -> None:
        for key, value in (("stride", self.stride), ("top", self.top)):
            if value is not None and value < 1:
                what = f"found {value}; expected a number from 1"
                raise RecipeError([Problem(where="recipe", key=f"task.{key}", what=what)])

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: an event a row, or all items of a user."""
        return {
            "item": Role(meaning="the item; or several, in order", kind="items"),
            "user": Role(meaning="who had the item", required=False),
            "time": Role(meaning="when; events are put in this order", required=False),
            "title": Role(meaning="what the item is called", required=False),
        }

    @property
    def head(self) -> Head:
        """A head that gives the next item."""
        return Head(kind="causal")

    @property
    def title(self) -> str:
        """Of the model card."""
        return "Sequential recommender"

    @property
    def longest(self) -> int | None:
        """Histories are cut into windows."""
        return None

    @override
    def build(self, spec: ModelSpec, facts: BuildFacts) -> nn.Module:
        """The model of the recipe; where it names none, a new one over the items.

        Raises:
            ModelError: none is named, and the rows are token ids, which say nothing of the items that there are.
        """
        if facts["module"] is not None or spec.name is not None:
            return super().build(spec, facts)
        if self.facts.tokenizer is None:
            raise ModelError(
                "model.name: rows of token ids do not say how many items there are; name a model"
            )
        rows = len(cast(Sized, self.facts.tokenizer))
        made = sequential_model(
            rows,
            "causal",
            spec.config,
            positions=self.facts.max_length,
            dropout=facts["dropout"],
            seed=facts["seed"],
        )
        facts["note"](f"the model is new: {type(made).__name__} over {rows - len(SPECIAL):,} items")
        return super().build(spec.model_copy(update={"config": {}}), {**facts, "module": made})

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """Those of `metrics.recommend.USUAL`."""
        return tuple(map(self.metric, USUAL))

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of ranks.

        Raises:
            RecipeError: with the names there are.
        """
        return recommend_metric(name, self._items, where=where)

    @property
    def _items(self) -> int:
        known = self.facts.vocabulary
        return 0 if known is None else known.size - len(known.special_ids)

    @property
    def _listed(self) -> int:
        """Items of a list that figures look at."""
        return max([DEPTH, *(depth_of(each) for each in self.facts.metrics if isinstance(each, str))])

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Histories: a unit for each item that is predicted; of rows to predict one, behind the last item."""
        return [self._sample(row, tokenizer, labelled) for row in rows]

    def _sample(self, row: Row, tokenizer: Tokenizer | None, labelled: bool) -> Sample:
        if is_tokenised(row):
            ids, known = tokenised_inputs(row).ids, None
        else:
            assert tokenizer is not None
            ids = np.array(ids_of(tokenizer, items_of(row["item"])), np.int32)
            known = row.get(KNOWN)
        read_T = ids != UNKNOWN if tokenizer is not None else np.ones(len(ids), bool)
        at_T = np.cumsum(read_T) - 1  # the last known item up to and with each
        read = ids[read_T]
        if not len(read) and not labelled:
            raise NoTokens("none of its items is known")
        if not len(read):  # there is nothing to predict from, or to learn
            return _with_units(np.array([UNKNOWN], np.int32), (_NONE, _NONE), evaluated=known is not None)
        if not labelled:
            units = np.zeros(1, np.int64), np.array([len(read) - 1])
            return _with_units(read, units, evaluated=True)
        targets = np.arange(max(known or 0, 1), len(ids))
        before = at_T[targets - 1]
        targets, before = targets[before >= 0], before[before >= 0]
        return _with_units(read, (ids[targets], before), evaluated=known is not None)

    def arrange(self, table: Table) -> Table:
        """Histories in windows."""
        most = self.facts.block_length
        assert most is not None, "the run tells the task its max_length"
        return history_windows(table, most, min(self.stride or max(1, most // 2), most))

    # ------------------------------------------------------------ evaluation and prediction

    def keep(self, outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
        """(U, 2 + n) float64: nats of the true item, its rank, and the first of the list (`metrics.recommend`)."""
        return self._ranked(outputs, targets, self._listed)[0]

    def _ranked(
        self, outputs: Tensor | DeferredLogits, targets: Targets, listed: int
    ) -> tuple[Tensor, Tensor]:
        """What `keep` keeps, with lists of this length, and the log probabilities of what is listed."""
        values_U, seen_UH = targets.values.long(), targets.extras.get(SEEN)
        rows = 0 if self.facts.vocabulary is None else self.facts.vocabulary.size
        listed = min(listed, self._items)
        kept = torch.zeros(len(values_U), LISTED + listed, dtype=torch.float64, device=values_U.device)
        told = torch.zeros(len(values_U), listed, dtype=torch.float64, device=values_U.device)
        for part, logits_UV in logits_in_parts(outputs):
            kept[part, NLL] = functional.cross_entropy(logits_UV, values_U[part], reduction="none").double()
            scores_UV = logits_UV[:, :rows].clone()
            scores_UV[:, list(self._never)] = -torch.inf
            if seen_UH is not None and not self.repeats:
                scores_UV.scatter_(1, seen_UH[part].long(), -torch.inf)
            own_U1 = scores_UV.gather(1, values_U[part, None].clamp(max=rows - 1))
            # What is no number is never ahead; what cannot be recommended comes last.
            kept[part, RANK] = (~(scores_UV < own_U1)).sum(1).clamp(max=self._items).double()
            best, order = scores_UV.topk(listed)
            kept[part, LISTED:] = torch.where(best == -torch.inf, -1, order).double()
            told[part] = (best - logits_UV.logsumexp(1, keepdim=True)).double()
        return kept, told

    @property
    def _never(self) -> tuple[int, ...]:
        """Ids that are no items."""
        return () if self.facts.vocabulary is None else self.facts.vocabulary.special_ids

    def decode(self, kept: np.ndarray) -> Predictions:
        """What `keep` kept, for the metrics."""
        kept = np.asarray(kept, np.float64)
        return Predictions(kind="language", scores=kept, probabilities=None, values=kept[:, RANK] <= 1)

    def perfect(self, targets: Targets) -> np.ndarray:
        """No surprise; the true item comes first."""
        values_U = np.asarray(targets.values, np.float64)
        return np.column_stack([np.zeros(len(values_U)), np.ones(len(values_U)), values_U])

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The items that each user is likeliest to have next.

        Yields:
            `{"items", "scores"}`, the likeliest first; scores are log probabilities over all items, nats.
        """
        table = self.arrange(as_table(samples))

        def keep(outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
            return torch.cat([each for each in self._ranked(outputs, targets, self.top)], dim=1)

        found = run(table, keep)
        listed = (found.shape[1] - LISTED) // 2
        for row, kept in zip(rows, found, strict=True):
            ids = [int(number) for number in kept[LISTED : LISTED + listed] if number >= 0]
            scores = kept[LISTED + listed :][: len(ids)].tolist()
            names = ids if tokenizer is None else names_of(tokenizer, ids)
            user = {} if row.get("user") is None else {"user": row["user"]}
            yield {**user, "items": names, "scores": scores}

    def nothing(self) -> dict[str, Json]:
        """The prediction for a history without a known item."""
        return {"items": [], "scores": []}


_NONE = np.empty(0, np.int64)


def _with_units(ids: np.ndarray, units: tuple[np.ndarray, np.ndarray], *, evaluated: bool) -> Sample:
    """A history with units (targets, places that they are read at)."""
    values, reads = units
    return Sample(
        ids=ids,
        reads=reads.astype(np.int32),
        values=values.astype(np.int64),
        weights=np.ones(len(values), np.float32),
        extras={EVALUATED: np.full(len(values), float(evaluated), np.float32)},
    )

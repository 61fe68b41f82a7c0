"""Preferences: of two answers to a prompt, make the chosen one likelier than the other (DPO; Rafailov et al. 2023).

    ratio(y)       = log p(y | prompt) - log p_start(y | prompt)        sums over the tokens of the answer y
    margin of pair = ratio(chosen) - ratio(rejected)
    dpo            = -(1 - s) log sigmoid(beta margin) - s log sigmoid(-beta margin)
    ipo            = (margin - 1 / (2 beta))^2

p_start is the model that the run starts from; its sums are computed once (`tasks.derived`). s is `loss.label_smoothing`
(cDPO; Mitchell 2023); ipo is equation 17 of Azar et al. 2023. What the loss divides by is the number of pairs in the
global batch.

Shapes: U units (tokens of answers), S sequences (prompt and answer), P pairs; S = 2 P, the chosen one first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from bigbatch.data.sides import CHOSEN, REJECTED, SIDE, TOKEN, sequence_starts, side_table
from bigbatch.data.tokens import as_table
from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.prefer import pair_metrics
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.answers import encode_answers
from bigbatch.tasks.base import NOT_AN_OPTION, RunTable, Task
from bigbatch.tasks.derived import Derived, derived
from bigbatch.tasks.language import logits_in_parts, surprise_U
from bigbatch.tasks.losses import refuse_settings

if TYPE_CHECKING:
    from bigbatch.model.logits import DeferredLogits
    from bigbatch.recipe.learning import LossSpec

REFERENCE = "reference"
"""The derived column: log probability of each sequence's answer by the model that the run starts from."""


MOST_BETA = 1e4
"""From far below it on, a pair that is right by a hair has no loss left."""


def dpo(margins_P: Tensor, beta: float, smoothing: float) -> Tensor:
    """Nats of each pair (P,).

    Args:
        margins_P: (P,) by how many nats more than at the start the chosen answer is likelier than the other.
        beta: how strongly the model is held to the reference, 1 / nats.
        smoothing: share of pairs that are held to be the wrong way round.
    """
    right_P = functional.logsigmoid(beta * margins_P)
    return -(1 - smoothing) * right_P - smoothing * functional.logsigmoid(-beta * margins_P)


def ipo(margins_P: Tensor, beta: float, smoothing: float) -> Tensor:
    """Squared distance of each pair's margin from 1 / (2 beta) (P,).

    Args:
        margins_P: as of `dpo`.
        beta: as of `dpo`.
        smoothing: not used; `Prefer.with_loss` refuses any but 0.
    """
    del smoothing
    return (margins_P - 1 / (2 * beta)).square()


LOSSES: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {"dpo": dpo, "ipo": ipo}
"""`loss` of the recipe -> (margins, beta, smoothing) -> one value a pair."""


@dataclass(frozen=True, kw_only=True)
class Prefer(Task["Tensor | DeferredLogits"]):
    """Which of two answers is preferred, learnt by a causal model."""

    beta: float = 0.1
    """How strongly the model is held to where it starts from."""
    loss_name: str = field(default="dpo", metadata=NOT_AN_OPTION)
    """`loss.name`."""
    smoothing: float = field(default=0.0, metadata=NOT_AN_OPTION)
    """`loss.label_smoothing`: the share of pairs that are held to be the wrong way round."""

    couples = "group"

    def __post_init__(self) -> None:
        if not 0 < self.beta <= MOST_BETA:
            what = f"found {self.beta:g}; expected a number above 0, at most {MOST_BETA:g}"
            raise RecipeError([Problem(where="recipe", key="task.beta", what=what)])
        if not self.smoothing < 0.5:
            what = f"found {self.smoothing:g}; from 0.5 on the rejected answer would be preferred"
            raise RecipeError([Problem(where="recipe", key="loss.label_smoothing", what=what)])

    @override
    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with `loss:` of the recipe; without one it is `dpo`.

        Raises:
            RecipeError: another loss, or an option that it has not.
        """
        del folder
        name = "dpo" if loss.name == "cross_entropy" else loss.name
        known = f"expected {', '.join(LOSSES)}"
        wrong = {
            "name": (name not in LOSSES, f"found {name}; of task prefer {known}"),
            "label_smoothing": (
                name != "dpo" and loss.label_smoothing > 0, f"dpo has it, {name} has not: leave it out"
            ),
            "class_weights": (loss.class_weights != "none", "pairs have no classes; leave it out"),
            "args": (bool(loss.args), "its options are task.beta and loss.label_smoothing; leave it out"),
        }  # fmt: skip
        refuse_settings({key: what for key, (is_so, what) in wrong.items() if is_so}, where)
        return replace(self, loss_name=name, smoothing=loss.label_smoothing)

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return {
            "prompt": Role(meaning="what is answered", may_be_ids=True),
            "chosen": Role(meaning="the answer that is preferred", may_be_ids=True),
            "rejected": Role(meaning="another answer", may_be_ids=True),
        }

    @property
    def head(self) -> Head:
        """A head that gives the next token."""
        return Head(kind="causal")

    @property
    def longest(self) -> int | None:
        """Any number of tokens: prompts are cut, of token ids too."""
        return None

    @property
    def needs(self) -> tuple[Derived, ...]:
        """The log probabilities of the model that the run starts from."""
        return (Derived(REFERENCE, log_probabilities),)

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """All there are."""
        return tuple(pair_metrics().values())

    # ------------------------------------------------------------ rows to samples

    def encode(self, row: Row, tokenizer: Tokenizer | None) -> Sample:
        """One row as a sample: its two sequences one behind the other."""
        return self.encode_batch([row], tokenizer)[0]

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows, with two calls of the tokenizer."""
        del labelled
        return encode_answers(rows, tokenizer, self.facts.max_length)

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows sequence by sequence; the same in every epoch."""
        del epochs_B
        return side_table(table, rows_B)

    def fixed(self, table: Table) -> Table:
        """A whole split sequence by sequence."""
        return side_table(table, np.arange(len(table), dtype=np.int64))

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Pairs: the sum of their weights, fp64 (numpy)."""
        starts_S = sequence_starts(np.asarray(targets.values))
        return {self.loss_name: float(np.sum(np.asarray(targets.weights)[starts_S[0::2]], dtype=np.float64))}

    def loss(self, outputs: Tensor | DeferredLogits, targets: Targets) -> dict[str, Tensor]:
        """One weighted value per pair (P,).

        Args:
            outputs: (U, V) logits, or their factors, of whole pairs.
            targets: theirs, as tensors on the same device, sequence by sequence.
        """
        ratios_U = -surprise_U(outputs, targets.values[:, TOKEN]).double() - _references(targets)
        return self._losses(ratios_U, targets)

    def _losses(self, ratios_U: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Of each unit's part of the ratio of its sequence, fp64."""
        starts_S = _starts(targets)
        sides_S = targets.values[starts_S, SIDE].long()
        alternating_S = torch.arange(len(starts_S), device=sides_S.device) % 2
        assert len(starts_S) % 2 == 0 and torch.equal(sides_S, alternating_S), "a pair was torn apart"
        sequence_U = torch.zeros(len(ratios_U), dtype=torch.int64, device=ratios_U.device)
        sequence_U[starts_S] = 1
        ratios_S = ratios_U.new_zeros(len(starts_S)).index_add(0, sequence_U.cumsum(0) - 1, ratios_U)
        margins_P = ratios_S[CHOSEN::2] - ratios_S[REJECTED::2]
        weights_P = targets.weights[starts_S[CHOSEN::2]].double()
        return {self.loss_name: LOSSES[self.loss_name](margins_P, self.beta, self.smoothing) * weights_P}

    # ------------------------------------------------------------ evaluation and prediction

    def keep(self, outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
        """(U, 1) float64: each unit's part of its sequence's ratio."""
        return log_probabilities(outputs, targets) - _references(targets)[:, None]

    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Weighted value of each pair (P,) float64."""
        tensors = targets.map(lambda values: torch.from_numpy(np.array(values)))
        found = self._losses(torch.from_numpy(np.asarray(kept, np.float64))[:, 0], tensors)
        return {term: losses_P.numpy() for term, losses_P in found.items()}

    def decode(self, kept: np.ndarray) -> Predictions:
        """Each unit's part of its sequence's reward (U, 1), for the metrics."""
        rewards_U1 = self.beta * np.asarray(kept, np.float64)
        return Predictions(kind="language", scores=rewards_U1, probabilities=None, values=rewards_U1[:, 0])

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The two rewards of each row, and which answer has the larger one.

        Yields:
            `{"preferred", "chosen", "rejected"}`: the name of a column (None: both rewards are the same), and the
            rewards of both, beta (log p - log p_start), nats.
        """
        del rows, tokenizer
        table = derived(self.fixed(as_table(samples)), self.needs, self.facts)
        parts_U = self.decode(run(table, self.keep)).scores[:, 0]
        rewards_S = np.add.reduceat(parts_U, sequence_starts(table.values))
        for chosen, rejected in zip(
            rewards_S[CHOSEN::2].tolist(), rewards_S[REJECTED::2].tolist(), strict=True
        ):
            known = math.isfinite(chosen) and math.isfinite(rejected)
            better = "chosen" if chosen > rejected else "rejected" if chosen < rejected else None
            yield {
                "preferred": better,
                "chosen": chosen if known else None,
                "rejected": rejected if known else None,
            }

    def nothing(self) -> dict[str, Json]:
        """The prediction of a row of which an answer has no tokens."""
        return {"preferred": None, "chosen": None, "rejected": None}


def log_probabilities(outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
    """(U, 1) float64: log probability of each unit's token, nats."""
    tokens_U = targets.values[:, TOKEN].long()
    found_U1 = torch.zeros(len(tokens_U), 1, dtype=torch.float64, device=tokens_U.device)
    for part, logits_UV in logits_in_parts(outputs):
        found_U1[part, 0] = -functional.cross_entropy(logits_UV, tokens_U[part], reduction="none").double()
    return found_U1


def _starts(targets: Targets) -> Tensor:
    """(S,) int64: the first unit of each sequence."""
    found = targets.values[:, SIDE:]
    changes_U = torch.ones(len(found), dtype=torch.bool, device=found.device)
    changes_U[1:] = (found[1:] != found[:-1]).any(1)
    return changes_U.nonzero()[:, 0]


def _references(targets: Targets) -> Tensor:
    """(U,) float64: the reference of each sequence, at its first unit."""
    starts_S, references_U = _starts(targets), targets.extras[REFERENCE]
    return torch.zeros_like(references_U).index_copy(0, starts_S, references_U[starts_S])

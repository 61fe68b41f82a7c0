"""Preferences: of two answers to a prompt, make the chosen one likelier than the other (DPO; Rafailov et al. 2023).

What is minimised is one of `tasks.pair_losses`, of the log probabilities of both answers. Those by the model that the
run starts from, which some losses hold them against, are computed once (`tasks.derived`). What a term of the loss
divides by is the number of pairs in the global batch (of tokens, where it counts tokens).

Shapes: U units (tokens of answers), S sequences (prompt and answer), P pairs; S = 2 P, the chosen one first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from bigbatch.files.problems import listed
from bigbatch.metrics.prefer import pair_metrics
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Table, Targets
from bigbatch.tasks.answers import answer_roles, encode_answers, told_rewards
from bigbatch.tasks.base import NOT_AN_OPTION, RunTable, Task
from bigbatch.tasks.derived import Derived, derived
from bigbatch.tasks.language import logits_in_parts, surprise_U
from bigbatch.tasks.losses import refuse_settings
from bigbatch.tasks.pair_losses import LOSSES, PairLoss, Scores, Settings, option_problem

if TYPE_CHECKING:
    from bigbatch.model.logits import DeferredLogits
    from bigbatch.recipe.learning import LossSpec

REFERENCE = "reference"
"""The derived column: log probability of each sequence's answer by the model that the run starts from."""


MOST_BETA = 1e4
"""From far below it on, a pair that is right by a hair has no loss left."""


@dataclass(frozen=True, kw_only=True)
class Prefer(Task["Tensor | DeferredLogits"]):
    """Which of two answers is preferred, learnt by a causal model."""

    beta: float | None = None
    """How strongly the model is held to where it starts from; simpo: what margins are multiplied by; orpo: weight of
    the odds. None: as the loss has it (`pair_losses.LOSSES`)."""
    template: str | None = None
    """How messages are written: `chatml`, or a file; None: by the tokenizer's own chat template."""
    loss_name: str = field(default="dpo", metadata=NOT_AN_OPTION)
    """`loss.name`."""
    asked: Settings = field(default=Settings(), metadata=NOT_AN_OPTION)
    """`loss.label_smoothing` and `loss.args`."""

    couples = "group"

    def __post_init__(self) -> None:
        if self.beta is not None and not 0 < self.beta <= MOST_BETA:
            what = f"found {self.beta:g}; expected a number above 0, at most {MOST_BETA:g}"
            raise RecipeError([Problem(where="recipe", key="task.beta", what=what)])
        if not self.asked.smoothing < 0.5:
            what = f"found {self.asked.smoothing:g}; from 0.5 on the rejected answer would be preferred"
            raise RecipeError([Problem(where="recipe", key="loss.label_smoothing", what=what)])

    @override
    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with `loss:` of the recipe; without one it is `dpo`.

        Raises:
            RecipeError: another loss, or an option that it has not.
        """
        del folder
        name = "dpo" if loss.name == "cross_entropy" else loss.name
        kind = LOSSES.get(name, LOSSES["dpo"])
        known = f"expected {', '.join(LOSSES)}"
        has = ", ".join(kind.options) or "none"
        wrong = {
            "name": (name not in LOSSES, f"found {name}; of task prefer {known}"),
            "label_smoothing": (
                not kind.smooths and loss.label_smoothing > 0,
                f"{listed([each for each, one in LOSSES.items() if one.smooths])} have it; leave it out",
            ),
            "class_weights": (loss.class_weights != "none", "pairs have no classes; leave it out"),
        }  # fmt: skip
        for key, value in loss.args.items():
            allowed = kind.options.get(key)
            what = (
                f"{name} has no such option (it has: {has})"
                if allowed is None
                else option_problem(allowed, value)
            )
            wrong[f"args.{key}"] = (name in LOSSES and what is not None, what or "")
        refuse_settings({key: what for key, (is_so, what) in wrong.items() if is_so}, where)
        return replace(
            self, loss_name=name, asked=replace(Settings(smoothing=loss.label_smoothing), **loss.args)
        )

    @property
    def kind_of_loss(self) -> PairLoss:
        """What `loss.name` stands for."""
        return LOSSES[self.loss_name]

    @property
    def settings(self) -> Settings:
        """Of the loss."""
        return replace(self.asked, beta=self.kind_of_loss.beta if self.beta is None else self.beta)

    @property
    def averages(self) -> bool:
        """Whether the score of an answer is the mean over its tokens; else it is their sum."""
        return self.kind_of_loss.means or self.settings.length_normalised

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return answer_roles(absent_when_predicting=False)

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
        """The log probabilities of the model that the run starts from, where the loss is held to them."""
        return (Derived(REFERENCE, log_probabilities),) if self.kind_of_loss.from_start else ()

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """All there are."""
        return tuple(pair_metrics().values())

    # ------------------------------------------------------------ rows to samples

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
        """Pairs, or tokens of their chosen answers: the sum of their weights, fp64 (numpy)."""
        starts_S = sequence_starts(np.asarray(targets.values))
        weights_P = np.asarray(targets.weights, np.float64)[starts_S[CHOSEN::2]]
        tokens_P = np.diff(starts_S, append=len(targets.weights))[CHOSEN::2]
        by_token = self.settings.nll == "tokens"
        return {
            term: float(np.sum(weights_P * tokens_P if term == "nll" and by_token else weights_P))
            for term in self.kind_of_loss.terms
        }

    def loss(self, outputs: Tensor | DeferredLogits, targets: Targets) -> dict[str, Tensor]:
        """Per term, one weighted value per pair (P,).

        Args:
            outputs: (U, V) logits, or their factors, of whole pairs.
            targets: theirs, as tensors on the same device, sequence by sequence.
        """
        parts_U = -surprise_U(outputs, targets.values[:, TOKEN]).double()
        return self._losses(self._parts(parts_U, targets), targets)

    def _parts(self, logp_U: Tensor, targets: Targets) -> Tensor:
        """(U,) float64: each unit's part of the score of its sequence, of log probabilities."""
        parts_U = logp_U - _references(targets) if self.needs else logp_U
        if not self.averages:
            return parts_U
        starts_S = _starts(targets)
        return parts_U / _lengths(starts_S, len(parts_U))[_sequences(starts_S, len(parts_U))]

    def _losses(self, parts_U: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Of each unit's part of the score of its sequence, fp64."""
        starts_S = _starts(targets)
        sides_S = targets.values[starts_S, SIDE].long()
        alternating_S = torch.arange(len(starts_S), device=sides_S.device) % 2
        assert len(starts_S) % 2 == 0 and torch.equal(sides_S, alternating_S), "a pair was torn apart"
        scores_S = parts_U.new_zeros(len(starts_S)).index_add(0, _sequences(starts_S, len(parts_U)), parts_U)
        scores = Scores(
            chosen_P=scores_S[CHOSEN::2],
            rejected_P=scores_S[REJECTED::2],
            tokens_P=_lengths(starts_S, len(parts_U))[CHOSEN::2],
        )
        weights_P = targets.weights[starts_S[CHOSEN::2]].double()
        losses = self.kind_of_loss.of(scores, self.settings)
        return {term: losses_P * weights_P for term, losses_P in losses.items()}

    # ------------------------------------------------------------ evaluation and prediction

    def keep(self, outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
        """(U, 1) float64: each unit's part of its sequence's score."""
        return self._parts(log_probabilities(outputs, targets)[:, 0], targets)[:, None]

    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Weighted value of each pair (P,) float64."""
        tensors = targets.map(lambda values: torch.from_numpy(np.array(values)))
        found = self._losses(torch.from_numpy(np.asarray(kept, np.float64))[:, 0], tensors)
        return {term: losses_P.numpy() for term, losses_P in found.items()}

    def decode(self, kept: np.ndarray) -> Predictions:
        """Each unit's part of its sequence's reward (U, 1), for the metrics."""
        rewards_U1 = self.settings.beta * np.asarray(kept, np.float64)
        return Predictions(kind="language", scores=rewards_U1, probabilities=None, values=rewards_U1[:, 0])

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The two rewards of each row, and which answer has the larger one.

        Yields:
            `{"preferred", "chosen", "rejected"}`: the name of a column (None: both rewards are the same), and the
            rewards of both, beta times their scores, nats.
        """
        del rows, tokenizer
        table = derived(self.fixed(as_table(samples)), self.needs, self.facts)
        parts_U = self.decode(run(table, self.keep)).scores[:, 0]
        rewards_S = np.add.reduceat(parts_U, sequence_starts(table.values))
        for chosen, rejected in zip(
            rewards_S[CHOSEN::2].tolist(), rewards_S[REJECTED::2].tolist(), strict=True
        ):
            yield told_rewards(chosen, rejected)

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


def _sequences(starts_S: Tensor, units: int) -> Tensor:
    """(U,) int64: the sequence of each unit."""
    sequence_U = torch.zeros(units, dtype=torch.int64, device=starts_S.device)
    sequence_U[starts_S] = 1
    return sequence_U.cumsum(0) - 1


def _lengths(starts_S: Tensor, units: int) -> Tensor:
    """(S,) float64: units of each sequence."""
    return torch.diff(starts_S, append=starts_S.new_tensor([units])).double()


def _references(targets: Targets) -> Tensor:
    """(U,) float64: the reference of each sequence, at its first unit."""
    starts_S, references_U = _starts(targets), targets.extras[REFERENCE]
    return torch.zeros_like(references_U).index_copy(0, starts_S, references_U[starts_S])

"""Reward models: a number for an answer to a prompt, learnt of pairs with a preferred one (Bradley and Terry 1952).

    reward   = -log sigmoid(r(chosen) - r(rejected) - margin)
    centring = c (r(chosen) + r(rejected))^2

r is the one output of a sequence classifier. The margin is the pair's own, if there is one (Touvron et al. 2023, Llama
2, equation 2). Pairs say nothing of where 0 is; the second term puts it amid them (Eisenstein et al. 2023, equation 3).
Both divide by the number of pairs in the global batch.

Shapes: U units, one a sequence; P pairs; U = 2 P, the chosen one first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from bigbatch.data.sides import CHOSEN, REJECTED, SIDE, side_table
from bigbatch.data.talks import is_talk
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.metrics.prefer import pair_metrics
from bigbatch.model.anatomy import headed_model
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.recipe.learning import ModelSpec
from bigbatch.samples import UNITS, Predictions, Sample, Table, Targets
from bigbatch.tasks.answers import ANSWERS, answer_roles, encode_answers, told_rewards
from bigbatch.tasks.base import RunTable, Task
from bigbatch.tasks.facts import BuildFacts
from bigbatch.tasks.inputs import Inputs, encode_texts
from bigbatch.tasks.losses import Kind

if TYPE_CHECKING:
    from transformers import PretrainedConfig

TERM, CENTRING = "reward", "centring"
REWARD = "reward"
"""What a model's configuration calls its one output."""
MARGIN = "margin"
ANSWER = "answer"


@dataclass(frozen=True, kw_only=True)
class Reward(Task[Tensor]):
    """How good an answer is, learnt by a sequence classifier with one output."""

    template: str | None = None
    """How messages are written: `chatml`, or a file; None: by the tokenizer's own chat template."""
    centring: float = 0.0
    """Weight of the term that keeps rewards around 0; 0: there is none."""

    couples = "group"
    loss_is_own = "task reward has a loss of its own (task.centring); leave `loss` out"

    def __post_init__(self) -> None:
        if not 0 <= self.centring < math.inf:
            what = f"found {self.centring:g}; expected a number from 0"
            raise RecipeError([Problem(where="recipe", key="task.centring", what=what)])

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read."""
        return {
            **answer_roles(absent_when_predicting=True),
            ANSWER: Role(
                meaning="an answer to be told the reward of",
                may_be_ids=True,
                may_be_messages=True,
                required=False,
            ),
            MARGIN: Role(meaning="by how much the chosen one is better", kind="number", required=False),
        }

    @property
    def kind(self) -> Kind:
        """A number, and no label that anybody wrote down."""
        return "single"

    @property
    def head(self) -> Head:
        """One output for a sequence."""
        return Head(kind="sequence", outputs=1)

    @property
    def title(self) -> str:
        """Of the model card."""
        return "Reward model"

    @override
    def build(self, spec: ModelSpec, facts: BuildFacts) -> nn.Module:
        """A sequence classifier with one output, which its configuration calls a reward: so the folder is known."""
        module = super().build(spec, facts)
        config: PretrainedConfig = headed_model(module).config  # pyright: ignore
        config.id2label, config.label2id = {0: REWARD}, {REWARD: 0}
        return module

    @property
    def longest(self) -> int | None:
        """Any number of tokens: prompts are cut, of token ids too."""
        return None

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """All there are."""
        return tuple(pair_metrics().values())

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows, with two calls of the tokenizer; of rows to predict, those of one answer have one sequence."""
        both = [labelled or all(row.get(name) is not None for name in ANSWERS) for row in rows]
        whole = [
            row if two else {**row, **dict.fromkeys(ANSWERS, _answer(row))}
            for row, two in zip(rows, both, strict=True)
        ]
        samples = self._pairs(whole, tokenizer)
        samples = [_of_units(sample, row) for sample, row in zip(samples, whole, strict=True)]
        return [each if two else _sides(each)[0] for each, two in zip(samples, both, strict=True)]

    def _pairs(self, rows: Sequence[Row], tokenizer: Tokenizer | None) -> list[Sample]:
        """An encoder is shown a prompt and an answer as it is any two texts; others read one behind the other."""
        both_texts = all(isinstance(row["prompt"], str) and not is_talk(row["prompt"]) for row in rows)
        if self.facts.pools != "first" or not both_texts:
            return encode_answers(rows, tokenizer, self.facts.max_length)
        prompts = [row["prompt"] for row in rows]
        sides = [
            encode_texts(prompts, [row[name] for row in rows], tokenizer, self.facts.max_length)
            for name in ANSWERS
        ]
        return [_joined(*pair) for pair in zip(*sides, strict=True)]

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows sequence by sequence; the same in every epoch."""
        del epochs_B
        return self._read(side_table(table, rows_B))

    def fixed(self, table: Table) -> Table:
        """A whole split sequence by sequence."""
        return self._read(side_table(table, np.arange(len(table), dtype=np.int64)))

    def _read(self, table: Table) -> Table:
        """Each sequence's unit is read where the model's head reads."""
        units, lengths_S = table[UNITS].load(), table.lengths_B
        at_S = np.zeros_like(lengths_S) if self.facts.pools == "first" else lengths_S - 1
        return table.replaced(units=replace(units, columns={**units.columns, "at": at_S.astype(np.int32)}))

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Pairs: the sum of their weights, fp64 (numpy)."""
        pairs = float(np.sum(np.asarray(targets.weights)[CHOSEN::2], dtype=np.float64))
        return dict.fromkeys((TERM, CENTRING) if self.centring else (TERM,), pairs)

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Per term, one weighted value per pair (P,).

        Args:
            outputs: (U, 1) rewards of whole pairs.
            targets: theirs, as tensors on the same device, sequence by sequence.
        """
        sides_U = targets.values[:, SIDE]
        alternating_U = torch.arange(len(sides_U), device=sides_U.device) % 2
        assert len(sides_U) % 2 == 0 and torch.equal(sides_U.long(), alternating_U), "a pair was torn apart"
        rewards_U, weights_P = outputs[:, 0].double(), targets.weights[CHOSEN::2].double()
        chosen_P, rejected_P = rewards_U[CHOSEN::2], rewards_U[REJECTED::2]
        margins_P = targets.extras[MARGIN][CHOSEN::2].double()
        found = {TERM: -functional.logsigmoid(chosen_P - rejected_P - margins_P) * weights_P}
        if self.centring:
            found[CENTRING] = self.centring * (chosen_P + rejected_P).square() * weights_P
        return found

    # ------------------------------------------------------------ evaluation and prediction

    def decode(self, kept: np.ndarray) -> Predictions:
        """Rewards (U, 1)."""
        rewards_U1 = np.asarray(kept, np.float64)
        return Predictions(kind="language", scores=rewards_U1, probabilities=None, values=rewards_U1[:, 0])

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The reward of each row's answer; of rows with a chosen and a rejected one, both, and the better one.

        Yields:
            `{"reward"}`, or `{"preferred", "chosen", "rejected"}`: the name of a column (None: both rewards are the
            same), and both rewards.
        """
        del rows, tokenizer
        sides = [_sides(sample) for sample in samples]
        table = self._read(as_table([each for own in sides for each in own]))
        rewards = iter(self.decode(run(table, self.keep)).values.tolist())
        for own in sides:
            found = [next(rewards) for _ in own]
            if len(found) == 1:
                yield {"reward": found[0] if math.isfinite(found[0]) else None}
            else:
                yield told_rewards(*found)

    def nothing(self) -> dict[str, Json]:
        """The prediction of a row of which an answer has no tokens."""
        return {"reward": None}


def _answer(row: Row) -> Sequence[int] | str:
    """The one answer of a row to predict."""
    found = [row[name] for name in (ANSWER, *ANSWERS) if row.get(name) is not None]
    if len(found) != 1:
        raise DataError("found no answer; expected `answer`, or `chosen` and `rejected`")
    return found[0]


def _joined(chosen: Inputs, rejected: Inputs) -> Sample:
    """Both sequences, one behind the other; as `encode_answers`, the last unit of each stands before its last token."""
    first, length = len(chosen.ids), len(rejected.ids)
    segments = [one.segments for one in (chosen, rejected) if one.segments is not None]
    told_apart = not np.array_equal(chosen.ids, rejected.ids)
    return Sample(
        ids=np.concatenate([chosen.ids, rejected.ids]),
        segments=np.concatenate(segments) if segments else None,
        reads=np.array([first - 2, first + length - 2], np.int32),
        values=np.array([[chosen.ids[-1], CHOSEN], [rejected.ids[-1], REJECTED]], np.int32),
        weights=np.full(2, told_apart, np.float32),
        truncated=chosen.truncated or rejected.truncated,
    )


def _of_units(sample: Sample, row: Row) -> Sample:
    """One unit a sequence, the last of its answer, with the margin of its pair."""
    sides = np.asarray(sample.values)[:, SIDE]
    last = np.array([np.flatnonzero(sides == side)[-1] for side in (CHOSEN, REJECTED)])
    margin = row.get(MARGIN)
    return replace(
        sample,
        reads=sample.reads[last],
        values=np.asarray(sample.values)[last],
        weights=sample.weights[last],
        extras={MARGIN: np.full(2, 0.0 if margin is None else float(margin), np.float32)},
    )


def _sides(sample: Sample) -> list[Sample]:
    """Each sequence of a sample by itself."""
    ends = [int(read) + 2 for read in sample.reads]
    firsts = [0, *ends[:-1]]
    return [
        replace(
            sample,
            ids=sample.ids[first:end],
            segments=None if sample.segments is None else sample.segments[first:end],
            reads=np.array([end - first - 2], np.int32),
            values=np.asarray(sample.values)[number : number + 1],
            weights=sample.weights[number : number + 1],
            extras={name: numbers[number : number + 1] for name, numbers in sample.extras.items()},
        )
        for number, (first, end) in enumerate(zip(firsts, ends, strict=True))
    ]

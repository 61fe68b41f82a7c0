"""Conversations: say what the assistant said, in the model's own chat template (supervised fine-tuning).

    loss = sum over the assistant's tokens  w_t (-log softmax(logits_t)[token_t])  /  sum of w_t over the global batch

The unit is a token of the assistant's turns, the end mark of each included, since that is how the model learns to stop;
what the system, the user and tools say is read and never learnt. The clock counts tokens, read ones too. Which tokens
are the assistant's is found from the turns (`tasks.dialogue`), not from marks in the template, which most have not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import override

from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Role, Row, Tokenizer
from bigbatch.samples import Sample
from bigbatch.tasks.base import RunTable
from bigbatch.tasks.chat_rows import TURNS, ChatRows
from bigbatch.tasks.inputs import is_tokenised, tokenised_inputs
from bigbatch.tasks.language import PredictedTokens, told_surprise
from bigbatch.tasks.losses import IGNORED
from bigbatch.tasks.templates import template_of, with_template

MESSAGES = "messages"
"""Role, and the kind of it."""


@dataclass(frozen=True, kw_only=True)
class Chat(PredictedTokens):
    """What the assistant says in a conversation."""

    template: str | None = None
    """`chatml`, or a file; None: the tokenizer's own."""
    turns: Literal["all", "last"] = "all"
    """Which of the assistant's turns are learnt."""
    too_long: Literal["skip", "cut", "refuse"] = "skip"
    """What becomes of a conversation whose last question and answer alone have no room."""
    special: Literal["text", "tokens", "refuse"] = "text"
    """What special tokens in the text of a turn are."""

    known_metrics = ("perplexity", "accuracy")
    clock = "tokens"
    loss_is_own = "task chat takes the cross-entropy of the assistant's tokens, without options; leave it out"

    def __post_init__(self) -> None:
        for name, known in (("turns", _TURNS), ("too_long", _TOO_LONG), ("special", _SPECIAL)):
            if getattr(self, name) not in known:
                what = f"found {getattr(self, name)!r}; expected {', '.join(known)}"
                raise RecipeError([Problem(where="recipe", key=f"task.{name}", what=what)])

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The turns of a conversation."""
        return {MESSAGES: Role(meaning="the turns of a conversation", kind=MESSAGES)}

    @property
    def head(self) -> Head:
        """A head that gives the next token."""
        return Head(kind="causal")

    def own_tokenizer(self, tokenizer: Tokenizer, place: Callable[[str], Path]) -> Tokenizer:
        """The tokenizer with the template of this task (`templates.with_template`)."""
        return with_template(tokenizer, self.template, place, "chat")

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows with one call of the tokenizer.

        Rows of token ids have `input_ids` and `labels`: the ids again, -100 for those that do not count.

        Args:
            rows: conversations as JSON text, or token ids.
            tokenizer: with a chat template; None where all are token ids.
            labelled: rows to predict may be token ids without labels.
        """
        told = [row for row in rows if not is_tokenised(row)]
        found = iter(self._reader(tokenizer).samples(told, MESSAGES) if told else [])
        return [_of_ids(row, labelled=labelled) if is_tokenised(row) else next(found) for row in rows]

    def _reader(self, tokenizer: Tokenizer | None) -> ChatRows:
        return ChatRows(
            template=template_of(tokenizer, "chat", self.turns),
            max_length=self.facts.max_length or 2**31,
            too_long=self.too_long,
            special=self.special,
        )

    # ------------------------------------------------------------ prediction

    def nothing(self) -> dict[str, Json]:
        """The prediction of a conversation without tokens."""
        return {**told_surprise(0.0, 0), "turns": []}

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """How surprising what the assistant says is.

        Yields:
            `{"nll", "tokens", "perplexity", "turns"}`: nats of all its tokens, how many those are, exp(nll / tokens);
            the same of each of its turns, with `turn`, the number of the message from 1. None where nothing counts.
        """
        del rows, tokenizer
        table = as_table(samples)
        nll_U = run(table, self.keep)[:, 0]
        for number, sample in enumerate(samples):
            own = slice(*table.unit_offsets[number : number + 2])
            counted = np.asarray(sample.weights) > 0
            parts, at = [], own.start
            for turn, units in enumerate(sample.streams[TURNS]["units"].tolist()):
                if units:
                    parts.append(
                        {"turn": turn + 1, **told_surprise(float(nll_U[at : at + units].sum()), units)}
                    )
                    at += units
            yield {**told_surprise(float(nll_U[own][counted].sum()), int(counted.sum())), "turns": parts}


_TURNS, _TOO_LONG, _SPECIAL = ("all", "last"), ("skip", "cut", "refuse"), ("text", "tokens", "refuse")


def _of_ids(row: Row, *, labelled: bool) -> Sample:
    """A row of token ids as it is; its labels say what counts.

    Raises:
        DataError: labels that are missing, or are not the ids themselves.
    """
    inputs = tokenised_inputs(row)
    labels = row.get("labels")
    if labels is None and not labelled:
        labels = row["input_ids"]
    if not isinstance(labels, (list, tuple, np.ndarray)) or len(labels) != len(row["input_ids"]):
        raise DataError(
            f"labels: expected as many as input_ids, the id itself or {IGNORED} for what the assistant has not said"
        )
    mask = row.get("attention_mask")
    own = np.asarray(labels, np.int64)[slice(None) if mask is None else np.asarray(mask, bool)]
    other = np.flatnonzero((own != IGNORED) & (own != inputs.ids))
    if len(other):
        at = int(other[0])
        raise DataError(
            f"labels: found {own[at]} for token {at + 1}, whose id is {inputs.ids[at]}; expected the id itself, or "
            f"{IGNORED} for what the assistant has not said"
        )
    at = np.flatnonzero(own[1:] != IGNORED) + 1
    turns = {"state": np.empty(0, np.int8), "units": np.empty(0, np.int32), "faults": np.empty(0, np.int8)}
    return Sample(
        ids=inputs.ids,
        segments=inputs.segments,
        reads=(at - 1).astype(np.int32),
        values=inputs.ids[at].astype(np.int64),
        weights=np.ones(len(at), np.float32),
        streams={TURNS: turns},
    )

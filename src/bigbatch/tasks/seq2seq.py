"""Sequence to sequence: write a text that follows from another one (translation, summary, answer).

The encoder reads the source. The decoder reads the target, shifted right by one, and at each of its tokens predicts the
next one, the end mark included; these are the units:

    loss = sum over target tokens  w_t ((1 - s) (-log p_t[token_t]) + s mean_v (-log p_t[v]))  /  sum of w_t

over the global batch, with s the label smoothing. The clock counts tokens, of both texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from bigbatch.errors import DataError
from bigbatch.metrics.bleu import WrittenMetric, scorer
from bigbatch.metrics.written import written_metrics
from bigbatch.model.heads import Head
from bigbatch.model.logits import DeferredLogits
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import TOKENS, Sample, Targets
from bigbatch.tasks.facts import NOT_AN_OPTION
from bigbatch.tasks.given import unknown_id
from bigbatch.tasks.inputs import Inputs, NoTokens, encode_texts, is_tokenised, tokenised_inputs
from bigbatch.tasks.language import TERM, PredictedTokens, smoothed, smoothed_U
from bigbatch.tasks.losses import IGNORED
from bigbatch.tasks.vocabulary import frame_of

if TYPE_CHECKING:
    from bigbatch.recipe.learning import LossSpec

SOURCE = "source"
"""The stream that the encoder reads: a column `ids`."""
REFERENCE = "reference"
"""The stream of the target as it was written: a column `bytes`, UTF-8, of rows that are text."""


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(PredictedTokens):
    """Write the target from the source."""

    source_prefix: str = ""
    """Put in front of every source, such as T5's `translate English to German: `."""
    target_max_length: int | None = None
    """Tokens kept of a target, and written of a prediction; None: `data.max_length`, as of a source."""
    beams: int = 1
    """Texts that are pursued at a time when one is written; 1: always the likeliest token."""

    smoothing: float = field(default=0.0, metadata=NOT_AN_OPTION)
    """`loss.label_smoothing`."""

    known_metrics = ("perplexity", "accuracy")
    further_metrics = tuple(written_metrics())
    clock = "tokens"
    loss_is_own = (
        "task seq2seq takes the cross-entropy of the target's tokens (loss.label_smoothing); leave it out"
    )

    def with_loss(self, loss: LossSpec, folder: Path, *, where: str = "recipe") -> Self:
        """The same task with the recipe's label smoothing; any other loss is refused.

        Args:
            loss: the section.
            folder: of the recipe.
            where: file, for messages.

        Raises:
            RecipeError: naming the keys.
        """
        plain = loss.model_copy(update={"label_smoothing": 0.0})
        return replace(super().with_loss(plain, folder, where=where), smoothing=loss.label_smoothing)

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """Two texts."""
        return {
            "source": Role(meaning="the text to start from"),
            "target": Role(meaning="the text to write", absent_when_predicting=True, unlike="source"),
        }

    @property
    def head(self) -> Head:
        """An encoder, and a decoder that gives the next token."""
        return Head(kind="seq2seq")

    @property
    def sequences(self) -> Mapping[str, int]:
        """Source tokens through the encoder, target tokens through the decoder."""
        return {SOURCE: 1, TOKENS: 1}

    # ------------------------------------------------------------ rows to samples

    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows with two calls of the tokenizer: texts to read, and texts to write.

        Rows of token ids have `input_ids` and `labels`: the target's tokens as they are to be written, -100 for those
        that do not count. Rows to predict have no target.

        Args:
            rows: texts, or token ids.
            tokenizer: None where all are token ids.
            labelled: whether targets are wanted.
        """
        texts = [row for row in rows if not is_tokenised(row)]
        longest = self.facts.max_length
        sources = iter(
            encode_texts([self.source_prefix + row["source"] for row in texts], None, tokenizer, longest)
        )
        most = min(self.target_max_length or 2**31, longest or 2**31)
        written = [row["target"] for row in texts] if labelled else []
        as_target = None if tokenizer is None else _AsTarget(tokenizer)
        targets = iter(encode_texts(written, None, as_target, most if most < 2**31 else None))
        framed = sum(map(len, self.target_frame)) if written else 0
        found = []
        for row in rows:
            if is_tokenised(row):
                source, labels = tokenised_inputs(row), self._given_labels(row) if labelled else _NO_LABELS
                found.append(self._sample(source, labels, cut=False))
                continue
            source = next(sources)
            if not labelled:
                found.append(self._sample(source, _NO_LABELS, cut=False))
                continue
            target = next(targets)
            if len(target.ids) <= framed:
                shown = row["target"][:40]
                raise NoTokens(
                    f"target {shown!r} gives no tokens but the marks around a text, so that nothing would be learnt "
                    "but to stop; remove the row or use a tokenizer that knows its characters"
                )
            labels = self._ended(target.ids, most)
            text = np.frombuffer(row["target"].encode(), np.uint8)
            found.append(self._sample(source, labels, cut=target.truncated, text=text))
        return found

    def _given_labels(self, row: Row) -> np.ndarray:
        """Labels of a row of token ids (U,) int64, without the padding behind them.

        Raises:
            DataError: there are none, or the model cannot write them.
        """
        found = row.get("labels")
        if isinstance(found, (list, tuple, np.ndarray)) and not len(found):
            raise DataError("labels: empty list; there is nothing to write: remove the row")
        if not isinstance(found, (list, tuple, np.ndarray)) or np.asarray(found).dtype.kind not in "iu":
            raise DataError("labels: expected the target's token ids as a list, beside input_ids")
        labels = np.asarray(found, np.int64)
        if labels.ndim != 1 or bool(((labels < 0) & (labels != IGNORED)).any()):
            raise DataError(
                f"labels: found {str(found)[:40]}; expected token ids, or {IGNORED} for what does not count"
            )
        assert self.facts.vocabulary is not None, "the run tells the task its model's marks"
        known = self.facts.vocabulary.rows
        if len(labels) and labels.max() >= known:
            raise DataError(f"labels: {unknown_id('input_ids', int(labels.max()), known)}")
        counted = np.flatnonzero(labels != IGNORED)
        labels, longest = labels[: counted[-1] + 1] if len(counted) else labels[:0], self.facts.max_length
        if longest is not None and len(labels) > longest:
            what = (
                f"{len(labels)} tokens, but max_length is {longest}; token ids are not cut here: cut the rows"
            )
            raise DataError(f"labels: {what}")
        return labels

    def _ended(self, ids: np.ndarray, most: int) -> np.ndarray:
        """A target with its end mark: last, or before the mark of its language; where the tokenizer writes none, behind
        it, or the model would never learn to stop.
        """
        end = self.marks[1]
        return ids if end is None or end in ids[-2:] else np.append(ids[: most - 1], np.int32(end))

    def _sample(
        self, source: Inputs, labels: np.ndarray, *, cut: bool, text: np.ndarray | None = None
    ) -> Sample:
        """The decoder reads what it wrote before: a start mark (of mBART the target's last token), then the target but
        for its last token.
        """
        start, _, pad = self.marks
        counted = labels != IGNORED
        told = np.where(counted, labels, pad or 0)
        if start is None:  # of a text to be written, what every target ends with
            start = next(iter([*told[::-1], *self.target_frame[1][::-1], pad or 0]))
        reference = {} if text is None else {REFERENCE: {"bytes": text}}
        return Sample(
            ids=np.concatenate([[start], told[:-1]]).astype(np.int32),
            reads=np.arange(len(labels), dtype=np.int32),
            values=np.where(counted, labels, 0).astype(np.int64),
            weights=counted.astype(np.float32),
            streams={SOURCE: {"ids": source.ids}, **reference},
            truncated=source.truncated or cut,
        )

    @property
    def marks(self) -> tuple[int | None, int | None, int | None]:
        """Ids that start, end and pad a target."""
        known = self.facts.vocabulary
        assert known is not None, "the run tells the task its model's marks"
        return known.start_id, known.end_id, known.pad_id

    @property
    def target_frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer puts in front of every target, and behind it: marks of its language, say."""
        tokenizer = self.facts.tokenizer
        known = hasattr(tokenizer, "num_special_tokens_to_add")
        return frame_of(_AsTarget(tokenizer)) if known and tokenizer is not None else ((), ())

    @property
    def most_written(self) -> int:
        """Tokens of a text that the model writes, at most."""
        return min(self.target_max_length or 2**31, self.facts.max_length or 512)

    def text_of(self, ids: Sequence[int]) -> str:
        """Token ids as text, without marks; without a tokenizer, the ids with blanks between."""
        tokenizer = self.facts.tokenizer
        if tokenizer is None:
            return " ".join(map(str, ids))
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """One of tokens, or of the texts that the model writes: `bleu`, `chrf`, `rouge_l`,
        `rouge_lsum`.

        Raises:
            RecipeError: with the names there are; sacrebleu is not installed.
        """
        found = written_metrics().get(name)
        if found is None:
            return super().metric(name, where=where)
        if type(found) is WrittenMetric:
            scorer(name, "13a")
        return found

    def nothing(self) -> dict[str, Json]:
        """The prediction of a source without tokens."""
        return {"text": None}

    # ------------------------------------------------------------ loss

    def loss(self, outputs: Tensor | DeferredLogits, targets: Targets) -> dict[str, Tensor]:
        """As a language model's: a sum, or one weighted value per unit (U,), nats."""
        if not self.smoothing:
            return super().loss(outputs, targets)
        values_U = torch.where(targets.weights == 0, IGNORED, targets.values.long())
        if self.facts.whole_weights:
            return {TERM: smoothed(outputs, values_U, self.smoothing)}
        losses_U = smoothed_U(outputs, values_U, self.smoothing)
        return {TERM: losses_U * targets.weights.to(losses_U.dtype)}

    def keep(self, outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
        """As a language model's (U, 2); with label smoothing the loss itself is a third column."""
        kept_U2 = super().keep(outputs, targets)
        if not self.smoothing:
            return kept_U2
        losses_U = smoothed_U(outputs, targets.values.long(), self.smoothing)
        return torch.cat([kept_U2, losses_U.double()[:, None]], dim=1)

    def kept_loss(self, kept: np.ndarray, targets: Targets) -> dict[str, np.ndarray]:
        """Weighted value of each unit (U,) float64."""
        return super().kept_loss(kept[:, 2:] if self.smoothing else kept, targets)


_NO_LABELS = np.empty(0, np.int64)


@dataclass(frozen=True)
class _AsTarget:
    """A tokenizer that is called for texts to write: Marian's, mBART's and M2M100's encode those otherwise."""

    tokenizer: Tokenizer

    def __call__(self, text: object, /, **options: object) -> Mapping[str, Sequence[Sequence[int]]]:
        """As the tokenizer's own call."""
        # A tokenizer of the user's own may know of no other way.
        if not hasattr(self.tokenizer, "num_special_tokens_to_add"):
            return self.tokenizer(text, **options)
        return self.tokenizer(None, text_target=text, **options)

    def decode(self, ids: object, /, **options: object) -> str:
        """As the tokenizer's own."""
        return self.tokenizer.decode(ids, **options)

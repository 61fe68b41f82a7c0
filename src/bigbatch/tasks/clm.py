"""Causal language modelling: predict each token from those before it.

The unit is the predicted token, and the clock counts tokens: schedules move with the tokens consumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from typing_extensions import override

from bigbatch.data.blocks import block_bounds, next_token_table, piece_bounds
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError
from bigbatch.metrics.perplexity import BYTES
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Row, Tokenizer
from bigbatch.samples import Sample, Table
from bigbatch.tasks.base import RunTable
from bigbatch.tasks.documents import Document, encode_documents
from bigbatch.tasks.inputs import is_tokenised
from bigbatch.tasks.language import LanguageModelling, told_surprise
from bigbatch.tasks.losses import IGNORED


@dataclass(frozen=True, kw_only=True)
class CausalLM(LanguageModelling):
    """Predict the next token of a text."""

    not_predicted: Sequence[int] = ()
    """Token ids that are read and never predicted, such as an end mark that is the padding, too."""

    known_metrics = ("perplexity", "bits_per_byte", "accuracy")
    clock = "tokens"

    @property
    def head(self) -> Head:
        """A head that gives the next token."""
        return Head(kind="causal")

    @property
    def longest(self) -> int | None:
        """Any number of tokens: documents are cut into pieces."""
        return None

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows with one call of the tokenizer. Texts end with the tokenizer's end mark, if it has one."""
        del labelled
        end = getattr(tokenizer, "eos_token_id", None)
        documents = encode_documents(rows, tokenizer, None)
        # Rows of token ids are taken as they are.
        samples = [
            _sample(document, None if is_tokenised(row) else end)
            for row, document in zip(rows, documents, strict=True)
        ]
        return [self._weighed(row, sample) for row, sample in zip(rows, samples, strict=True)]

    def _weighed(self, row: Row, sample: Sample) -> Sample:
        """Tokens that are not to be predicted have weight 0: those named, and those whose label is -100."""
        predicted_T = ~np.isin(sample.ids, np.asarray(self.not_predicted, np.int64))
        labels = row.get("labels") if is_tokenised(row) else None
        if isinstance(labels, (list, tuple, np.ndarray)):  # one label for a row is another task's
            predicted_T &= _labelled(row, labels, sample.ids)
        return sample if predicted_T.all() else replace(sample, weights=predicted_T.astype(np.float32))

    def arrange(self, table: Table) -> Table:
        """Documents cut into pieces or blocks, in which each token predicts the next. Where no document has two tokens
        they stay as they are, without a unit.
        """
        most = self._most_tokens
        if self.blocks == "fixed":
            firsts_S, ends_S = block_bounds(table, most)
        else:
            firsts_S, ends_S, _ = piece_bounds(table, most)
        if not len(firsts_S):
            firsts_S, ends_S = table.token_offsets[:-1], table.token_offsets[1:]
        return next_token_table(table, firsts_S, ends_S, self.facts.memory)

    @property
    def _most_tokens(self) -> int:
        assert self.facts.block_length is not None, "the run tells the task its max_length"
        if self.facts.block_length < 2:
            raise DataError(
                f"data.max_length: found {self.facts.block_length}; a token that predicts another takes two"
            )
        return self.facts.block_length

    # ------------------------------------------------------------ prediction

    def nothing(self) -> dict[str, Json]:
        """The prediction of a text without tokens."""
        return told_surprise(0.0, 0)

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """How surprising each row is. Generating text is planned, not built yet.

        Yields:
            `{"nll", "tokens", "perplexity"}`: nats of all its predicted tokens, how many those are, and
            exp(nll / tokens); None where nothing is predicted.
        """
        del rows, tokenizer
        documents = as_table([replace(sample, extras={}) for sample in samples])
        firsts_S, ends_S, owners_S = piece_bounds(documents, self._most_tokens)
        nll_D, tokens_D = np.zeros(len(samples)), np.zeros(len(samples), np.int64)
        if len(firsts_S):
            table = next_token_table(documents, firsts_S, ends_S, self.facts.memory)
            owners_U = np.repeat(owners_S, np.diff(table.unit_offsets))
            np.add.at(nll_D, owners_U, run(table, self.keep)[:, 0])
            tokens_D = np.bincount(owners_U, minlength=len(samples))
        for nll, tokens in zip(nll_D.tolist(), tokens_D.tolist(), strict=True):
            yield told_surprise(nll, tokens)


def _labelled(row: Row, labels: Sequence[int] | np.ndarray, ids_T: np.ndarray) -> np.ndarray:
    """(T,) bool: which tokens a row's own labels count; those are the tokens themselves.

    Raises:
        DataError: labels that are something else.
    """
    given = np.asarray(labels)
    if given.shape != (len(row["input_ids"]),):
        raise DataError(f"found {given.size} labels for {len(row['input_ids'])} input_ids; expected one each")
    mask = row.get("attention_mask")
    given_T = given if mask is None else given[np.asarray(mask, bool)]
    counted_T = given_T != IGNORED
    other = np.flatnonzero(counted_T & (given_T != ids_T))
    if len(other):
        what = f"label {given_T[other[0]]} of token {other[0] + 1}, whose id is {ids_T[other[0]]}"
        raise DataError(
            f"labels: found {what}; expected the id itself, or {IGNORED} for a token that does not count"
        )
    return counted_T


def _sample(document: Document, end: int | None) -> Sample:
    """A unit for each token, the end mark included."""
    ids, segments, text_bytes = document.ids, document.segments, document.bytes
    if end is not None and ids[-1] != end:
        ids = np.append(ids, np.int32(end))
        segments = None if segments is None else np.append(segments, segments[-1])
        text_bytes = None if text_bytes is None else np.append(text_bytes, 0)
    return Sample(
        ids=ids,
        segments=segments,
        reads=np.arange(len(ids), dtype=np.int32),
        values=ids,
        weights=np.ones(len(ids), np.float32),
        extras={} if text_bytes is None else {BYTES: text_bytes.astype(np.float32)},
    )

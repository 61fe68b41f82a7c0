"""Masked language modelling: predict tokens that were hidden from the model (Devlin et al. 2019).

Masks are drawn anew each epoch, from (seed.data, epoch, sample) alone; those of validation and test are always the
same. The token cache keeps the tokens unmasked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from bigbatch.data.blocks import framed_blocks
from bigbatch.data.masks import EVALUATION, TRAINING, WORD, Rates, masked_rows
from bigbatch.data.order import sample_states
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, ModelError, Problem, RecipeError
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Row, Tokenizer
from bigbatch.samples import Sample, Table, Targets
from bigbatch.tasks.base import RunTable
from bigbatch.tasks.documents import Document, encode_documents
from bigbatch.tasks.language import LanguageModelling, logits_in_parts
from bigbatch.tasks.strands import Strands, check_share, complements_of, strand_states
from bigbatch.tasks.vocabulary import Vocabulary

if TYPE_CHECKING:
    from bigbatch.model.logits import DeferredLogits

TOP = 5
"""Tokens that `predict` names for a mask."""


@dataclass(frozen=True, kw_only=True)
class MaskedLM(LanguageModelling):
    """Predict masked tokens of a text."""

    probability: float = 0.15
    """Share of the tokens (or words) that is predicted."""
    whole_word: bool = False
    """Whether all pieces of a word are masked together."""
    mask_share: float = 0.8
    """Of the predicted tokens: shown as the mask token."""
    random_share: float = 0.1
    """Of the predicted tokens: shown as a random token; the rest are shown as they are."""
    mask_id: int | None = None
    """Id of the mask token, for rows of token ids without a tokenizer."""
    reverse_complement: float | None = None
    """Share of the samples that are read as the other strand of a sequence of nucleotides, drawn anew each epoch."""

    known_metrics = ("perplexity", "accuracy")

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = {"mask_share": self.mask_share, "random_share": self.random_share}
        bad = {name: value for name, value in shares.items() if not 0 <= value <= 1}
        if not 0 < self.probability <= 1:
            bad["probability"] = self.probability
        elif not bad and self.mask_share + self.random_share > 1 + 1e-12:
            bad["mask_share"] = self.mask_share + self.random_share
        check_share(self.reverse_complement)
        if self.reverse_complement and self.whole_word:
            what = (
                "a sequence of nucleotides has no words; leave one of reverse_complement and whole_word out"
            )
            raise RecipeError([Problem(where="recipe", key="task.whole_word", what=what)])
        if bad:
            what = "expected probability above 0 and at most 1, and shares from 0 whose sum is at most 1"
            raise RecipeError(
                [
                    Problem(where="recipe", key=f"task.{name}", what=f"found {value:g}; {what}")
                    for name, value in bad.items()
                ]
            )

    @property
    def head(self) -> Head:
        """A head that gives the token behind a mask."""
        return Head(kind="masked")

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows with one call of the tokenizer. Of rows to predict the units are the mask tokens in the text."""
        most = None if labelled and self.blocks == "fixed" else self.facts.max_length
        documents = encode_documents(rows, tokenizer, most)
        if not labelled:
            return [_units(document, document.ids == self._mask_id, {}) for document in documents]
        return [self._sample(document) for document in documents]

    def arrange(self, table: Table) -> Table:
        """Documents as they are, or joined and cut into blocks."""
        if self.blocks == "documents":
            return table
        assert self.facts.block_length is not None, "the run tells the task its max_length"
        known = self._known
        return framed_blocks(table, self.facts.block_length, known.before, known.behind, WORD)

    def _sample(self, document: Document) -> Sample:
        ordinary_T = ~np.isin(document.ids, [*self._known.special_ids, self._mask_id])
        if not self.whole_word:
            return _units(document, ordinary_T, {})
        if document.words is None:
            raise DataError(
                "task.whole_word: nothing says where words start: rows of token ids do not, and neither do slow "
                "tokenizers; use text and a fast tokenizer, or whole_word: false"
            )
        starts_T = _word_starts(document.words)
        return _units(document, ordinary_T, {WORD: starts_T[ordinary_T].astype(np.float32)})

    # ------------------------------------------------------------ masks

    @override
    def view(self, table: Table, rows_B: np.ndarray, epochs_B: np.ndarray) -> Table:
        """The rows with this epoch's masks; the masked tokens are the units."""
        states_B = sample_states(self.facts.data_seed, TRAINING, epochs_B, rows_B)
        if self.reverse_complement:
            strands = Strands(
                share=self.reverse_complement or 0.0, complements_V=self._complements, by_token=True
            )
            table = strands.turned(table, rows_B, strand_states(self.facts.data_seed, epochs_B, rows_B))
            rows_B = np.arange(len(rows_B), dtype=np.int64)
        return masked_rows(table, rows_B, states_B, self._rates)

    @cached_property
    def _complements(self) -> np.ndarray:
        return complements_of(self.facts.tokenizer)

    def fixed(self, table: Table) -> Table:
        """A whole split with masks that are the same in every evaluation of every run, whatever its seed."""
        rows_B = np.arange(len(table), dtype=np.int64)
        states_B = sample_states(0, EVALUATION, np.zeros_like(rows_B), rows_B)
        return masked_rows(table, rows_B, states_B, self._rates)

    @cached_property
    def _rates(self) -> Rates:
        known = self._known
        ordinary_ids = np.setdiff1d(np.arange(known.size), [*known.special_ids, self._mask_id])
        return Rates(
            probability=self.probability,
            mask_share=self.mask_share,
            random_share=self.random_share,
            mask_id=self._mask_id,
            ordinary_ids=ordinary_ids,
        )

    @property
    def _known(self) -> Vocabulary:
        assert self.facts.vocabulary is not None, "the run tells the task its vocabulary"
        return self.facts.vocabulary

    @property
    def _mask_id(self) -> int:
        found = self._known.mask_id if self.mask_id is None else self.mask_id
        if found is None:
            raise ModelError(
                "task mlm: the tokenizer has no mask token; use one that has, name the id with task.mask_id, or train "
                "a causal model (task: clm)"
            )
        if not 0 <= found < self._known.size:
            raise ModelError(f"task.mask_id: found {found}; expected an id from 0 to {self._known.size - 1}")
        return found

    # ------------------------------------------------------------ prediction

    def nothing(self) -> dict[str, Json]:
        """The prediction of a text without tokens."""
        return {"text": "", "masks": []}

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """For each row, what stands behind its masks: the likeliest tokens with their probabilities.

        Yields:
            `{"text", "masks": [[{"token", "probability"}, …], …]}`: the text with each mask filled by its likeliest
            token, and for each mask in order the five likeliest. Masks are filled independently.
        """
        del rows
        table = as_table(samples)
        found_UK = run(table, likeliest)
        for row, sample in enumerate(samples):
            units = slice(int(table.unit_offsets[row]), int(table.unit_offsets[row + 1]))
            ids_UK, shares_UK = np.split(found_UK[units], 2, axis=1)
            filled = np.array(sample.ids)
            filled[sample.reads] = ids_UK[:, 0].astype(np.int32)
            yield {
                "text": _text(tokenizer, filled),
                "masks": [
                    [
                        {"token": _text(tokenizer, [int(token)]), "probability": float(share)}
                        for token, share in zip(*pair, strict=True)
                    ]
                    for pair in zip(ids_UK, shares_UK, strict=True)
                ],
            }


def likeliest(outputs: Tensor | DeferredLogits, targets: Targets) -> Tensor:
    """(U, 2 K) float64: ids of the K likeliest tokens of each unit, and their probabilities."""
    parts = [torch.zeros(0, 2 * TOP, dtype=torch.float64)]
    for _, logits_UV in logits_in_parts(outputs):
        shares_UK, ids_UK = logits_UV.double().softmax(-1).topk(min(TOP, logits_UV.shape[-1]))
        parts.append(torch.cat([ids_UK.double(), shares_UK], 1).cpu())
    del targets
    return torch.cat(parts[1:] or parts)


def _units(document: Document, chosen_T: np.ndarray, extras: Mapping[str, np.ndarray]) -> Sample:
    """A sample whose units are the chosen tokens."""
    reads_U = np.flatnonzero(chosen_T).astype(np.int32)
    return Sample(
        ids=document.ids,
        segments=document.segments,
        reads=reads_U,
        values=document.ids[reads_U],
        weights=np.ones(len(reads_U), np.float32),
        extras=extras,
        truncated=document.truncated,
    )


def _word_starts(words_T: np.ndarray) -> np.ndarray:
    """(T,) int64 position of the first piece of each token's word."""
    first_T = np.ones(len(words_T), bool)
    first_T[1:] = (words_T[1:] != words_T[:-1]) | (words_T[1:] < 0)
    return np.flatnonzero(first_T)[np.cumsum(first_T) - 1]


def _text(tokenizer: Tokenizer | None, ids: np.ndarray | list[int]) -> str:
    """What the ids stand for; the ids themselves for a model without tokenizer."""
    if tokenizer is None:
        return " ".join(map(str, ids))
    return tokenizer.decode([int(each) for each in ids], skip_special_tokens=len(ids) > 1)

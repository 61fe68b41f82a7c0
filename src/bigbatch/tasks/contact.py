"""Contacts: which pairs of letters of a sequence are close when it is folded (proteins, RNA).

A model gives numbers of each letter; a pair's score comes from those of both and from how far they are apart
(`metrics.contact`). Of each pair i < j, at least `separation` apart and both observed,

    loss_ij = log(1 + exp(s_ij)) - y_ij s_ij

where y_ij is 1 for a contact; the loss is their sum over pairs of the global batch, which the structures say before any
forward. A chain's pairs stay together; chains are cut as samples are.

Shapes: U units (letters), C outputs a unit (4 K), L letters of a chain, S chains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.files.folds import fold_arrays, is_brackets
from bigbatch.metrics.contact import (
    FIRST,
    OFFSET,
    PARTNER,
    PLACE,
    candidates,
    chains_of,
    contact_metrics,
    frequencies,
    pair_scores,
    surest,
)
from bigbatch.model.heads import Head
from bigbatch.protocols import Json, Metric, Role, Row, Tokenizer
from bigbatch.samples import Predictions, Sample, Targets
from bigbatch.tasks.base import RunTable, Task
from bigbatch.tasks.inputs import WordInputs, encode_words
from bigbatch.tasks.labelled import fp64

TERM = "contact"


@dataclass(frozen=True, kw_only=True)
class Contact(Task[Tensor]):
    """Predict which letters of a sequence touch when it is folded."""

    distance: float = 8.0
    """Å below which two letters touch."""
    separation: int = 6
    """Letters that the partners of a pair are apart, at least."""
    channels: int = 32
    """Complex numbers that the model gives of a letter, on each side of a pair."""

    def __post_init__(self) -> None:
        wrong = {
            name: f"found {value}; expected {expected}"
            for name, value, fine, expected in (
                ("distance", self.distance, 0 < self.distance < 1000, "a distance in Å"),
                ("separation", self.separation, self.separation >= 1, "a whole number from 1 up"),
                ("channels", self.channels, 1 <= self.channels <= 4096, "a whole number from 1 up"),
            )
            if not fine
        }
        if wrong:
            raise RecipeError(
                [Problem(where="recipe", key=f"task.{key}", what=what) for key, what in wrong.items()]
            )

    # ------------------------------------------------------------ columns and outputs

    @property
    def roles(self) -> Mapping[str, Role]:
        """The columns that are read: `sequence` and `structure`."""
        return {
            "sequence": Role(meaning="the sequence, a letter an amino acid or nucleotide"),
            "structure": Role(meaning="where each letter is, or which of them pair", kind="fold"),
        }

    @property
    def head(self) -> Head:
        """Two times K complex numbers a letter."""
        return Head(kind="tokens", outputs=4 * self.channels)

    @property
    def usual_metrics(self) -> tuple[Metric, ...]:
        """Precision of the L and L/2 surest pairs, and of those far apart."""
        known = contact_metrics(self.separation, self.distance)
        return tuple(metric for name, metric in known.items() if not name.endswith("/5"))

    def metric(self, name: str, *, where: str = "recipe") -> Metric:
        """A figure of `metrics.contact`."""
        found = contact_metrics(self.separation, self.distance).get(name)
        return super().metric(name, where=where) if found is None else found

    # ------------------------------------------------------------ rows to samples

    @override
    def encode_batch(
        self, rows: Sequence[Row], tokenizer: Tokenizer | None, *, labelled: bool = True
    ) -> list[Sample]:
        """Many rows, with one call of the tokenizer; a unit a letter."""
        sequences = ["".join(str(row["sequence"]).split()) for row in rows]
        found = encode_words([list(each) for each in sequences], tokenizer, self.facts.max_length)
        return [
            self._sample(sequence, row.get("structure"), inputs, labelled=labelled)
            for sequence, row, inputs in zip(sequences, rows, found, strict=True)
        ]

    def _sample(self, sequence: str, fold: str | None, found: WordInputs, *, labelled: bool) -> Sample:
        length = len(sequence)
        points_L3, partners_L = np.full((length, 3), np.nan, np.float32), np.full(length, -1, np.int64)
        if fold:
            points_L3, partners_L = fold_arrays(fold)
        if len(points_L3) != length:
            what = f"the structure has {len(points_L3):,} places, the sequence {length:,} letters; expected one each"
            raise DataError(f"structure: {what}")
        seen = [len(pieces) == 1 for pieces in found.pieces]
        kept = seen.index(False) if False in seen else length
        if (kept < length and found.pieces[kept]) or any(seen[kept:]):
            what = f"the tokenizer makes other tokens of it than one a letter, from {sequence[kept : kept + 10]!r} on"
            raise DataError(f"sequence: {what}; take the tokenizer letters, or an ESM's own")
        values_UC = np.zeros((kept, 5), np.float32)
        values_UC[:1, FIRST] = 1.0
        values_UC[:, PLACE] = points_L3[:kept]
        paired_U = partners_L[:kept] >= 0
        values_UC[:, PARTNER] = np.where(paired_U, partners_L[:kept] - np.arange(kept), 0)
        known_U = ~np.isnan(points_L3[:kept]).any(1)
        if fold and is_brackets(fold):
            known_U = np.ones(kept, bool)
        return Sample(
            ids=found.inputs.ids,
            segments=found.inputs.segments,
            reads=np.array([pieces[0] for pieces in found.pieces[:kept]], np.int32),
            values=values_UC,
            weights=np.where(known_U, 1.0 if labelled else 0.0, 0.0).astype(np.float32),
            truncated=found.inputs.truncated,
        )

    # ------------------------------------------------------------ denominators, loss

    def denominators(self, targets: Targets) -> dict[str, float]:
        """Pairs: the sum of the products of their letters' weights, fp64 (numpy)."""
        weights, pairs = np.asarray(targets.weights, np.float64), 0.0
        for part in chains_of(np.asarray(targets.values)):
            weights_L = weights[part]
            behind_L = np.cumsum(weights_L[::-1])[::-1]  # the sum from each letter on
            pairs += float(weights_L[: -self.separation] @ behind_L[self.separation :])
        return {TERM: pairs}

    def loss(self, outputs: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The weighted sum over each chain's pairs (S,), nats.

        Args:
            outputs: (U, C) of whole chains.
            targets: theirs, as tensors on the same device.
        """
        values_UC, weights_U = targets.values.double(), targets.weights.double()
        starts = [*(values_UC[:, FIRST] > 0).nonzero()[:, 0].tolist(), len(values_UC)]
        parts = [slice(*ends) for ends in pairwise(starts)]
        losses = [self._loss(outputs[part].double(), values_UC[part], weights_U[part]) for part in parts]
        return {TERM: torch.stack(losses) if losses else outputs.double().sum(1)[:0]}

    def _loss(self, outputs_LC: Tensor, values_LC: Tensor, weights_L: Tensor) -> Tensor:
        length, device = len(outputs_LC), outputs_LC.device
        scores_LL = pair_tensor(outputs_LC)
        at_L = torch.arange(length, device=device)
        apart_LL = at_L[None, :] - at_L[:, None]
        # Unknown places are moved out of the way: NaN would reach the gradient through a weight of 0.
        points_L3 = torch.nan_to_num(values_LC[:, PLACE])
        gaps_LL = (points_L3[:, None] - points_L3[None, :]).square().sum(-1)
        known_L = ~values_LC[:, PLACE].isnan().any(1)
        close_LL = (gaps_LL < self.distance**2) & known_L[:, None] & known_L[None, :]
        touch_LL = close_LL | (values_LC[:, PARTNER, None] == apart_LL)
        weights_LL = weights_L[:, None] * weights_L[None, :] * (apart_LL >= self.separation)
        losses_LL = functional.softplus(scores_LL) - touch_LL * scores_LL
        return torch.where(weights_LL == 0, 0.0, losses_LL * weights_LL).sum()

    # ------------------------------------------------------------ evaluation and prediction

    def decode(self, kept: np.ndarray) -> Predictions:
        """Outputs of letters; which pairs touch follows from whole chains."""
        outputs_UC = fp64(kept)
        return Predictions(
            kind="contacts", scores=outputs_UC, probabilities=None, values=outputs_UC.argmax(-1)
        )

    @override
    def predict(
        self, rows: Sequence[Row], samples: Sequence[Sample], run: RunTable, tokenizer: Tokenizer | None
    ) -> Iterator[dict[str, Json]]:
        """The surest pairs of each sequence.

        Yields:
            `{"contacts": [[first, second, probability], …]}`: letters from 1, as many pairs as letters, the surest
            first.
        """
        del rows, tokenizer
        outputs_UC = fp64(run(as_table(samples), self.keep))
        end = 0
        for sample in samples:
            begin, end = end, end + len(sample.reads)
            scores_LL = pair_scores(outputs_UC[begin:end])
            firsts, seconds = candidates(np.ones(end - begin), self.separation)
            kept = surest(scores_LL, (firsts, seconds), end - begin)
            shares = 1 / (1 + np.exp(-scores_LL[firsts[kept], seconds[kept]]))
            found = zip(
                (firsts[kept] + 1).tolist(), (seconds[kept] + 1).tolist(), shares.tolist(), strict=True
            )
            yield {"contacts": [[first, second, round(share, 6)] for first, second, share in found]}

    def nothing(self) -> dict[str, Json]:
        """The prediction of a sequence without letters."""
        return {"contacts": []}


def pair_tensor(outputs_LC: Tensor) -> Tensor:
    """As `metrics.contact.pair_scores`, with a gradient."""
    length = len(outputs_LC)
    a_2LK, b_2LK = outputs_LC.reshape(length, 2, 2, -1).permute(1, 2, 0, 3)
    waves_K = torch.from_numpy(frequencies(a_2LK.shape[-1])).to(outputs_LC)
    angles_LK = torch.arange(length, device=outputs_LC.device)[:, None] * waves_K
    cos_LK, sin_LK = angles_LK.cos(), angles_LK.sin()

    def turned(half_2LK: Tensor) -> Tensor:
        real_LK, imaginary_LK = half_2LK
        return torch.cat(
            [real_LK * cos_LK + imaginary_LK * sin_LK, imaginary_LK * cos_LK - real_LK * sin_LK], 1
        )

    return turned(a_2LK) @ turned(b_2LK).T / len(waves_K) ** 0.5 + OFFSET

"""Figures of language models, from each token's negative log-likelihood. Sums are exact: no cut can change them.

::

    perplexity     = exp(sum of nll / predicted tokens)
    bits_per_byte  = sum of nll / ln 2 / UTF-8 bytes of the predicted text
    accuracy       = tokens whose true id has the largest logit / predicted tokens
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.states import MeanMetric, counted
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.protocols import Metric
from bigbatch.samples import Predictions, Targets

BYTES = "bytes"
"""Name of the extra that holds the UTF-8 bytes of text that each predicted token stands for."""


def nll_U(predictions: Predictions, _targets: Targets) -> np.ndarray:
    """Nats of each unit (U,)."""
    return predictions.scores[:, 0]


@dataclass(frozen=True, kw_only=True)
class Perplexity(MeanMetric):
    """exp of the mean negative log-likelihood."""

    def value(self, state: tuple[int, Parts]) -> float:
        """Infinite where fp64 ends (above 709 nats)."""
        mean = super().value(state)
        if isinstance(mean, Undefined):
            return mean
        return math.exp(mean) if mean < 709 else math.inf if mean == mean else math.nan


@dataclass(frozen=True, kw_only=True)
class BitsPerByte:
    """Bits that the model needs for a byte of the text; comparable across tokenizers.

    The bytes are those of the text that predicted tokens stand for, in UTF-8. A token that nothing predicts (the
    first of a document without a start mark, the first of a block) pays no bits and brings no bytes; an end mark pays
    bits and brings none. White space that the tokenizer drops belongs to the token behind it, at the end of a text to
    none.
    """

    name: str = "bits_per_byte"
    larger_is_better: bool = False
    own = False

    def add(self, predictions: Predictions, targets: Targets) -> tuple[int, Parts]:
        """Bytes and exact nats of these units; -1 bytes where they are not known."""
        predictions, targets = counted(predictions, targets)
        if BYTES not in targets.extras:
            return -1, ()
        return int(np.sum(targets.extras[BYTES], dtype=np.float64)), exact_parts(nll_U(predictions, targets))

    def merge(self, left: tuple[int, Parts], right: tuple[int, Parts]) -> tuple[int, Parts]:
        """Of both."""
        known = left[0] >= 0 and right[0] >= 0
        return (left[0] + right[0], add_parts(left[1], right[1])) if known else (-1, ())

    def value(self, state: tuple[int, Parts]) -> float:
        """Bits a byte."""
        text_bytes, parts = state
        if text_bytes < 0:
            return Undefined(
                "rows of token ids do not say which bytes they stand for, nor do slow tokenizers"
            )
        return total(parts) / math.log(2) / text_bytes if text_bytes else Undefined("no text was predicted")


def language_metrics() -> dict[str, Metric]:
    """Every metric of language models by name."""
    return {
        "perplexity": Perplexity(name="perplexity", per_unit=nll_U, larger_is_better=False),
        "bits_per_byte": BitsPerByte(),
        "accuracy": MeanMetric(
            name="accuracy",
            per_unit=lambda predictions, _: predictions.values.astype(np.float64),
            larger_is_better=True,
        ),
    }

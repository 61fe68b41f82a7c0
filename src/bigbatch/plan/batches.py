"""A typical global batch, and the micro-batches it is cut into, from length percentiles alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bigbatch.facts import LengthFacts
from bigbatch.samples import Packing

_LARGEST_SIMULATED = 4096
"""Samples; larger batches are scaled up from this many."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How one update is cut."""

    micro_batches: int
    """Micro-batches of an update: the accumulation."""
    real_tokens: int
    computed_tokens: int
    """With padding, when micro-batches are padded."""

    @property
    def padding_share(self) -> float:
        """1 - real / computed tokens."""
        return 1 - self.real_tokens / self.computed_tokens


def typical_batch(lengths: LengthFacts, samples: int) -> np.ndarray:
    """Lengths of `samples` samples at evenly spaced quantiles, shortest first (samples,) int64.

    Quantiles are interpolated between the known percentiles and scaled to the mean length.
    """
    known = {int(name[1:]) / 100: value for name, value in lengths.percentiles.items()}
    low, middle = known.get(0.1, lengths.longest), known.get(0.5, lengths.longest)
    knots = {0.0: max(1.0, 2 * low - middle), **known, 1.0: float(lengths.longest)}
    places = sorted(knots)
    quantiles = (np.arange(samples) + 0.5) / samples
    drawn = np.interp(quantiles, places, [knots[place] for place in places])
    drawn *= (lengths.tokens / lengths.samples) / drawn.mean()
    return np.clip(np.round(drawn), 1, lengths.longest).astype(np.int64)


def cut_batch(lengths: LengthFacts, samples: int, micro_tokens: int, packing: Packing) -> Cut:
    """Micro-batches and tokens of a typical update of `samples` samples.

    Args:
        lengths: of the training split, in tokens.
        samples: of an update.
        micro_tokens: upper bound of computed tokens of a micro-batch.
        packing: `packed` or `padded`.
    """
    simulated = min(samples, _LARGEST_SIMULATED)
    drawn = typical_batch(lengths, simulated)
    micro_batches, computed = _cut_sorted(drawn.tolist(), micro_tokens, packing)
    scale = samples / simulated
    return Cut(
        micro_batches=max(1, round(micro_batches * scale)),
        real_tokens=round(int(drawn.sum()) * scale),
        computed_tokens=round(computed * scale),
    )


def _cut_sorted(lengths: Sequence[int], micro_tokens: int, packing: Packing) -> tuple[int, int]:
    """Micro-batches and computed tokens when sorted lengths fill one micro-batch after the other."""
    micro_batches = computed = 0
    count = real = longest = 0
    for length in lengths:
        # Sorted: the sample being added is the longest, so it is what the others are padded to.
        grown = real + length if packing == "packed" else (count + 1) * length
        if count and grown > micro_tokens:
            micro_batches += 1
            computed += real if packing == "packed" else count * longest
            count = real = 0
        count += 1
        real += length
        longest = length
    return micro_batches + 1, computed + (real if packing == "packed" else count * longest)

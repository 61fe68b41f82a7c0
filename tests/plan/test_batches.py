"""A typical batch from percentiles, against the real cutting of a real-looking distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbatch.facts import LengthFacts
from bigbatch.plan.batches import cut_batch, typical_batch


def facts_of(drawn: np.ndarray) -> LengthFacts:
    percentiles = {f"p{p}": float(np.percentile(drawn, p)) for p in (10, 50, 90, 99)}
    return LengthFacts(
        samples=len(drawn), tokens=int(drawn.sum()), longest=int(drawn.max()), percentiles=percentiles,
        truncated_samples=0, padding_share_random=0.5,
    )  # fmt: skip


def tweets(samples: int = 11_000) -> np.ndarray:
    return np.random.default_rng(0).normal(34, 11, samples).clip(5, 90).round().astype(np.int64)


def documents(samples: int = 11_000) -> np.ndarray:
    return np.random.default_rng(1).lognormal(5, 0.9, samples).clip(10, 512).round().astype(np.int64)


@pytest.mark.parametrize("drawn", [tweets(), documents()])
def test_tokens_of_a_batch(drawn: np.ndarray) -> None:
    batch = typical_batch(facts_of(drawn), 256)
    assert len(batch) == 256 and (np.diff(batch) >= 0).all()
    assert batch.sum() == pytest.approx(256 * drawn.mean(), rel=0.03)


@pytest.mark.parametrize("drawn", [tweets(), documents()])
@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_micro_batches_of_a_batch(drawn: np.ndarray, packing: str) -> None:
    """Against sorting and filling 20 real batches."""
    micro_batches, computed, real = [], [], []
    for first in range(0, 20 * 256, 256):
        groups: list[list[int]] = [[]]
        for length in sorted(drawn[first : first + 256].tolist()):
            grown = [*groups[-1], length]
            cost = sum(grown) if packing == "packed" else len(grown) * max(grown)
            if groups[-1] and cost > 1024:
                groups.append([length])
            else:
                groups[-1] = grown
        micro_batches.append(len(groups))
        computed.append(sum(sum(g) if packing == "packed" else len(g) * max(g) for g in groups))
        real.append(sum(map(sum, groups)))
    cut = cut_batch(facts_of(drawn), 256, 1024, packing)  # type: ignore[arg-type]
    assert cut.micro_batches == pytest.approx(np.mean(micro_batches), rel=0.08)
    assert cut.computed_tokens == pytest.approx(np.mean(computed), rel=0.05)
    assert cut.padding_share == pytest.approx(1 - np.sum(real) / np.sum(computed), abs=0.02)


def test_large_batches_are_scaled_up() -> None:
    facts = facts_of(tweets())
    small, large = cut_batch(facts, 4096, 1024, "packed"), cut_batch(facts, 65_536, 1024, "packed")
    assert large.micro_batches == pytest.approx(16 * small.micro_batches, rel=0.01)
    assert large.computed_tokens == 16 * small.computed_tokens


@settings(max_examples=50)
@given(samples=st.integers(1, 300), micro_tokens=st.integers(1, 5000), mean=st.integers(1, 400))
def test_never_less_than_the_real_tokens(samples: int, micro_tokens: int, mean: int) -> None:
    drawn = np.random.default_rng(mean).poisson(mean, 500) + 1
    packed = cut_batch(facts_of(drawn), samples, micro_tokens, "packed")
    padded = cut_batch(facts_of(drawn), samples, micro_tokens, "padded")
    assert packed.padding_share == 0 and padded.computed_tokens >= padded.real_tokens == packed.real_tokens
    assert 1 <= packed.micro_batches <= padded.micro_batches <= samples


def test_one_length_for_all() -> None:
    cut = cut_batch(facts_of(np.full(10, 7)), 100, 70, "padded")
    assert (cut.micro_batches, cut.computed_tokens, cut.padding_share) == (10, 700, 0)

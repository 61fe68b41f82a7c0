"""Schedules: shape, midpoints, and a sum that does not depend on the batch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import RecipeError
from bigbatch.rules.schedules import SCHEDULES, learning_rate_factor, schedule_from
from bigbatch.units import Quantity, parse_quantity


def settings(
    name: str = "linear", warmup: str = "0", decay: str = "20 %", final: float = 0.0
) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, warmup=parse_quantity(warmup), decay=parse_quantity(decay), final_fraction=final, args={}
    )


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("linear", 50, 0.5), ("linear", 100, 1.0), ("linear", 550, 0.55), ("linear", 1000, 0.1),
        ("cosine", 100, 1.0), ("cosine", 550, 0.55), ("cosine", 1000, 0.1),
        ("cosine", 325, 0.1 + 0.45 * (1 + 2**-0.5)),
        ("constant", 50, 0.5), ("constant", 999, 1.0),
        ("wsd", 50, 0.5), ("wsd", 800, 1.0), ("wsd", 900, 0.55), ("wsd", 1000, 0.1),
    ],
)  # fmt: skip
def test_shape(name: str, progress: float, expected: float) -> None:
    factor = learning_rate_factor(
        name,
        progress_samples=progress,
        total_samples=1000,
        warmup_samples=100,
        decay_samples=200,
        final_fraction=0.1,
    )
    assert factor == pytest.approx(expected, abs=1e-12)


@given(
    name=st.sampled_from(SCHEDULES),
    batch=st.integers(1, 64),
    updates=st.integers(1, 300),
    warmup=st.sampled_from(["0", "6 %", "3 updates", "10 samples", "0.5 epochs", "100 %"]),
)
def test_every_update_learns(name: str, batch: int, updates: int, warmup: str) -> None:
    schedule = schedule_from(settings(name, warmup), updates * batch, batch, epoch_samples=100)
    factors = [schedule(update * batch, batch) for update in range(updates)]
    assert all(0 < factor <= 1 for factor in factors)


@given(
    name=st.sampled_from(SCHEDULES),
    batch=st.sampled_from([1, 2, 4, 8, 16, 32]),
    warmup=st.floats(0, 0.5),
    final=st.floats(0, 1),
)
def test_sum_does_not_depend_on_the_batch(name: str, batch: int, warmup: float, final: float) -> None:
    total = 3200
    chosen = settings(name, "0", "20 %", final)
    chosen.warmup = Quantity(100 * warmup, "percent")
    schedule = schedule_from(chosen, total, batch, epoch_samples=total)
    mean = sum(schedule(first, batch) * batch for first in range(0, total, batch)) / total
    fine = sum(schedule(first, 1) for first in range(total)) / total
    # Midpoints are exact on straight pieces. A kink inside a batch costs at most slope x width^2 / 8, and the end of a
    # warm-up of half a batch, the worst case, a quarter of the batch: 8 of 3,200 samples.
    assert mean == pytest.approx(fine, abs=2.6e-3)


def test_sum_is_exact_where_batches_meet_the_kinks() -> None:
    for batch in (1, 5, 20, 100):
        schedule = schedule_from(settings("linear", "100 samples"), 1000, batch, epoch_samples=1000)
        area = sum(schedule(first, batch) * batch for first in range(0, 1000, batch))
        assert area == pytest.approx(500, rel=1e-12)


def test_endpoints_instead_of_midpoints_would_start_at_zero() -> None:
    schedule = schedule_from(settings("linear", "10 updates"), 44 * 256, 256, epoch_samples=11_213)
    assert schedule(0, 256) == pytest.approx(0.05)
    assert schedule(43 * 256, 256) == pytest.approx(128 / (34 * 256))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("6 %", 60.0), ("2 updates", 64.0), ("10 samples", 10.0), ("0.5 epochs", 250.0), ("0", 0.0)],
)
def test_warm_up_units(text: str, expected: float) -> None:
    schedule = schedule_from(settings("linear", text), 1000, 32, epoch_samples=500)
    assert schedule.warmup_samples == pytest.approx(expected)


def test_warm_up_in_minutes_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"schedule\.warmup: found 5 min; expected updates"):
        schedule_from(settings("linear", "5 min"), 1000, 32, epoch_samples=500)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean cosine"):
        schedule_from(settings("cosin"), 1000, 32, epoch_samples=500)
    with pytest.raises(RecipeError, match="known: linear"):
        learning_rate_factor("step", progress_samples=1, total_samples=2)


def test_warm_up_that_never_ends_is_said() -> None:
    schedule = schedule_from(settings("linear", "200 updates"), 44 * 256, 256, epoch_samples=11_000)
    assert "never reaches optimizer.lr" in schedule.warnings[0]
    assert schedule(43 * 256, 256) == pytest.approx(43.5 / 200)


def test_overlapping_phases_are_said() -> None:
    schedule = schedule_from(settings("wsd", "60 %", "60 %"), 1000, 10, epoch_samples=1000)
    assert "overlap" in schedule.warnings[0]
    assert schedule(495, 10) == pytest.approx(min(500 / 600, 1 - 100 / 600))


def test_own_schedule_is_called_at_the_midpoint_with_its_options() -> None:
    chosen = settings("mine.py:steps")
    chosen.args = {"power": 2.0}

    def steps(progress: float, total: float, power: float) -> float:
        return (1 - progress / total) ** power

    schedule = schedule_from(chosen, 100, 10, epoch_samples=100, custom=steps)
    assert schedule(0, 10) == pytest.approx(0.95**2)


def test_cosine_is_smooth_at_the_end() -> None:
    def factor(progress: float) -> float:
        return learning_rate_factor("cosine", progress_samples=progress, total_samples=1.0)

    assert factor(1 - 1e-4) == pytest.approx((math.pi * 1e-4) ** 2 / 4, rel=1e-3)

"""Seconds, and how often evaluation happens."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bigbatch.facts import CalibrationFacts
from bigbatch.plan.timing import Work, count_evaluations, predict_seconds
from bigbatch.rules.clocks import Clock, Length, mark_crossed, total_updates
from bigbatch.units import parse_quantity

SPEED = CalibrationFacts(
    seconds_per_token=1e-3, seconds_per_update=0.5, seconds_per_token_forward=2e-4,
    activation_bytes_per_token=1.0, resting_bytes=1, micro_tokens=1,
)  # fmt: skip


def test_seconds_by_hand() -> None:
    length = Length(updates=10, samples=1000, epochs=2.0, exact=True)
    found = predict_seconds(
        SPEED,
        length,
        3000,
        evaluate_every=parse_quantity("1 epochs"),
        work=Work(validation_tokens=500, test_tokens=100),
    )
    assert found.update == pytest.approx(3.5)
    assert found.train == pytest.approx(35)
    assert (found.evaluations, found.evaluate) == (2, pytest.approx(0.22))


def test_nothing_to_evaluate() -> None:
    length = Length(updates=10, samples=1000, epochs=2.0, exact=True)
    found = predict_seconds(SPEED, length, 3000, evaluate_every=parse_quantity("1 epochs"))
    assert (found.evaluations, found.evaluate) == (0, 0)


@pytest.mark.parametrize(
    "every",
    [
        "1 epochs",
        "0.5 epochs",
        "7 updates",
        "11 updates",
        "300 samples",
        "25 %",
        "30 %",
        "end",
        "never",
        "99 epochs",
    ],
)
@pytest.mark.parametrize("epochs", ["1 epochs", "3 epochs", "1.3 epochs"])
def test_counted_as_the_intervals_fire(every: str, epochs: str) -> None:
    """Against walking over the updates, with one evaluation at the end in any case."""
    length = total_updates(parse_quantity(epochs), 64, 1000)
    clocks = [Clock(updates=u, samples=64 * u) for u in range(length.updates + 1)]
    fired = [
        after.updates
        for before, after in pairwise(clocks)
        if mark_crossed(
            parse_quantity(every), before, after, epoch_samples=1000, total_samples=length.samples
        )
    ]
    wanted = len(set(fired) | {length.updates})
    assert count_evaluations(parse_quantity(every), length, 100.0, 60.0) == wanted


def test_intervals_in_minutes_use_the_predicted_time() -> None:
    length = Length(updates=100, samples=1000, epochs=1.0, exact=True)
    assert count_evaluations(parse_quantity("1 min"), length, 10.0, 605.0) == 10
    assert count_evaluations(parse_quantity("1 min"), length, 10.0, 630.0) == 11

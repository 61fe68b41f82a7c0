"""When replicas meet, and the automatic period."""

from __future__ import annotations

import pytest

from bigbatch.rules.sync import (
    CHEAP_FRACTION,
    LONGEST,
    MOST_DRIFT,
    Measured,
    cheap_period,
    held,
    meets,
    next_period,
)


def measured(drift=0.0, meeting=1.0, update=1.0):
    return Measured(drift=drift, meeting_seconds=meeting, update_seconds=update)


@pytest.mark.parametrize(
    ("meeting", "update", "period"),
    [
        (0.0, 1.0, 1),
        (0.05, 1.0, 1),
        (0.051, 1.0, 2),
        (1.0, 1.0, 32),
        (0.2, 0.1, 64),
        (1e9, 1.0, LONGEST),
        (1.0, 0.0, LONGEST),
    ],
)
def test_a_meeting_is_cheap_when_it_takes_a_twentieth_of_the_time(meeting, update, period):
    found = cheap_period(meeting, update)
    assert found == period
    assert meeting <= CHEAP_FRACTION * found * update or found == LONGEST


def test_the_period_doubles_until_meetings_are_cheap():
    periods = [1]
    for _ in range(8):
        periods.append(next_period(periods[-1], measured(meeting=1.0)).period)
    assert periods == [1, 2, 4, 8, 16, 32, 32, 32, 32]


def test_drift_stops_it():
    assert next_period(8, measured(drift=MOST_DRIFT / 2)).period == 16
    assert next_period(8, measured(drift=MOST_DRIFT * 0.51)).period == 8
    assert next_period(8, measured(drift=MOST_DRIFT)).period == 8
    far = next_period(8, measured(drift=MOST_DRIFT * 1.01))
    assert far.period == 4 and "apart" in far.why
    assert next_period(1, measured(drift=9.0)).period == 1


def test_drift_that_is_not_a_number_shortens_it():
    assert next_period(8, measured(drift=float("nan"))).period == 4


def test_a_period_that_is_longer_than_cheap_is_halved():
    decision = next_period(64, measured(meeting=1.0))
    assert decision.period == 32 and "a meeting takes 1 s, an update 1 s" in decision.why


def test_it_stays_within_bounds():
    assert next_period(LONGEST, measured(meeting=1e9)).period == LONGEST
    assert next_period(1, measured(meeting=0.0)).period == 1


def test_the_same_measurements_give_the_same_decision():
    assert next_period(4, measured(0.01, 2.0, 0.3)) == next_period(4, measured(0.01, 2.0, 0.3))


@pytest.mark.parametrize(("replicas", "ranks"), [(1, 1), (4, 1), (4, 3), (5, 2), (7, 7)])
def test_every_replica_is_held_once_and_in_order(replicas, ranks):
    each = [held(replicas, rank, ranks) for rank in range(ranks)]
    assert [number for own in each for number in own] == list(range(replicas))
    assert max(map(len, each)) - min(map(len, each)) <= 1 and min(map(len, each)) >= 1


def test_fixed_periods_count_from_the_beginning_and_the_end_is_a_meeting():
    assert [u for u in range(1, 12) if meets(u, 11, 4, 0, 1)] == [4, 8, 11]


def test_automatic_periods_count_from_the_last_meeting():
    assert [u for u in range(1, 12) if meets(u, 20, None, 3, 4)] == [7, 8, 9, 10, 11]
    assert meets(20, 20, None, 19, 512)

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.report.scales import Scale, nice_step, padded_range, smoothed, thinned, tick_label, ticks

numbers = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(low=numbers, span=st.floats(1e-4, 1e9), steps=st.integers(2, 10))
def test_ticks_are_inside_round_and_not_too_many(low: float, span: float, steps: int) -> None:
    step = nice_step(span, steps)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert any(math.isclose(mantissa, nice, rel_tol=1e-6) for nice in (1, 2, 5, 10))
    found = ticks(0.0, span, steps)
    assert 1 <= len(found) <= steps + 1
    assert all(-1e-6 * span <= value <= span * (1 + 1e-6) for value in found)


@pytest.mark.parametrize("span", [0.0, -1.0, 5e-324, math.inf, math.nan])
def test_a_range_without_extent_has_some_step(span: float) -> None:
    assert nice_step(span, 5) == 1.0


@pytest.mark.parametrize(
    ("value", "step", "label"),
    [
        (0.0, 0.5, "0"), (0.25, 0.05, "0.25"), (2000.0, 1000.0, "2k"), (1500.0, 500.0, "1.5k"), (0.5, 0.5, "0.5"),
        (2e6, 1e6, "2M"), (4e-4, 2e-4, "4e-4"), (20.0, 10.0, "20"), (1.0, 0.2, "1.0"), (3e9, 1e9, "3G"),
    ],
)  # fmt: skip
def test_tick_labels(value: float, step: float, label: str) -> None:
    assert tick_label(value, step) == label


def test_scales_map_ends_to_ends() -> None:
    scale = Scale(2.0, 4.0, 100.0, 0.0)
    assert (scale(2.0), scale(3.0), scale(4.0)) == (100.0, 50.0, 0.0)
    assert Scale(1.0, 100.0, 0.0, 10.0, "log")(10.0) == pytest.approx(5.0)
    assert Scale(1.0, 1.0, 0.0, 10.0)(1.0) == 5.0


def test_a_logarithmic_scale_ticks_in_decades() -> None:
    values = [value for value, _ in Scale(0.5, 2000.0, 0, 1, "log").labelled_ticks(5)]
    assert values == [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0] or values == [1.0, 10.0, 100.0, 1000.0]
    assert all(0.5 <= value <= 2000 for value in values)


def test_ranges_are_never_empty() -> None:
    assert padded_range([], zero=True) == (0.0, 1.06)
    for values in ([0.0], [3.0], [-2.0, -2.0], [1.0, 2.0]):
        for zero in (True, False):
            low, high = padded_range(values, zero=zero)
            assert low < high
            assert low <= min(values) and max(values) <= high
    assert padded_range([1.0, 2.0], zero=True)[0] == 0.0


def test_thinning_keeps_every_peak_in_order() -> None:
    points = [(float(x), math.sin(x)) for x in range(5000)]
    points[1234] = (1234.0, 9.0)
    points[4321] = (4321.0, -9.0)
    few = thinned(points, 200)
    assert len(few) <= 203
    assert {(1234.0, 9.0), (4321.0, -9.0), points[0], points[-1]} <= set(few)
    assert [x for x, _ in few] == sorted(x for x, _ in few)
    assert thinned(points[:200], 200) == points[:200]


def test_smoothing_shifts_nothing() -> None:
    line = [(float(x), 3.0 * x + 1) for x in range(50)]
    for (x, expected), (place, value) in zip(line, smoothed(line, 9), strict=True):
        assert place == x
        assert value == pytest.approx(expected)
    assert smoothed([(0.0, 1.0), (1.0, 4.0), (2.0, 1.0)], 3)[1] == (1.0, 2.0)

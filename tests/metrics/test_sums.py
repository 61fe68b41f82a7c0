from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bigbatch.metrics.sums import add_parts, exact_parts, total

numbers = st.lists(st.floats(-1e200, 1e200, allow_nan=False), max_size=30)


@given(numbers)
@settings(deadline=None)
def test_parts_are_exact(values):
    assert sum(map(Fraction, exact_parts(values)), Fraction()) == sum(map(Fraction, values), Fraction())


@given(numbers, st.integers(0, 30), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_neither_cuts_nor_order_change_a_bit(values, cut, random):
    shuffled = random.sample(values, len(values))
    parts = add_parts(exact_parts(shuffled[:cut]), exact_parts(np.array(shuffled[cut:])))
    assert total(parts) == math.fsum(values)


def test_what_is_not_finite_stays_so():
    assert math.isnan(total(exact_parts([1.0, math.nan])))
    assert total(exact_parts([1.0, math.inf])) == math.inf
    assert math.isnan(total(exact_parts([math.inf, -math.inf])))
    assert total(exact_parts([1.7e308, 1.7e308])) == math.inf
    assert total(exact_parts([])) == 0.0

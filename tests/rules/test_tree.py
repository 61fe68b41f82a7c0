from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.rules.tree import TreeSum, tree_total


def by_recursion(items: dict[int, float], low: int, high: int) -> float | None:
    """The definition: sum of the left half plus sum of the right half."""
    if high - low == 1:
        return items.get(low)
    middle = (low + high) // 2
    left, right = by_recursion(items, low, middle), by_recursion(items, middle, high)
    return right if left is None else left if right is None else left + right


@given(
    st.dictionaries(st.integers(0, 63), st.floats(-1e6, 1e6, allow_nan=False), max_size=40),
    st.sampled_from([1, 2, 4, 8]),
)
def test_blocks_summed_apart_give_the_bits_of_the_whole(items, blocks):
    ordered = sorted(items.items())
    size = 64 // blocks
    parts = [
        (block, tree_total([item for item in ordered if item[0] // size == block], lambda a, b: a + b))
        for block in range(blocks)
    ]
    joined = tree_total([part for part in parts if part[1] is not None], lambda a, b: a + b)
    expected = by_recursion(items, 0, 64)
    assert repr(joined) == repr(expected)


def test_it_is_not_a_sum_in_order():
    values = [random.Random(1).random() * 10.0**power for power in range(8)]
    total = tree_total(list(enumerate(values)), lambda a, b: a + b)
    assert (total == pytest.approx(sum(values)) and total != sum(values)) or values


def test_it_holds_one_sum_a_level():
    found = TreeSum(lambda a, b: a + b)
    for position in range(1000):
        found.add(position, 1)
        assert len(found._held) <= 10
    assert found.total() == 1000 and found.total() is None

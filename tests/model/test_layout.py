from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.model.layout import build_layout, cumulative_lengths, group_samples, positions_in_sample
from tests.models import tiny_batch

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(lengths)
def test_cumulative_lengths_and_positions(found: list[int]) -> None:
    ends = cumulative_lengths(np.array(found))
    assert ends.tolist() == [sum(found[:count]) for count in range(len(found) + 1)]
    expected = [at + 2 for length in found for at in range(length)]
    assert positions_in_sample(ends, 2).tolist() == expected


@given(lengths)
def test_groups_cover_all_samples_in_order_and_waste_little(found: list[int]) -> None:
    runs = group_samples(np.array(found))
    assert [first for first, _ in runs] == [0, *[end for _, end in runs[:-1]]]
    assert runs[-1][1] == len(found)
    for first, end in runs:
        cut = found[first:end]
        assert len(cut) * max(cut) ** 2 <= 1.3 * sum(length**2 for length in cut)


@given(lengths)
def test_slots_put_every_token_in_its_own_place(found: list[int]) -> None:
    layout = build_layout(tiny_batch(found), torch.device("cpu"), inputs={})
    assert sum(group.tokens for group in layout.groups) == sum(found)
    start = 0
    for group in layout.groups:
        cut = found[start : start + group.samples]
        start += group.samples
        assert group.longest == max(cut)
        if group.slots_T is None:
            assert set(cut) == {group.longest}
            assert group.real_BK is None
        else:
            assert group.real_BK is not None
            real = group.real_BK[:, 0, 0]
            assert real.sum(1).tolist() == cut
            assert torch.equal(real.flatten().nonzero()[:, 0], group.slots_T)


def test_equal_lengths_need_no_index() -> None:
    layout = build_layout(tiny_batch([6, 6, 6]), torch.device("cpu"), inputs={})
    assert [(group.samples, group.slots_T) for group in layout.groups] == [(3, None)]


def test_a_band_holds_the_window_and_is_made_once() -> None:
    layout = build_layout(tiny_batch([4]), torch.device("cpu"), inputs={})
    band = layout.band(4, 2, causal=True)
    assert band.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [False, False, True, True],
    ]
    assert layout.band(4, 2, causal=True) is band
    assert torch.equal(layout.band(4, 2, causal=False), band | band.T)

"""Sources by share: the pattern is arithmetic with golden values, and no window is far from what was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.batches import Batches
from bigbatch.data.lengths import length_facts
from bigbatch.data.mixture import MOST_PARTS, MixedOrder, joined, source_pattern, whole_parts
from bigbatch.data.order import SampleOrder, mixed
from tests.data.tables import token_rows

PARTS = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def test_golden_mixtures():
    """These never change: a run resumed with another version continues the same stream."""
    assert source_pattern([7, 3]).tolist() == [0, 0, 1, 0, 0, 1, 0, 0, 0, 1]
    assert source_pattern([1, 2, 4]).tolist() == [2, 1, 2, 2, 0, 1, 2]
    order = MixedOrder([4, 3], [7, 3], seed=0)
    assert order.ids(0, 14).tolist() == [2, 1, 6, 3, 0, 4, 3, 1, 0, 5, 2, 1, 6, 0]
    assert order.epochs(0, 14).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 2, 1, 2]
    assert MixedOrder([4, 3], [7, 3], seed=1).ids(0, 6).tolist() == [1, 2, 4, 0, 3, 5]


@pytest.mark.parametrize(
    ("shares", "parts"),
    [([0.7, 0.3], (7, 3)), ([2, 1], (2, 1)), ([1, 1, 1], (1, 1, 1)), ([5], (1,)), ([0.125, 0.5], (1, 4))],
)
def test_shares_are_taken_as_typed_in_their_ratio(shares, parts):
    assert whole_parts(shares) == parts


def test_shares_without_a_short_period_are_kept_nearly():
    shares = np.array([0.123456789, 1, 1e-9])
    parts = np.array(whole_parts(shares.tolist()))
    assert parts.sum() == MOST_PARTS and parts.min() == 1
    assert np.abs(parts / MOST_PARTS - shares / shares.sum()).max() < 2 / MOST_PARTS


@given(parts=PARTS)
def test_every_prefix_is_within_one_sample_of_the_shares(parts: list[int]):
    pattern, period = source_pattern(parts), sum(parts)
    drawn = np.cumsum(pattern[:, None] == np.arange(len(parts)), axis=0)
    exact = np.arange(1, period + 1)[:, None] * np.array(parts)
    assert (np.abs(drawn * period - exact) < period).all()
    assert drawn[-1].tolist() == parts


@given(
    parts=PARTS,
    seed=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    data=st.data(),
)
def test_however_it_is_cut_each_source_has_its_own_epochs(parts, seed, cuts, data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=len(parts), max_size=len(parts)))
    order, firsts = MixedOrder(sizes, parts, seed), np.cumsum([0, *sizes])
    position, read, epochs = 0, [], []
    for count in cuts:
        read += order.ids(position, count).tolist()
        epochs += order.epochs(position, count).tolist()
        position += count
    counts, rows, values = order.counts(position), np.array(read, np.int64), np.arange(sum(sizes)) + 1
    assert sum(counts) == position and order.sum_before(position, values) == values[rows].sum()
    for source, size in enumerate(sizes):
        own = rows[(rows >= firsts[source]) & (rows < firsts[source + 1])] - firsts[source]
        alone = SampleOrder(size, mixed(seed, 0x3117, source))
        assert own.tolist() == alone.ids(0, counts[source]).tolist()
        mine = [
            epoch
            for epoch, row in zip(epochs, read, strict=True)
            if firsts[source] <= row < firsts[source + 1]
        ]
        assert mine == [number // size for number in range(counts[source])]


def test_batches_of_a_mixture_see_each_source_in_its_own_epoch_and_count_its_tokens():
    table = joined([token_rows([3, 1], units=[1, 2]), token_rows([4, 1, 5], units=[1, 0, 1])])
    assert (table.sources, table.lengths_B.tolist()) == ((0, 2), [3, 1, 4, 1, 5])
    assert table.unit_offsets.tolist() == [0, 1, 3, 4, 4, 5]
    asked = []

    def view(found, rows, epochs):
        asked.append(epochs.tolist())
        return found.take(rows)

    batches = Batches(table, seed=0, samples=6, view=view, parts=(3, 1))
    ids = batches.at(2, 1).sample_ids_B
    assert ids.tolist() == MixedOrder([2, 3], [3, 1], 0).ids(2, 6).tolist()
    assert asked == [MixedOrder([2, 3], [3, 1], 0).epochs(2, 6).tolist()] and max(asked[0]) > 1
    assert batches.tokens_before(8) == table.lengths_B[batches.at(0, 1, 8).sample_ids_B].sum()
    assert batches.twin().at(2, 1).sample_ids_B.tolist() == ids.tolist()


@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=9), min_size=2, max_size=3),
    tokens=st.integers(1, 90),
    position=st.integers(0, 60),
)
def test_batches_in_tokens_are_the_longest_prefix_of_the_mixed_stream(lengths, tokens, position):
    table, parts = joined([token_rows(of) for of in lengths]), (3, 1, 2)[: len(lengths)]
    batches = Batches(table, seed=5, tokens=tokens, parts=parts)
    order = MixedOrder([len(of) for of in lengths], parts, 5)
    batch = batches.at(position, 1)
    ids = order.ids(position, batch.samples + 1)
    assert batch.sample_ids_B.tolist() == ids[:-1].tolist()
    assert batch.tokens <= tokens or batch.samples == 1
    assert batch.tokens + int(table.lengths_B[ids[-1]]) > tokens
    assert batches.tokens_before(position + batch.samples) - batches.tokens_before(position) == batch.tokens


def test_samples_that_belong_together_stay_so_when_tables_are_joined():
    one = replace(token_rows([1, 2, 3, 4]), groups=np.array([0, 0, 1, 1]))
    other = replace(token_rows([5, 6]), groups=np.array([3, 3]), truncated_samples=2)
    table = joined([one, other.take(np.array([0, 1]))])
    assert table.groups is not None and table.groups.tolist() == [0, 0, 1, 1, 5, 5]
    assert joined([one, token_rows([1])]).groups is None


def test_lengths_are_those_of_what_is_drawn():
    table = joined([token_rows([1] * 10), token_rows([9, 11])])
    facts = length_facts(table, Batches(table, seed=0, samples=4, parts=(1, 1)).first_epoch)
    assert (facts.samples, facts.tokens, facts.longest) == (12, 6 * 1 + 3 * (9 + 11), 11)
    assert length_facts(table).tokens == 30

"""Global batches: stretches of the stream, by samples or by tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.batches import Batches
from bigbatch.data.order import SampleOrder
from bigbatch.data.packs import micro_batches
from tests.data.tables import token_rows


def test_a_batch_crosses_the_end_of_an_epoch_and_knows_its_targets():
    table = token_rows([3, 1, 4, 1, 5, 9, 2], units=[1, 2, 0, 1, 3, 1, 1])
    batch = Batches(table, seed=4, samples=5).at(5, update=2)
    assert (batch.update, batch.first_position, batch.samples) == (2, 5, 5)
    assert batch.sample_ids_B.tolist() == SampleOrder(7, 4).ids(5, 5).tolist()
    assert batch.lengths_B.tolist() == [table.lengths_B[s] for s in batch.sample_ids_B]
    expected = [
        unit for s in batch.sample_ids_B for unit in range(table.unit_offsets[s], table.unit_offsets[s + 1])
    ]
    assert batch.targets.extras["unit"].tolist() == expected
    assert batch.targets.weights.tolist() == [unit + 1 for unit in expected]
    assert batch.targets.values.tolist() == [
        s for s in batch.sample_ids_B for _ in range([1, 2, 0, 1, 3, 1, 1][s])
    ]


def test_next_position_of_samples_and_far_positions_cost_nothing():
    batches = Batches(token_rows([2] * 10), seed=0, samples=4)
    assert batches.next_position(8) == 12
    far = 10**13
    assert batches.at(far, 1).sample_ids_B.tolist() == SampleOrder(10, 0).ids(far, 4).tolist()


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    tokens=st.integers(1, 200),
    position=st.integers(0, 200),
)
def test_token_batches_are_the_longest_prefix(lengths: list[int], tokens: int, position: int):
    table = token_rows(lengths)
    batches = Batches(table, seed=1, tokens=tokens)
    batch = batches.at(position, 1)
    ids = SampleOrder(len(lengths), 1).ids(position, batch.samples + 1)
    assert batch.sample_ids_B.tolist() == ids[:-1].tolist()
    assert batch.tokens <= tokens or batch.samples == 1
    assert batch.tokens + lengths[ids[-1]] > tokens
    assert batches.next_position(position) == position + batch.samples


def test_a_long_run_of_token_batches_consumes_the_stream_without_gaps():
    table = token_rows(np.tile([3, 7, 50, 1], 30).tolist())
    batches, position, read = Batches(table, seed=9, tokens=64), 0, []
    while position < 360:
        read += batches.at(position, 1).sample_ids_B.tolist()
        position = batches.next_position(position)
    assert read == SampleOrder(120, 9).ids(0, len(read)).tolist()


def test_one_unit_of_measure_is_needed():
    with pytest.raises(AssertionError):
        Batches(token_rows([1]), seed=0)


def test_tokens_before_a_position_are_those_of_the_stream():
    lengths = [3, 1, 4, 1, 5, 9, 2]
    batches = Batches(token_rows(lengths), seed=4, samples=5)
    order = SampleOrder(7, 4).ids(0, 30)
    for position in (0, 1, 6, 7, 8, 20, 14, 3):
        assert batches.tokens_before(position) == sum(lengths[row] for row in order[:position])


def test_a_view_is_asked_for_each_sample_with_its_epoch():
    table = token_rows([3, 1, 4])
    asked = []

    def view(found, rows, epochs):
        assert found is table
        asked.append((rows.tolist(), epochs.tolist()))
        return token_rows([table.lengths_B[row] for row in rows], units=[2] * len(rows))

    batches = Batches(table, seed=0, samples=5, view=view)
    batch = batches.at(4, 1)
    assert asked == [(batch.sample_ids_B.tolist(), [1, 1, 2, 2, 2])]
    assert len(batch.targets.values) == len(batch.table.values) == 10
    pieces = list(micro_batches(batch, micro_tokens=4, packing="packed"))
    assert sorted(row for piece in pieces for row in piece.sample_ids_B) == sorted(batch.sample_ids_B)
    assert sum(len(piece.targets.values) for piece in pieces) == 10
    batches.some(np.array([2, 0]))
    assert asked[-1] == ([2, 0], [0, 0])

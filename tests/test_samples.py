"""Streams and tables: what is taken and gathered is what a loop over the samples gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.batches import batch_of
from bigbatch.data.packs import computed_tokens, cut, cut_table, evaluation_batches, gather, micro_batches
from bigbatch.data.shares import chosen_of
from bigbatch.places import Part
from bigbatch.samples import TOKENS, Packing, Stream, Table, offsets_of
from tests.data.tables import token_rows


def two_streams(lengths: list[tuple[int, int]], groups: list[int] | None = None) -> Table:
    """A table of tokens, and of a second stream of the given lengths whose entries are pairs of numbers."""
    table = token_rows([length for length, _ in lengths])
    further = [length for _, length in lengths]
    source = Stream(
        columns={"ids": np.arange(sum(further)), "pairs": np.arange(2.0 * sum(further)).reshape(-1, 2)},
        offsets=offsets_of(np.array(further, np.int64)),
        positions=1,
    )
    found = table.replaced(source=source)
    return Table(streams=found.streams, groups=None if groups is None else np.array(groups, np.int64))


LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20)


@given(lengths=LENGTHS, data=st.data())
def test_what_is_taken_and_gathered_is_what_a_loop_gives(lengths, data):
    table = two_streams(lengths)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=12))
    again = data.draw(st.lists(st.integers(0, max(0, len(rows) - 1)), max_size=8)) if rows else []
    taken = table.take(np.array(rows, np.int64)).take(np.array(again, np.int64))
    assert len(taken) == len(again)
    loaded = taken.load()
    for name, stream in table.streams.items():
        found = loaded[name]
        assert found.lengths.tolist() == taken[name].lengths.tolist()
        for column, values in stream.columns.items():
            bounds = [stream.offsets[rows[place] : rows[place] + 2] for place in again]
            expected = np.concatenate([values[first:end] for first, end in bounds] or [values[:0]])
            np.testing.assert_array_equal(found.columns[column], expected)
    assert loaded.load().streams == loaded.streams  # nothing to gather any more
    np.testing.assert_array_equal(taken.lengths_B, loaded.lengths_B)
    np.testing.assert_array_equal(taken.targets.values, loaded.targets.values)


def test_a_sample_costs_its_positions_in_all_streams():
    table = two_streams([(3, 5), (2, 1)])
    image = Stream(columns={"pixels": np.zeros((2, 1, 4, 4))}, offsets=np.arange(3), positions=17)
    assert table.lengths_BS.tolist() == [[3, 5], [2, 1]] and table.lengths_B.tolist() == [8, 3]
    assert table.replaced(image=image).lengths_B.tolist() == [25, 20]
    assert table.replaced(label=Stream(columns={}, offsets=np.arange(3))).lengths_B.tolist() == [8, 3]


def brute_force(table: Table, chosen: np.ndarray, packing: Packing) -> int:
    lengths = table.lengths_BS[chosen]
    return int(lengths.sum()) if packing == "packed" else len(chosen) * int(lengths.max(0).sum())


@given(
    lengths=LENGTHS,
    micro_tokens=st.integers(1, 60),
    packing=st.sampled_from(["packed", "padded"]),
    data=st.data(),
)
def test_each_stream_is_padded_for_itself_and_groups_stay_together(lengths, micro_tokens, packing, data):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=len(lengths), max_size=len(lengths)))
    groups = np.repeat(np.arange(len(sizes)), sizes)[: len(lengths)].tolist()
    table = two_streams(lengths, data.draw(st.sampled_from([None, groups])))
    pieces = cut_table(table, micro_tokens, packing)
    assert sorted(np.concatenate(pieces)) == list(range(len(lengths)))
    for chosen in pieces:
        own = chosen if table.groups is None else table.groups[chosen]
        if table.groups is not None:
            assert all(int((table.groups == group).sum()) == int((own == group).sum()) for group in own)
        assert brute_force(table, chosen, packing) <= micro_tokens or len(set(own.tolist())) == 1
    expected = [brute_force(table, chosen, packing) for chosen in pieces]
    assert computed_tokens(table.lengths_BS, pieces, packing).tolist() == expected
    batch = batch_of(table, np.arange(len(lengths)))
    for piece in micro_batches(batch, micro_tokens=micro_tokens, packing=packing):
        assert piece.computed_tokens == brute_force(table, piece.sample_ids_B, packing)
        assert piece.tokens == brute_force(table, piece.sample_ids_B, "packed")


def test_one_stream_without_groups_is_cut_as_a_list_of_lengths():
    table = token_rows([7, 3, 9, 2, 8, 4, 6, 1, 5, 10])
    for packing in ("packed", "padded"):
        plain = cut(table.lengths_B, 16, packing, 4)
        alone = cut(table.lengths_BS, 16, packing, 4, np.arange(len(table)))
        assert [one.tolist() for one in plain] == [one.tolist() for one in alone]


def test_an_evaluation_does_not_tear_groups_at_its_windows():
    table = two_streams([(2, 2)] * 9, [0, 0, 1, 1, 1, 2, 2, 3, 3])
    found = list(evaluation_batches(table, micro_tokens=12, packing="packed", window=3))
    seen = [piece.sample_ids_B.tolist() for piece in found]
    assert sorted(row for rows in seen for row in rows) == list(range(9))
    assert table.groups is not None
    for rows in seen:
        assert not {0, 1} & set(rows) or {0, 1} <= set(rows)
        assert not {2, 3, 4} & set(rows) or {2, 3, 4} <= set(rows)


def test_a_filler_is_the_shortest_sample_with_what_stays_with_it():
    table = two_streams([(4, 4), (4, 4), (1, 1), (3, 3)], [0, 0, 1, 1])
    batch = batch_of(table, np.arange(4))
    pieces = list(
        micro_batches(batch, micro_tokens=99, packing="packed", part=Part(rank=1, size=2, even=True))
    )
    whole = list(
        micro_batches(batch, micro_tokens=99, packing="packed", part=Part(rank=0, size=2, even=True))
    )
    assert len(pieces) == len(whole) == 1 and pieces[0].last and whole[0].last
    one = list(micro_batches(batch_of(table.take(np.array([0, 1])), np.arange(2)), micro_tokens=99, packing="packed",
                             part=Part(rank=1, size=2, even=True)))  # fmt: skip
    assert [(piece.sample_ids_B.tolist(), piece.targets.weights.sum()) for piece in one] == [([-1, -1], 0.0)]


def test_a_share_of_a_batch_takes_all_samples_of_its_rows():
    """Rows of several samples each: the groups of a view are places in the batch."""
    seen = two_streams([(2, 1), (3, 1), (4, 1), (5, 1), (6, 1)], [0, 0, 1, 2, 2])
    rows = token_rows([5, 4, 11])
    batch = batch_of(rows, np.array([2, 0, 1]), seen)
    share = chosen_of(batch, np.array([0, 2]))
    assert share.sample_ids_B.tolist() == [2, 1] and share.lengths_B.tolist() == [11, 4]
    assert share.table[TOKENS].lengths.tolist() == [2, 3, 5, 6]
    assert share.table.groups is not None and share.table.groups.tolist() == [0, 0, 1, 1]
    assert len(share.targets.values) == 4


def test_without_any_unit_one_of_weight_0_stands_in():
    table = token_rows([3, 2], units=[0, 0])
    piece = gather(table, np.array([1, 0]), 0, 8, "packed")
    assert (piece.reads_U.tolist(), piece.unit_sample_U.tolist()) == ([0], [0])
    assert piece.targets.weights.tolist() == [0.0] and piece.targets.extras["unit"].tolist() == [0.0]


@pytest.mark.parametrize("units", [[1, 2, 0], [3, 1, 1]])
def test_reading_other_tokens_of_the_same_samples(units):
    piece = gather(token_rows([4, 3, 5], units=units), np.array([2, 0, 1]), 0, 20, "packed")
    other = piece.reading(np.array([1, 4, 5, 11]), np.array([0, 0, 1, 2]))
    assert other.reads_U.tolist() == [1, 4, 5, 11] and other.unit_sample_U.tolist() == [0, 0, 1, 2]
    assert other.ids_T.tolist() == piece.ids_T.tolist()

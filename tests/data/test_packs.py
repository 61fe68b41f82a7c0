"""Micro-batches: every sample once, within the budget, and nothing of a sample lost or mixed up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.batches import Batches
from bigbatch.data.packs import cut, evaluation_batches, micro_batches
from bigbatch.samples import MicroBatch, Packing, Table
from tests.data.tables import token_rows

PACKINGS: tuple[Packing, ...] = ("packed", "padded")
LENGTHS = st.lists(st.integers(1, 60), max_size=60)


def computed(lengths: np.ndarray, packing: Packing) -> int:
    return int(lengths.sum()) if packing == "packed" else len(lengths) * int(lengths.max())


@given(lengths=LENGTHS, micro_tokens=st.integers(1, 300), packing=st.sampled_from(PACKINGS))
def test_cut_covers_every_sample_once_within_the_budget(
    lengths: list[int], micro_tokens: int, packing: Packing
):
    lengths_B = np.array(lengths, np.int64)
    cuts = cut(lengths_B, micro_tokens, packing)
    order = [int(index) for chosen in cuts for index in chosen]
    assert sorted(order) == list(range(len(lengths)))
    assert order == sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for chosen in cuts:
        assert len(chosen) == 1 or computed(lengths_B[chosen], packing) <= micro_tokens


@given(lengths=LENGTHS.filter(bool), micro_tokens=st.integers(1, 300), packing=st.sampled_from(PACKINGS))
def test_cut_uses_as_few_as_cutting_in_order_of_length_can(
    lengths: list[int], micro_tokens: int, packing: Packing
):
    fewest, start, ordered = 0, 0, np.sort(np.array(lengths, np.int64))
    while start < len(ordered):
        end = start + 1
        while end < len(ordered) and computed(ordered[start : end + 1], packing) <= micro_tokens:
            end += 1
        fewest, start = fewest + 1, end
    assert len(cut(np.array(lengths, np.int64), micro_tokens, packing)) == fewest


def test_cut_is_balanced_rather_than_leaving_a_rest():
    sizes = [len(chosen) for chosen in cut(np.full(33, 10), 160, "packed")]
    assert sizes == [11, 11, 11]  # not 16, 16, 1


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_sample_longer_than_the_budget_is_alone(packing: Packing):
    cuts = cut(np.array([5, 900, 5, 700]), 100, packing)
    assert [chosen.tolist() for chosen in cuts] == [[0, 2], [3], [1]]


def check_holds(table: Table, micro: MicroBatch) -> None:
    """Ids, reads, targets and weights of every sample are those of the table."""
    token, unit = 0, 0
    for place, s in enumerate(micro.sample_ids_B):
        length, units = table.lengths_B[s], int(table.unit_offsets[s + 1] - table.unit_offsets[s])
        rows = slice(table.unit_offsets[s], table.unit_offsets[s + 1])
        assert micro.lengths_B[place] == length
        ids = table.ids[table.token_offsets[s] : table.token_offsets[s + 1]]
        assert micro.ids_T[token : token + length].tolist() == ids.tolist()
        here = slice(unit, unit + units)
        assert micro.ids_T[micro.reads_U[here]].tolist() == ids[table.reads[rows]].tolist()
        assert micro.unit_sample_U[here].tolist() == [place] * units
        assert micro.targets.values[here].tolist() == table.values[rows].tolist()
        assert micro.targets.weights[here].tolist() == table.weights[rows].tolist()
        assert micro.targets.extras["unit"][here].tolist() == table.extras["unit"][rows].tolist()
        if table.segments is not None:
            assert micro.segments_T is not None
            segments = table.segments[table.token_offsets[s] : table.token_offsets[s + 1]]
            assert micro.segments_T[token : token + length].tolist() == segments.tolist()
        token, unit = token + int(length), unit + units
    if not unit:  # one of weight 0 stands in
        assert micro.reads_U.tolist() == micro.targets.weights.tolist() == [0]
        assert micro.targets.values.dtype == table.values.dtype
        unit = 1
    assert (token, unit) == (micro.tokens, len(micro.reads_U))
    for array in (micro.ids_T, micro.reads_U, micro.unit_sample_U, micro.lengths_B, micro.sample_ids_B):
        assert array.dtype == np.int64


@given(
    rows=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=25),
    micro_tokens=st.integers(1, 80),
    packing=st.sampled_from(PACKINGS),
    segments=st.booleans(),
)
def test_micro_batches_hold_what_the_table_holds(rows, micro_tokens: int, packing: Packing, segments: bool):
    table = token_rows([length for length, _ in rows], units=[units for _, units in rows])
    if segments:
        columns = {"ids": table.ids, "segments": (table.ids % 2).astype(np.int8)}
        table = table.replaced(tokens=replace(table["tokens"], columns=columns))
    batch = Batches(table, seed=2, samples=len(rows) + 2).at(1, 1)
    found = list(micro_batches(batch, micro_tokens=micro_tokens, packing=packing))
    assert [micro.index for micro in found] == list(range(len(found)))
    assert sorted(np.concatenate([micro.sample_ids_B for micro in found])) == sorted(batch.sample_ids_B)
    for micro in found:
        assert (micro.packing, micro.capacity_tokens) == (packing, micro_tokens)
        assert micro.computed_tokens <= micro_tokens or len(micro.lengths_B) == 1
        check_holds(table, micro)


def test_the_global_batch_does_not_depend_on_the_cut():
    """Fault: an order that depends on the micro-batch size."""
    table = token_rows([7, 3, 9, 2, 8, 4, 6, 1, 5, 10])
    for micro_tokens in (8, 16, 1000):
        for packing in PACKINGS:
            batches, position, seen = Batches(table, seed=5, samples=4), 0, []
            for update in range(1, 6):
                batch = batches.at(position, update)
                found = micro_batches(batch, micro_tokens=micro_tokens, packing=packing)
                seen.append(sorted(np.concatenate([micro.sample_ids_B for micro in found]).tolist()))
                position = batches.next_position(position)
            assert seen == [
                sorted(Batches(table, seed=5, samples=4).at(4 * u, 1).sample_ids_B) for u in range(5)
            ]


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_evaluation_reads_every_row_once_sorted_within_windows(packing: Packing):
    table = token_rows([(7 * s) % 13 + 1 for s in range(50)])
    found = list(evaluation_batches(table, micro_tokens=40, packing=packing, window=20))
    assert [micro.index for micro in found] == list(range(len(found)))
    ids = np.concatenate([micro.sample_ids_B for micro in found])
    assert sorted(ids) == list(range(50))
    assert (np.diff(ids // 20) >= 0).all()
    for micro in found:
        assert (np.diff(micro.lengths_B) >= 0).all()
        check_holds(table, micro)
    assert list(evaluation_batches(token_rows([]), micro_tokens=40, packing=packing)) == []

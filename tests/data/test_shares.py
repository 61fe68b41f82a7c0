"""Each replica's share of a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bigbatch.data.shares import STRIDE, micro_batches_apart, replica_of, share_of
from tests.models import tiny
from tests.split import parts_of
from tests.split import rows_of as rows


@pytest.fixture(scope="module")
def parts():
    module = tiny("bert", num_labels=3)
    return parts_of(
        module,
        rows("single", 50, longest=20, pairs=True),
        "single",
        micro_tokens=64,
        packing="packed",
        batch=11,
    )


@pytest.mark.parametrize("replicas", [1, 2, 3, 11])
def test_shares_are_a_partition_of_nearly_equal_sizes(parts, replicas):
    counts = np.zeros(replicas, int)
    for update in range(1, 8):
        batch = parts.batches.at(11 * (update - 1), update)
        shares = [share_of(batch, number, replicas) for number in range(replicas)]
        ids = np.concatenate([share.sample_ids_B for share in shares])
        assert sorted(ids) == sorted(batch.sample_ids_B)
        sizes = [share.samples for share in shares]
        assert max(sizes) - min(sizes) <= 1
        counts += sizes
        for share in shares:
            np.testing.assert_array_equal(share.targets.values, parts.train.values[share.sample_ids_B])
            np.testing.assert_array_equal(share.lengths_B, parts.train.lengths_B[share.sample_ids_B])
    assert counts.max() - counts.min() <= 1


def test_a_view_is_divided_with_its_samples(parts):
    """Masked samples stay those of their own places, also where one comes twice."""
    batch = parts.batches.at(45, 5)  # crosses the end of an epoch
    seen = replace(batch, table=batch.table.load())
    for number in range(3):
        mine, plain = share_of(seen, number, 3), share_of(batch, number, 3)
        assert len(mine.table) == mine.samples
        np.testing.assert_array_equal(mine.table.ids, parts.train.take(plain.sample_ids_B).ids)
        np.testing.assert_array_equal(mine.targets.values, plain.targets.values)


def test_rows_of_a_table(parts):
    chosen = np.array([4, 0, 4])
    found = parts.train.take(chosen).load()
    for place, row in enumerate(chosen):
        mine = slice(*found.token_offsets[place : place + 2])
        theirs = slice(*parts.train.token_offsets[row : row + 2])
        np.testing.assert_array_equal(found.ids[mine], parts.train.ids[theirs])
        np.testing.assert_array_equal(found.segments[mine], parts.train.segments[theirs])


def test_micro_batches_do_not_depend_on_who_holds_a_replica(parts):
    batch = parts.batches.at(0, 1)

    def cut(held):
        found = micro_batches_apart(batch, held, 3, micro_tokens=30, packing="packed")
        return [(piece.index, piece.sample_ids_B.tolist(), piece.last) for piece in found]

    assert cut([0, 1, 2]) == cut([0]) + cut([1, 2])
    assert [index // STRIDE for index, _, _ in cut([2])] == [2] * len(cut([2]))


def test_whose_a_micro_batch_is(parts):
    pieces = micro_batches_apart(parts.batches.at(0, 1), [1], 2, micro_tokens=30, packing="padded")
    assert {replica_of(piece) for piece in pieces} == {1}

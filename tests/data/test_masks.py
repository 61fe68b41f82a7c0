"""Masks are arithmetic: golden values hold them still, an oracle that goes token by token says what they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.data.masks import EVALUATION, TRAINING, WORD, Rates, masked_rows
from bigbatch.data.order import sample_states
from bigbatch.data.tokens import as_table
from bigbatch.samples import Sample, Table
from bigbatch.tasks.mlm import MaskedLM
from bigbatch.tasks.vocabulary import Vocabulary
from tests.reference import masked

VOCABULARY = Vocabulary(size=50, rows=50, special_ids=(0, 1, 2, 3), mask_id=3)
SPECIAL = {0, 1, 2, 3}


def table_of(rows: list[list[int]], words: list[list[int]] | None = None) -> Table:
    """A cached split of an mlm task: the units are the ordinary tokens."""
    samples = []
    for number, row in enumerate(rows):
        reads = [place for place, token in enumerate(row) if token not in SPECIAL]
        starts = None if words is None else np.array(words[number], np.float32)[reads]
        samples.append(
            Sample(
                ids=np.array(row, np.int32),
                reads=np.array(reads, np.int32),
                values=np.array(row, np.int32)[reads],
                weights=np.ones(len(reads), np.float32),
                extras={} if starts is None else {WORD: starts},
            )
        )
    return as_table(samples)


def task(data_seed: int = 0, **options) -> MaskedLM:
    return MaskedLM(**options).with_facts(vocabulary=VOCABULARY, data_seed=data_seed)


def shown(view: Table, row: int) -> tuple[list[int], dict[int, int]]:
    """What a view shows of a row, and what is to be predicted of it."""
    tokens = slice(view.token_offsets[row], view.token_offsets[row + 1])
    units = slice(view.unit_offsets[row], view.unit_offsets[row + 1])
    return view.ids[tokens].tolist(), dict(
        zip(view.reads[units].tolist(), view.values[units].tolist(), strict=True)
    )


GOLDEN = [
    ([10, 11, 12, 3, 3, 3, 3, 3, 3, 19, 20, 3], {3: 13, 4: 14, 5: 15, 6: 16, 7: 17, 8: 18, 11: 21}),
    ([3, 11, 3, 13, 14, 15, 3, 17, 18, 19, 20, 21], {0: 10, 2: 12, 6: 16}),
]


def test_golden_masks():
    """These never change: a run resumed with another version goes on with the same masks."""
    view = task(probability=0.3).view(table_of([list(range(10, 22))] * 2), np.array([0, 1]), np.array([0, 5]))
    assert shown(view, 0) == GOLDEN[0]
    assert shown(view, 1) == GOLDEN[1]


rows_of_ids = st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=20), min_size=1, max_size=6)


@given(
    rows=rows_of_ids,
    seed=st.integers(0, 2**62),
    epoch=st.integers(0, 1000),
    probability=st.sampled_from([0.01, 0.15, 0.6, 1.0]),
    shares=st.sampled_from([(0.8, 0.1), (0.0, 1.0), (1.0, 0.0), (0.4, 0.3)]),
)
def test_masks_are_the_oracles(rows, seed, epoch, probability, shares):
    mask_share, random_share = shares
    own = task(probability=probability, mask_share=mask_share, random_share=random_share, data_seed=seed)
    table = table_of(rows)
    numbers = np.arange(len(rows))[::-1].copy()
    view = own.view(table, numbers, np.full(len(rows), epoch))
    for place, number in enumerate(numbers):
        expected = masked(
            rows[number],
            SPECIAL,
            key=(seed, TRAINING, epoch, int(number)),
            vocabulary=50,
            mask_id=3,
            probability=probability,
            mask_share=mask_share,
            random_share=random_share,
        )
        assert shown(view, place) == (expected["ids"], expected["targets"])


def test_whole_words_are_masked_together():
    random = np.random.default_rng(0)
    rows, words = [], []
    for _ in range(60):
        starts = [0]
        for place in range(1, 30):
            starts.append(starts[-1] if random.random() < 0.5 else place)
        rows.append(random.integers(4, 50, 30).tolist())
        words.append(starts)
    own = task(probability=0.2, whole_word=True)
    view = own.view(table_of(rows, words), np.arange(60), np.zeros(60, np.int64))
    assert WORD not in view.extras
    for number, (row, starts) in enumerate(zip(rows, words, strict=True)):
        ids, targets = shown(view, number)
        expected = masked(
            row,
            SPECIAL,
            key=(0, TRAINING, 0, number),
            vocabulary=50,
            mask_id=3,
            probability=0.2,
            words=starts,
        )
        assert (ids, targets) == (expected["ids"], expected["targets"])
        chosen = {starts[place] for place in targets}
        assert set(targets) == {place for place in range(30) if starts[place] in chosen}


def test_rates_are_as_asked_and_special_tokens_are_never_touched():
    random = np.random.default_rng(1)
    rows = [[1, *random.integers(4, 50, 98).tolist(), 2] for _ in range(1000)]
    view = task().view(table_of(rows), np.arange(1000), np.zeros(1000, np.int64))
    units = len(view.reads)
    assert units / (98 * 1000) == pytest.approx(0.15, abs=0.004)
    assert not set(view.reads.tolist()) & {0, 99}
    flat = np.concatenate(rows)
    at = view.reads + np.repeat(view.token_offsets[:-1], np.diff(view.unit_offsets))
    assert (view.values == flat[at]).all()
    as_mask, as_it_was = view.ids[at] == 3, view.ids[at] == view.values
    assert as_mask.mean() == pytest.approx(0.8, abs=0.01)
    # A random token is the true one once in 46 times.
    assert as_it_was.mean() == pytest.approx(0.1 + 0.1 / 46, abs=0.01)
    others = view.ids[at][~as_mask]
    assert not set(others.tolist()) & SPECIAL and len(set(others.tolist())) == 46
    untouched = np.ones(len(flat), bool)
    untouched[at] = False
    assert (view.ids[untouched] == flat[untouched]).all()


def test_each_sample_has_a_mask_and_each_epoch_another():
    table = table_of([[1, 10, 11, 12, 2]] * 300 + [[1, 2]])
    views = [task().view(table, np.arange(301), np.full(301, epoch)) for epoch in (0, 1)]
    for view in views:
        counts = np.diff(view.unit_offsets)
        assert counts[:300].min() == 1 and counts[300] == 0
    assert (views[0].ids != views[1].ids).mean() > 0.2
    assert len({tuple(shown(views[0], row)[1]) for row in range(300)}) > 3, "samples differ within an epoch"
    again = task().view(table, np.array([7, 7, 3]), np.array([0, 1, 0]))
    assert shown(again, 0) == shown(views[0], 7) and shown(again, 1) == shown(views[1], 7)
    assert shown(again, 2) == shown(views[0], 3)


def test_evaluation_masks_are_fixed_and_of_their_own_stream():
    table = table_of([list(range(4, 40))] * 50)
    fixed = [task(data_seed=seed).fixed(table) for seed in (0, 9)]
    assert (fixed[0].ids == fixed[1].ids).all()
    training = task().view(table, np.arange(50), np.zeros(50, np.int64))
    assert (fixed[0].ids != training.ids).any()
    expected = masked(list(range(4, 40)), SPECIAL, key=(0, EVALUATION, 0, 31), vocabulary=50, mask_id=3)
    assert shown(fixed[0], 31) == (expected["ids"], expected["targets"])


def test_extras_and_segments_come_along():
    table = table_of([[10, 11, 12]])
    table = Table.of_tokens(
        ids=table.ids,
        token_offsets=table.token_offsets,
        segments=np.array([0, 1, 1], np.int8),
        reads=table.reads,
        unit_offsets=table.unit_offsets,
        values=table.values,
        weights=table.weights,
        extras={"own": np.arange(3.0)},
    )
    rates = Rates(probability=1.0, mask_share=1.0, random_share=0.0, mask_id=3, ordinary_ids=np.arange(4, 50))
    view = masked_rows(table, np.array([0]), sample_states(0, TRAINING, np.array([0]), np.array([0])), rates)
    assert view.ids.tolist() == [3, 3, 3] and view.segments is not None
    assert view.segments.tolist() == [0, 1, 1] and view.extras["own"].tolist() == [0, 1, 2]

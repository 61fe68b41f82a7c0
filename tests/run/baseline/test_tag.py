"""Words and their tags, whichever form the rows have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bigbatch.data.tables import DataTable, from_rows
from bigbatch.data.tokens import as_table
from bigbatch.metrics.entities import PIECE
from bigbatch.run.baseline.model import Split
from bigbatch.run.baseline.tag import tag_baselines
from bigbatch.samples import Sample

TASK = SimpleNamespace(label_names=("A", "B", "O"))


def sample(ids, reads, values, further=None) -> Sample:
    extras = {} if further is None else {PIECE: np.array(further, np.float32)}
    return Sample(
        ids=np.array(ids, np.int32), reads=np.array(reads, np.int32), values=np.array(values, np.int64),
        weights=(np.array(values) >= 0).astype(np.float32), extras=extras,
    )  # fmt: skip


def guesses(train: Split, asked: Split) -> list[int]:
    (found,) = tag_baselines(TASK, train)
    return found.outputs(asked).argmax(-1).tolist()


def test_a_word_has_the_tag_that_it_had_most_often_and_an_unseen_one_the_most_frequent():
    rows = [{"words": ["x", "y", "z"], "tags": ["A", "O", "O"]}, {"words": ["x", "x"], "tags": ["A", "B"]}]
    train = Split(
        rows=from_rows(rows),
        table=as_table([sample([7, 8, 9], [0, 1, 2], [0, 2, 2]), sample([7, 7], [0, 1], [0, 1])]),
    )
    asked = Split(
        rows=from_rows([{"words": ["new", "x", "y"], "tags": ["O", "O", "O"]}]),
        table=as_table([sample([5, 7, 8], [0, 1, 2], [2, 2, 2])]),
    )
    # "A" and "O" are as frequent; the first of them decides.
    assert guesses(train, asked)[1:] == [0, 2]


def test_words_that_are_not_counted_and_further_pieces():
    rows = [{"words": ["x", "skip", "y"], "tags": ["A", "-100", "B"]}] * 3
    table = as_table([sample([7, 17, 8, 18], [0, 1, 2, 3], [0, 0, 1, 1], [0, 1, 0, 1])] * 3)
    split = Split(rows=from_rows(rows), table=table)
    assert guesses(split, split) == [0, 0, 1, 1] * 3


def test_rows_of_token_ids_have_no_words():
    table = as_table([sample([3, 4, 5], [0, 2], [0, 1])] * 2)
    split = Split(
        rows=DataTable(rows=from_rows([{"input_ids": [3, 4, 5]}] * 2).rows, tokenised=True), table=table
    )
    assert guesses(split, split) == [0, 1, 0, 1]


def test_nothing_to_learn_from_is_no_baseline():
    split = Split(
        rows=from_rows([{"words": ["x"], "tags": ["-100"]}]), table=as_table([sample([7], [0], [-100])])
    )
    assert list(tag_baselines(TASK, split)) == []


@pytest.mark.parametrize("count", [1, 5])
def test_probabilities_are_those_of_counts(count):
    rows = [{"words": ["x"], "tags": ["A"]}] * count + [{"words": ["x"], "tags": ["B"]}]
    table = as_table([sample([7], [0], [0])] * count + [sample([7], [0], [1])])
    (found,) = tag_baselines(TASK, Split(rows=from_rows(rows), table=table))
    shares = np.exp(found.outputs(Split(rows=from_rows(rows[:1]), table=as_table([sample([7], [0], [0])]))))[
        0
    ]
    assert shares.sum() == pytest.approx(1) and shares[0] == pytest.approx(count / (count + 1), abs=1e-3)

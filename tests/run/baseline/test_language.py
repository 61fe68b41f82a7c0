"""The n-gram and the neighbours against probabilities worked out word by word, and against their own sum."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from bigbatch.data.blocks import next_token_table, piece_bounds
from bigbatch.data.tables import from_rows
from bigbatch.run.baseline.model import Split
from bigbatch.run.baseline.neighbours import mlm_baselines
from bigbatch.run.baseline.ngram import ORDER, NGram, clm_baselines
from bigbatch.samples import Table

VOCABULARY = 6


def table(rows: list[list[int]]) -> Table:
    """Documents, a unit a token."""
    ids = np.concatenate([np.array(row, np.int32) for row in rows])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    reads = np.concatenate([np.arange(len(row)) for row in rows]).astype(np.int32)
    return Table.of_tokens(
        ids=ids, token_offsets=offsets, segments=None, reads=reads, unit_offsets=offsets, values=ids,
        weights=np.ones(len(ids), np.float32),
    )  # fmt: skip


def causal(rows: list[list[int]]) -> Table:
    documents = table(rows)
    return next_token_table(documents, *piece_bounds(documents, 100)[:2])


def sentences(count: int, seed: int) -> list[list[int]]:
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        row = [int(chance.integers(VOCABULARY))]
        for _ in range(int(chance.integers(1, 9))):
            row.append(
                (row[-1] + (1 if chance.random() < 0.7 else int(chance.integers(VOCABULARY)))) % VOCABULARY
            )
        found.append(row)
    return found


class Oracle:
    """Interpolated Kneser-Ney by its definition, with dictionaries."""

    def __init__(self, rows: list[list[int]]) -> None:
        marked = [["*"] * (ORDER - 1) + row for row in rows]
        seen = [Counter() for _ in range(ORDER + 1)]
        for row in marked:
            for end in range(ORDER - 1, len(row)):
                for order in range(1, ORDER + 1):
                    seen[order][tuple(row[end - order + 1 : end + 1])] += 1
        self.counts = [Counter() for _ in range(ORDER + 1)]
        self.counts[ORDER] = seen[ORDER]
        for order in range(1, ORDER):
            for gram in seen[order + 1]:
                self.counts[order][gram[1:]] += 1
        self.of_context = [defaultdict(dict) for _ in range(ORDER + 1)]
        for order in range(1, ORDER + 1):
            for gram, count in self.counts[order].items():
                self.of_context[order][gram[:-1]][gram[-1]] = count

    def share(self, context: tuple, word: int) -> float:
        """p(word | context), context of any length below the order."""
        order = len(context) + 1
        shorter = 1 / VOCABULARY if order == 1 else self.share(context[1:], word)
        here = self.of_context[order].get(context)
        if not here:
            return shorter
        once, twice = (sum(count == n for count in self.counts[order].values()) for n in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        total = sum(here.values())
        return (max(here.get(word, 0) - discount, 0) + discount * len(here) * shorter) / total


def test_every_probability_is_the_definitions():
    rows, unseen = sentences(60, 0), [*sentences(20, 1), [5, 0], [0] * 8]
    oracle, held_out = Oracle(rows), causal(unseen)
    model = next(clm_baselines(Split(rows=from_rows([]), table=causal(rows)), vocabulary=VOCABULARY))
    found = model.outputs(Split(rows=from_rows([]), table=held_out))
    wanted = [
        -np.log(oracle.share(tuple((["*"] * (ORDER - 1) + row[:end])[-(ORDER - 1) :]), row[end]))
        for row in unseen
        for end in range(1, len(row))
    ]
    np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-10)
    assert 0.5 < found[:, 1].mean() < 1, "it should guess most of these"


def test_shares_of_all_words_sum_to_one():
    model = NGram(causal(sentences(60, 0)), np.arange(60), VOCABULARY)
    for context in ([0, 1, 2, 3], [5, 5, 5, 5], [2]):
        asked = table([[*context, word] for word in range(VOCABULARY)])
        shares, _ = model.score(asked, np.arange(VOCABULARY))
        assert shares[len(context) :: len(context) + 1].sum() == pytest.approx(1)


def test_neighbours_tell_the_token_between():
    rows = [[0, 3, 1], [0, 3, 1], [1, 4, 0], [1, 4, 0], [0, 5, 0]] * 10
    train = Split(rows=from_rows([]), table=table(rows))
    unigram, neighbours = mlm_baselines(train, vocabulary=VOCABULARY)
    masked = table([[0, 2, 1], [1, 2, 0], [2, 2, 2]])  # 2 stands for the mask: nobody has seen it
    middle = Table.of_tokens(
        ids=masked.ids, token_offsets=masked.token_offsets, segments=None, reads=np.array([1, 1, 1], np.int32),
        unit_offsets=np.arange(4), values=np.array([3, 4, 0]), weights=np.ones(3, np.float32),
    )  # fmt: skip
    split = Split(rows=from_rows([]), table=middle)
    found, plain = neighbours.outputs(split), unigram.outputs(split)
    assert found[:2, 1].tolist() == [1, 1] and (found[:2, 0] < 0.3).all()
    # Beside masks alone it says what the unigram says: 0 is the most frequent token.
    assert found[2].tolist() == pytest.approx(plain[2].tolist()) and plain[2, 1] == 1

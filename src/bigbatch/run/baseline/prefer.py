"""Baselines of preferences: the longer answer, a bag of words, and the answer that the starting model finds likelier.

A bag of words is a linear reward r(y) = w x(y), x the TF-IDF of an answer's words, learnt as reward models are:

    minimise  mean over pairs of -log sigmoid(r(chosen) - r(rejected))  +  a penalty of w

which is logistic regression of the difference x(chosen) - x(rejected). It reads no prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bigbatch.data.sides import CHOSEN, REJECTED, sequence_starts
from bigbatch.run.baseline.features import CHARACTERS, TOKENS, WORDS, Bag
from bigbatch.run.baseline.linear import fit
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.run.baseline.sparse import Sparse, beside
from bigbatch.samples import Predictions, Table
from bigbatch.tasks.answers import ANSWERS
from bigbatch.tasks.prefer import REFERENCE

LONGER, START, BAG = "longer_answer", "starting_model", "bag_of_words"
_WITH_CHARACTERS, _MOST_SYMBOLS = 2_000_000, 24_000_000
"""Characters of all answers up to which n-grams of characters are features, too, and those that are looked at; a token
id counts as four."""
_MOST_FEATURES = 500_000


def prefer_baselines(train: Split, seconds: float, *, with_start: bool) -> Iterator[Baseline]:
    """Those of `task: prefer`.

    Args:
        train: the pairs to learn from.
        seconds: that fitting may take.
        with_start: whether what the starting model says is known.
    """
    yield Baseline(name=LONGER, outputs=lambda split: _rewards(np.ones(len(split.table.weights))))
    if with_start:
        yield Baseline(name=START, outputs=lambda split: _rewards(_log_probabilities(split.table)))
    found = _bag(train, seconds)
    if found is not None:
        rewards_of, note = found
        yield Baseline(
            name=BAG, outputs=lambda split: _rewards(_at_starts(split.table, rewards_of(split))), note=note
        )


def reward_baselines(train: Split, seconds: float) -> Iterator[Baseline]:
    """Those of `task: reward`; of a bag of words the loss and the margin are told, too, since it gives rewards."""
    yield Baseline(name=LONGER, outputs=lambda split: _rewards(np.asarray(split.table.lengths_B, np.float64)))
    found = _bag(train, seconds)
    if found is not None:
        rewards_of, note = found
        yield Baseline(name=BAG, outputs=lambda split: rewards_of(split)[:, None], note=note)


def _bag(train: Split, seconds: float) -> tuple[Callable[[Split], np.ndarray], str] | None:
    """(split -> rewards (S,), the two of a pair one behind the other; a note). None where no pair is told apart."""
    started, ids = time.monotonic(), not isinstance(_answers(train, np.arange(1))[0][0], str)
    sizes = sum(map(len, (answer for side in _answers(train, np.arange(len(train.rows))) for answer in side)))
    sizes *= 4 if ids else 1
    kept = spread(len(train.rows), max(1, int(len(train.rows) * min(1.0, _MOST_SYMBOLS / max(1, sizes)))))
    sides = _answers(train, kept)
    differ = [one != other for one, other in zip(*sides, strict=True)]
    sides = [[answer for answer, own in zip(side, differ, strict=True) if own] for side in sides]
    if not sides[CHOSEN]:
        return None
    kinds = (TOKENS,) if ids else (WORDS, CHARACTERS) if sizes <= _WITH_CHARACTERS else (WORDS,)
    bag = Bag([_symbols([*sides[CHOSEN], *sides[REJECTED]])], kinds, most=_MOST_FEATURES)
    rows, pairs = bag.learnt_from, len(sides[CHOSEN])
    model = fit(
        _differences(rows[:pairs], rows[pairs:]),
        np.repeat(np.array([1, 0]), pairs),
        "single",
        outputs=2,
        seconds=max(1.0, seconds - (time.monotonic() - started)),
    )
    weights_F = (model.weights_FC[:, 1] - model.weights_FC[:, 0]).double().numpy()

    def rewards(split: Split) -> np.ndarray:
        found = [
            _times(bag([_symbols(side)]), weights_F) for side in _answers(split, np.arange(len(split.rows)))
        ]
        return np.stack(found, axis=1).reshape(-1)

    notes = []
    if len(kept) < len(train.rows):
        notes.append(f"fitted on {len(kept):,} of {len(train.rows):,} pairs")
    if not model.done:
        notes.append(f"stopped after {model.steps} steps, before it had converged")
    return rewards, "; ".join(notes)


def _answers(split: Split, chosen: np.ndarray) -> list[list]:
    """The chosen and the rejected answers of some rows: texts, or lists of token ids."""
    return [split.rows.rows.column(name).take(chosen).to_pylist() for name in ANSWERS]


def _symbols(answers: Sequence) -> Sequence:
    return answers if not answers or isinstance(answers[0], str) else [np.asarray(ids) for ids in answers]


def _differences(chosen: Sparse, rejected: Sparse) -> Sparse:
    """x(chosen) - x(rejected) of each pair, and then the same the other way round: no side is the first one."""
    found = beside([chosen, rejected])
    width = chosen.width
    first_E = found.features < width
    features = np.where(first_E, found.features, found.features - width).astype(np.int32)
    values = np.where(first_E, found.values, -found.values).astype(np.float32)
    return Sparse(
        features=np.concatenate([features, features]),
        values=np.concatenate([values, -values]),
        offsets=np.concatenate([found.offsets, found.offsets[1:] + found.offsets[-1]]),
        width=width,
    )


def _times(rows: Sparse, weights_F: np.ndarray) -> np.ndarray:
    """(N,) float64."""
    owners_E = np.repeat(np.arange(len(rows)), np.diff(rows.offsets))
    return np.bincount(owners_E, rows.values * weights_F[rows.features], len(rows))


def _rewards(parts_U: np.ndarray) -> Predictions:
    """Each unit's part of its answer's reward."""
    return Predictions(kind="language", scores=parts_U[:, None], probabilities=None, values=parts_U)


def _at_starts(table: Table, rewards_S: np.ndarray) -> np.ndarray:
    """(U,) float64: what a whole answer is worth at its first unit."""
    parts_U = np.zeros(len(table.weights))
    parts_U[sequence_starts(np.asarray(table.values))] = rewards_S
    return parts_U


def _log_probabilities(table: Table) -> np.ndarray:
    """(U,) float64: of the whole answer, at its first unit."""
    starts_S = sequence_starts(np.asarray(table.values))
    return _at_starts(table, np.asarray(table.extras[REFERENCE])[starts_S])

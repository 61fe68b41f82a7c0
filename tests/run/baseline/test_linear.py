"""Features and the linear model against scikit-learn, which computes the same another way."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from bigbatch.run.baseline.features import CHARACTERS, TOKENS, WORDS, Bag
from bigbatch.run.baseline.lbfgs import steps
from bigbatch.run.baseline.linear import fit
from bigbatch.run.baseline.sparse import flipped

TOPICS = {
    "sky": ["blue", "cloud", "wind", "rain"],
    "sea": ["wave", "fish", "salt", "ship"],
    "land": ["hill", "tree"],
}


def texts(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    chance = random.Random(seed)
    labels = [chance.randrange(3) for _ in range(count)]
    names = list(TOPICS)
    rows = [
        " ".join(chance.choices([*TOPICS[names[label]], *TOPICS[chance.choice(names)], "The", "a!"], k=6))
        for label in labels
    ]
    return rows, np.array(labels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (WORDS, {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"}),
        (CHARACTERS, {"ngram_range": (2, 4), "analyzer": "char"}),
    ],
)
def test_weights_are_scikit_learns(kind, options):
    rows, _ = texts(50, 0)
    unseen, _ = texts(20, 1)
    oracle = TfidfVectorizer(sublinear_tf=True, **options)
    # One space around each text, as bigbatch has it.
    shown = (lambda text: f" {text} ") if kind is CHARACTERS else str
    wanted = [oracle.fit_transform(map(shown, rows)), oracle.transform(map(shown, unseen))]
    bag = Bag([rows], [kind], most=10**6)
    for found, expected in zip((bag.learnt_from, bag([unseen])), wanted, strict=True):
        # Columns are numbered otherwise: products of rows do not depend on it.
        np.testing.assert_allclose(found @ found.T, (expected @ expected.T).toarray(), atol=1e-6)
    assert bag.learnt_from.width == wanted[0].shape[1]


def test_a_character_of_chinese_is_a_word():
    rows = ["这个手机很好", "手机不好", "Das ist gut"]
    bag = Bag([rows], [WORDS], most=1000)
    similar = bag.learnt_from @ bag.learnt_from.T
    assert similar[0, 1] > 0.3 and similar[0, 2] == 0


def test_only_the_most_frequent_ngrams_are_kept():
    rows, _ = texts(100, 0)
    assert Bag([rows], [WORDS], most=10).learnt_from.width <= 10


def test_rows_in_pieces_are_the_same_rows():
    rows, _ = texts(60, 0)
    whole = Bag([rows], [WORDS, CHARACTERS], most=1000)
    parts = [whole([rows[first : first + 7]]).dense() for first in range(0, 60, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole([rows]).dense())
    back = flipped(whole.learnt_from)
    np.testing.assert_array_equal(back.dense(), whole.learnt_from.dense().T)


def test_logistic_regression_is_scikit_learns():
    rows, labels = texts(200, 0)
    unseen, _ = texts(50, 1)
    bag = Bag([rows], [WORDS], most=1000)
    found = fit(bag.learnt_from, labels, "single", outputs=3, seconds=60)(bag([unseen]))
    oracle = LogisticRegression(C=10, max_iter=1000, tol=1e-8).fit(bag.learnt_from.dense(), labels)
    wanted = oracle.predict_proba(bag([unseen]).dense())
    shares = torch.from_numpy(found).softmax(-1).numpy()
    np.testing.assert_allclose(shares, wanted, atol=0.02)


def test_each_label_and_each_number_by_itself():
    rows, labels = texts(200, 0)
    bag = Bag([rows], [WORDS], most=1000)
    several = np.eye(3)[labels]
    found = fit(bag.learnt_from, several, "multi", outputs=3, seconds=60)(bag.learnt_from)
    one = LogisticRegression(C=10, max_iter=1000).fit(bag.learnt_from.dense(), labels == 1)
    np.testing.assert_allclose(found[:, 1], one.decision_function(bag.learnt_from.dense()), atol=0.3)
    numbers = np.column_stack([labels * 2.0 - 1, labels**2])
    found = fit(bag.learnt_from, numbers, "regression", outputs=2, seconds=60)(bag.learnt_from)
    ridge = Ridge(alpha=1.0).fit(bag.learnt_from.dense(), numbers).predict(bag.learnt_from.dense())
    np.testing.assert_allclose(found, ridge, atol=0.05)


def test_when_time_is_up_it_says_so():
    rows, labels = texts(200, 0)
    model = fit(Bag([rows], [WORDS], most=1000).learnt_from, labels, "single", outputs=3, seconds=0)
    assert not model.done and model.steps == 1


def test_no_random_number_is_drawn_and_no_gradient_is_left_on():
    before = torch.random.get_rng_state()
    rows, labels = texts(50, 0)
    fit(Bag([rows], [WORDS], most=1000).learnt_from, labels, "single", outputs=3, seconds=60)
    assert torch.equal(before, torch.random.get_rng_state()) and torch.is_grad_enabled()


def test_the_minimum_of_a_bowl():
    scale = torch.tensor([1.0, 10.0, 100.0])
    target = torch.tensor([3.0, -2.0, 0.5])

    def slope_at(place):
        error = place - target
        return float((scale * error**2).sum() / 2), scale * error

    places = [
        place
        for _, place in zip(range(40), (place for _, place in steps(slope_at, torch.zeros(3))), strict=False)
    ]
    torch.testing.assert_close(places[-1], target, atol=1e-3, rtol=0)


def test_token_ids_instead_of_texts():
    rows = [np.array([5, 6, 7]), np.array([7, 6, 5]), np.array([5, 6, 7, 5, 6])]
    bag = Bag([rows], [TOKENS], most=100)
    similar = bag.learnt_from @ bag.learnt_from.T
    assert similar[0, 2] > similar[0, 1] > 0

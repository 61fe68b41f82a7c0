"""Rows of a prompt and two answers as sequences: what is cut, and which pairs tell nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bigbatch.errors import RecipeError
from bigbatch.recipe.learning import LossSpec
from bigbatch.tasks.answers import encode_answers
from bigbatch.tasks.prefer import Prefer


@pytest.mark.parametrize(
    ("chosen", "rejected", "max_length", "counts"),
    [
        ([7, 8], [7, 8], None, False),
        ([7, 8], [7, 9], None, True),
        ([7, 8], [7, 8, 9], None, True),
        ([7, 8, 5], [7, 8, 6], 3, False),
        ([7, 8, 5], [7, 8, 6], 4, True),
    ],
)
def test_equal_answers_count_nothing_even_where_only_the_cut_made_them_equal(
    chosen, rejected, max_length, counts
):
    row = {"prompt": [3, 4], "chosen": chosen, "rejected": rejected}
    [sample] = encode_answers([row], None, max_length)
    assert np.unique(sample.weights).tolist() == [float(counts)]
    assert sample.truncated == (max_length is not None)


@pytest.mark.parametrize(
    ("beta", "smoothing", "key"), [(0.0, 0.0, "beta"), (1e308, 0.0, "beta"), (0.1, 0.5, "smooth")]
)
def test_options_that_turn_the_preference_round_are_refused(beta, smoothing, key):
    with pytest.raises(RecipeError, match=key):
        Prefer(beta=beta).with_loss(LossSpec(label_smoothing=smoothing), Path())


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        (LossSpec(name="orpo", label_smoothing=0.1), "dpo, simpo have it"),
        (LossSpec(name="simpo", args={"gamma": -1}), r"args\.gamma.*from 0 to 100"),
        (LossSpec(name="dpo", args={"length_normalised": 1}), "expected true, false"),
        (LossSpec(name="dpo", args={"gamma": 1.0}), r"no such option \(it has: length_normalised\)"),
    ],
)
def test_an_option_that_a_loss_has_not_is_refused(loss, key):
    with pytest.raises(RecipeError, match=key):
        Prefer().with_loss(loss, Path())


@pytest.mark.parametrize(("name", "beta"), [("dpo", 0.1), ("simpo", 2.0), ("orpo", 0.1)])
def test_a_loss_has_its_own_beta_and_asks_the_start_only_where_it_is_held_to_it(name, beta):
    task = Prefer().with_loss(LossSpec(name=name), Path())
    assert (task.settings.beta, bool(task.needs)) == (beta, name == "dpo")

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

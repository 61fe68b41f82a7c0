"""A batch of one pair has nothing to tell apart: refused before the first update."""

from __future__ import annotations

import pytest

from bigbatch.build.coupling import check_coupling
from bigbatch.errors import RecipeError
from bigbatch.parallel.single import SingleWorld
from bigbatch.recipe.schema import Recipe
from bigbatch.tasks.match import Match


def recipe(samples):
    return Recipe.model_validate(
        {"model": "m", "task": "match", "data": {"train": "a.csv"}, "batch": samples, "updates": 1}
    )


def test_one_pair_is_refused_and_two_or_a_negative_are_not():
    pairs = ("query", "document")
    with pytest.raises(RecipeError, match="batch: a batch of 1 pair has no other document.*take 2 or more"):
        check_coupling(recipe(1), Match(), SingleWorld(), pairs)
    check_coupling(recipe(2), Match(), SingleWorld(), pairs)
    check_coupling(recipe(1), Match(), SingleWorld(), (*pairs, "negative"))

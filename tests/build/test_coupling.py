"""What cannot be had together is refused before the first update."""

from __future__ import annotations

import pytest

from bigbatch.build.coupling import check_coupling
from bigbatch.errors import RecipeError
from bigbatch.parallel.single import SingleWorld
from bigbatch.recipe.learning import GradientSpec
from bigbatch.recipe.schema import Recipe
from bigbatch.tasks.base import Task
from bigbatch.tasks.image import Image
from bigbatch.tasks.match import Match
from bigbatch.tasks.prefer import Prefer
from bigbatch.tasks.seq2seq import Seq2Seq


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


@pytest.mark.parametrize(
    ("task", "given"), [(Seq2Seq(), "source and target"), (Image(), "image")], ids=["seq2seq", "image"]
)
def test_moves_of_embedded_tokens_are_those_of_one_text(task: Task, given: str):
    asked = recipe(8).model_copy(update={"gradient": GradientSpec(name="fgm")})
    with pytest.raises(
        RecipeError, match=f"gradient: fgm moves the tokens of one text; .* given {given}: sam"
    ):
        check_coupling(asked, task, SingleWorld())
    check_coupling(asked, Prefer(), SingleWorld())
    check_coupling(asked.model_copy(update={"gradient": GradientSpec(name="sam")}), task, SingleWorld())

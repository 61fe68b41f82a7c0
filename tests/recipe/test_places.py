"""Problems that later rooms find with a recipe name the file and line of their key."""

from __future__ import annotations

import pytest

from bigbatch.errors import Problem, RecipeError
from bigbatch.recipe.load import load_recipe, placed


def test_a_problem_found_later_names_file_and_line(tmp_path):
    (tmp_path / "r.yaml").write_text("model: m\ndata:\n  train: t.csv\nbatch: 99\n")
    recipe = load_recipe(tmp_path / "r.yaml", ["clip=2"])
    with pytest.raises(RecipeError) as caught, placed(recipe):
        raise RecipeError(
            [
                Problem(where="recipe", key="batch.samples", what="too many"),
                Problem(where="r.yaml", key="clip", what="too much"),
                Problem(where="loss.py:3", key="", what="its own place"),
            ]
        )
    assert str(caught.value).splitlines() == [
        f"{recipe.place('batch')}: batch.samples: too many",
        "command line: clip: too much",
        "loss.py:3: its own place",
    ]
    assert recipe.place("batch").endswith("r.yaml:4")


def test_other_problems_stay_as_they_are(tmp_path):
    recipe = load_recipe({"model": {"name": None}, "data": {"train": []}})
    with pytest.raises(RecipeError, match=r"^elsewhere: no$"), placed(recipe):
        raise RecipeError([Problem(where="elsewhere", what="no")])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("schedule={warmup: 120 %}", "at most 100 %"),
        ("optimizer.lr_rule=sqrt", "needs base_batch"),
        ("optimizer.betas_rule=sde", "needs base_batch"),
    ],
)
def test_contradictions_are_found_before_any_data_is_read(change, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe({"model": {"name": None}, "data": {"train": []}}, [change])

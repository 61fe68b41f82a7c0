"""The options of `task: tag`, and what is said about those of another task."""

from __future__ import annotations

from typing import Any

import pytest

from bigbatch.errors import RecipeError
from bigbatch.recipe.keys import all_keys, siblings
from bigbatch.recipe.load import load_recipe


def task_of(options: Any) -> dict[str, Any]:
    recipe = load_recipe({"model": "m", "data": {"train": "a.conll"}, "task": options}, environ={})
    return recipe.task.model_dump()


def test_options_stand_beside_the_name() -> None:
    assert task_of("tag") == {"name": "tag", "scheme": "auto", "pieces": "first"}
    options = {"name": "tag", "scheme": "iob2", "pieces": "all", "labels": ["O", "B-X", 1]}
    assert task_of(options) == {**options, "labels": ["O", "B-X", "1"]}
    assert {"kind", "labels", "scheme", "pieces"} <= set(siblings("task"))
    assert sum(key == "task.labels" for key in all_keys()) == siblings("task").count("labels") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "tag", "kind": "multi"}, "task.kind: not an option of this task; classify has it"),
        ({"name": "classify", "pieces": "all"}, "task.pieces: not an option of this task; tag has it"),
        (
            {"name": "tag", "scheme": "bio"},
            r"task.scheme: found 'bio'; expected auto \| iob1 \| iob2 \| bioes \| bilou \| io \| none",
        ),
        ({"name": "tag", "piecs": "all"}, "task.piecs: unknown key; did you mean task.pieces"),
        ({"name": "tag", "labels": ["O", "O"]}, "task.labels: found .*; expected distinct names"),
    ],
)
def test_what_is_wrong_is_named(options: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        task_of(options)

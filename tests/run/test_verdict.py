from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bigbatch.run.about import base_name
from bigbatch.run.verdict import never_predicted


def result(confusion: list[list[int]] | None, *labels: str) -> Any:
    return SimpleNamespace(confusion=None if confusion is None else np.array(confusion), labels=labels)


def test_a_class_that_occurs_and_is_never_predicted_is_named():
    # "b" occurs and is never said, "c" neither occurs nor is said.
    found = result([[3, 0, 0], [2, 0, 0], [0, 0, 0]], "a", "b", "c")
    assert never_predicted(SimpleNamespace(marked=False), found) == (["b"], "class")


def test_a_type_counts_once_whatever_its_tags():
    labels = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    cells = np.zeros((5, 5), int)
    cells[0, 2] = 4  # B-LOC taken for I-LOC: the type is predicted
    cells[1, 4] = cells[3, 4] = 2
    assert never_predicted(SimpleNamespace(marked=True), result(cells.tolist(), *labels)) == (["PER"], "type")


def test_without_a_confusion_nothing_is_said():
    assert (
        never_predicted(object(), result(None)) == ([], "class") and never_predicted(object(), None)[0] == []
    )


def parts(name: str | None, base: Any) -> Any:
    from bigbatch.recipe.schema import Recipe

    recipe = Recipe.model_validate({"model": {"name": name}, "data": {"train": []}})
    return SimpleNamespace(recipe=recipe, module=SimpleNamespace(config=base))


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ('---\nbase_model: "org/base"\n---\n', "org/base"),
        ("---\nbase_model: org/base\n---\n", "org/base"),
        ('---\nbase_model: "/secret/tiny"\n---\n', "tiny"),
        ("no header\nbase_model: org/base\n", "tweets/model"),
        ("---\ntags: [x]\n---\nbase_model: org/base\n", "tweets/model"),
        (None, "tweets/model"),
    ],
)
def test_a_model_is_called_by_its_base(tmp_path, card, wanted):
    folder = tmp_path / "tweets" / "model"
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    assert base_name(parts(str(folder), None)) == wanted


def test_a_hub_name_and_a_live_model_keep_theirs():
    assert base_name(parts("org/name", None)) == "org/name"
    assert base_name(parts(None, SimpleNamespace(_name_or_path="org/live"))) == "org/live"
    assert base_name(parts(None, None)) == "SimpleNamespace"

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bigbatch.data.labels import LabelSet
from bigbatch.errors import RecipeError
from bigbatch.recipe.tasks import TASK_OPTIONS
from bigbatch.samples import Targets
from bigbatch.tasks.catalog import TASKS, as_metric, build_task, task_from_recipe
from bigbatch.tasks.classify import Classify

MINE = """
from dataclasses import dataclass, replace
import torch
from bigbatch.protocols import Role
from bigbatch.tasks.classify import Classify

@dataclass(frozen=True, kw_only=True)
class Confident(Classify):
    floor: float = 0.0
    @property
    def roles(self):
        return {**super().roles, "confidence": Role(meaning="how sure the label is", kind="number")}
    def encode(self, row, tokenizer):
        sample = super().encode(row, tokenizer)
        return replace(sample, weights=sample.weights * max(self.floor, row["confidence"]))

def focal(logits, targets, gamma=2.0):
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return (1 - torch.exp(-loss)) ** gamma * loss

def cost(predictions, targets):
    return float((predictions.values != targets.values).mean())
cost.larger_is_better = False
"""


def recipe_of(tmp_path: Path, task="classify", options=None, metrics=(), **loss):
    settings = {"name": None, "label_smoothing": 0.0, "class_weights": "none", "args": {}} | loss
    return SimpleNamespace(
        task=SimpleNamespace(name=task, args=options or {}),
        loss=SimpleNamespace(**settings),
        data=SimpleNamespace(max_length=64),
        metrics=list(metrics),
        source=tmp_path / "recipe.yaml",
    )


def test_the_built_in_task(tmp_path: Path):
    recipe = recipe_of(tmp_path, options={"kind": "single"}, class_weights={"pos": 2.0}, label_smoothing=0.1)
    task = task_from_recipe(recipe)
    assert isinstance(task, Classify) and task.facts.max_length == 64
    assert task.facts.class_weights == {"pos": 2.0}
    assert task.facts.loss is not None and task.facts.loss.args == {"label_smoothing": 0.1}


def test_task_loss_and_metric_of_your_own(tmp_path: Path, tokenizer):
    (tmp_path / "mine.py").write_text(MINE)
    recipe = recipe_of(
        tmp_path, "mine.py:Confident", {"floor": 0.25}, ["accuracy", "mine.py:cost", "f1_pos"],
        name="mine.py:focal", args={"gamma": 1.0},
    )  # fmt: skip
    task = task_from_recipe(recipe).with_facts(labels=LabelSet(("neg", "pos")))
    rows = [{"text": "a", "label": "pos", "confidence": 0.0}]
    assert task.encode_batch(rows, tokenizer)[0].weights.tolist() == [0.25]
    assert "confidence" in task.roles and task.facts.loss.name == "focal"
    assert [metric.name for metric in task.metrics] == ["accuracy", "cost", "f1_pos"]
    cost = task.metrics[1]
    predictions = task.decode(np.array([[1.0, 0.0], [1.0, 0.0]]))
    targets = Targets(values=np.array([0, 1]), weights=np.ones(2))
    assert cost.value(cost.add(predictions, targets)) == 0.5 and not cost.larger_is_better


def test_what_is_wrong_is_named(tmp_path: Path):
    (tmp_path / "mine.py").write_text(MINE + "number = 3\n")
    with pytest.raises(
        RecipeError, match=r"recipe.yaml: task.floors: unknown option; did you mean task.floor"
    ):
        task_from_recipe(recipe_of(tmp_path, "mine.py:Confident", {"floors": 1}))
    with pytest.raises(RecipeError, match="unknown option"):
        build_task("classify", {"facts": None}, tmp_path)
    with pytest.raises(RecipeError, match="did you mean classify"):
        build_task("clasify", {}, tmp_path)
    with pytest.raises(RecipeError, match="is no task: it has no roles"):
        build_task("mine.py:focal", {}, tmp_path)
    with pytest.raises(RecipeError, match="did you mean f1_macro"):
        task_from_recipe(recipe_of(tmp_path, metrics=["f1_macr"], options={"labels": ["a", "b"]}))
    with pytest.raises(RecipeError, match="did you mean accuracy"):
        task_from_recipe(recipe_of(tmp_path, metrics=["acuracy"]))
    with pytest.raises(RecipeError, match="neither a function"):
        as_metric(3, "mine.py:number")
    with pytest.raises(
        RecipeError, match="class_weights: weights are for classes, and kind regression has none"
    ):
        task_from_recipe(recipe_of(tmp_path, options={"kind": "regression"}, class_weights="balanced"))
    with pytest.raises(
        RecipeError, match="class_weights: of several labels each has its own weight inside the loss"
    ):
        task_from_recipe(
            recipe_of(tmp_path, options={"kind": "multi"}, name="mine.py:focal", class_weights="balanced")
        )


def test_a_recipe_knows_the_tasks_and_their_options():
    """Names and options stand in the recipe's sections, which know no task; here they are held against each other."""
    assert list(TASKS) == list(TASK_OPTIONS)
    for name, section in TASK_OPTIONS.items():
        assert set(TASKS[name]().options) == set(section.model_fields)

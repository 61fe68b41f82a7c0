"""One key, one figure: classes, metrics and sets that are called like something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score

from bigbatch.errors import RecipeError
from bigbatch.metrics.classify import default_metrics, known_metrics, metric_for
from bigbatch.metrics.naming import clashes, figure_of_class, named_figures
from bigbatch.metrics.tag import default_tag_metrics, tag_metric
from bigbatch.metrics.watched import figure_of, larger_is_better
from bigbatch.samples import Predictions, Targets
from bigbatch.tasks.catalog import as_metric
from tests.jobs import document, exhaust, lines, start
from tests.models import tiny

NAMES = ("macro", "micro", "weighted", "per_class", "class:macro", "loss", "accuracy", "great")
KEYS = ("f1_class:macro", "f1_class:micro", "f1_class:weighted", "f1_class:per_class", "f1_class:class:macro", "f1_loss",
        "f1_accuracy", "f1_great")  # fmt: skip


def some(classes: int) -> tuple[Predictions, Targets]:
    random = np.random.default_rng(0)
    true_U, found_U = random.integers(0, classes, (2, 60))
    scores_UC = np.eye(classes)[found_U]
    return (
        Predictions(kind="single", scores=scores_UC, probabilities=scores_UC, values=found_U),
        Targets(values=true_U, weights=np.ones(60, np.float32)),
    )


def test_classes_that_are_called_like_averages_have_keys_of_their_own():
    assert tuple(figure_of_class("f1", name) for name in NAMES) == KEYS
    predictions, targets = some(len(NAMES))
    found: dict[str, Any] = named_figures(
        (metric, metric.value(metric.add(predictions, targets)))
        for metric in (*known_metrics("single", NAMES).values(), *default_metrics("single", NAMES))
    )
    true_U, found_U = targets.values, predictions.values
    for average in ("macro", "micro", "weighted"):
        assert found[f"f1_{average}"] == pytest.approx(f1_score(true_U, found_U, average=average))
        expected = precision_score(true_U, found_U, average=average)
        assert found[f"precision_{average}"] == pytest.approx(expected)
    each = f1_score(true_U, found_U, average=None)
    assert [found[key] for key in KEYS] == pytest.approx(each.tolist())
    for key, expected in zip(KEYS, each, strict=True):
        metric = metric_for(key, "single", len(NAMES), NAMES)
        assert metric.value(metric.add(predictions, targets)) == pytest.approx(expected)


def test_entity_types_and_tags_too():
    marked = default_tag_metrics(("B-macro", "I-macro", "B-LOC", "O"), True)
    assert set(marked[-1].reported) == {"f1_class:macro", "f1_LOC"}  # type: ignore[attr-defined]
    plain = default_tag_metrics(("macro", "weighted", "NOUN"), False)
    names = [*(metric.name for metric in plain[:-1]), *plain[-1].reported]  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    assert tag_metric("f1_class:macro", ("macro", "b"), False).name == "f1_class:macro"


def test_a_run_watches_the_average_and_not_the_class(tmp_path):
    rows = [{"input_ids": [5 + place, 7], "labels": place % 2} for place in range(24)]
    keys = {
        "task": {"name": "classify", "labels": ["macro", "micro"]}, "best": "f1_macro", "batch": 8, "updates": 2,
        "gate": {"f1_class:macro": 0.0},
    }  # fmt: skip
    exhaust(start(tmp_path / "r", tiny("bert", num_labels=2), rows=rows, validation=rows, set=keys))
    line = lines(tmp_path / "r", "eval")[-1]
    confusion = np.array(document(tmp_path / "r", "evaluation.json")["validation"]["confusion"])
    true_U, found_U = (np.repeat(index.reshape(-1), confusion.reshape(-1)) for index in np.indices((2, 2)))
    assert line["f1_macro"] == pytest.approx(f1_score(true_U, found_U, average="macro"))
    assert line["f1_class:macro"] == pytest.approx(f1_score(true_U, found_U, average=None)[0])
    assert document(tmp_path / "r", "result.json")["best"]["value"] == pytest.approx(line["f1_macro"])


def loss(predictions: Predictions, targets: Targets) -> float:
    return 0.5


def accuracy(predictions: Predictions, targets: Targets) -> float:
    return 0.25


def split(predictions: Predictions, targets: Targets) -> float:
    return 0.5


@pytest.mark.parametrize("metric", [loss, split])
def test_a_metric_called_like_a_field_of_the_record_is_refused(tmp_path, metric):
    with pytest.raises(RecipeError, match=f"a metric is called '{metric.__name__}'"):
        start(tmp_path / "r", metrics=[metric])
    assert not (tmp_path / "r").exists()


def test_two_metrics_of_one_name_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="two metrics are called 'accuracy'"):
        start(tmp_path / "r", metrics=[accuracy], set={"metrics": ["accuracy"]})
    assert not [*clashes([as_metric(accuracy, "accuracy")])], "alone it is clear which one is meant"


@dataclass(frozen=True)
class Several:
    """A metric that names several figures, one of them like another's."""

    name: str = "mine"
    larger_is_better: bool = False

    def add(self, predictions: Predictions, targets: Targets) -> int:
        return len(targets.weights)

    def merge(self, left: int, right: int) -> int:
        return left + right

    def value(self, state: int) -> Mapping[str, float]:
        return {"accuracy": -1.0, "loss": -2.0, "other": -3.0, "split": -4.0}


def test_figures_of_a_metric_that_gives_several_do_not_overwrite_others(tmp_path):
    run = start(
        tmp_path / "r", tiny("bert"), validation=[{"input_ids": [5, 6], "labels": 1}] * 4,
        metrics=[Several()], set={"metrics": ["accuracy"], "best": "accuracy"},
    )  # fmt: skip
    exhaust(run)
    line = lines(tmp_path / "r", "eval")[-1]
    assert (
        line["accuracy"] >= 0 and line["loss"] > 0 and line["split"] == "validation" and line["other"] == -3.0
    )
    assert (line["mine:accuracy"], line["mine:loss"], line["mine:split"]) == (-1.0, -2.0, -4.0)
    assert not larger_is_better("other", [*default_metrics("single", ("a", "b")), Several()])
    assert larger_is_better("f1_other", default_metrics("single", ("other", "b")))


@pytest.mark.parametrize(
    ("key", "splits", "expected"),
    [
        ("validation.hard.f1", ["validation", "validation.hard"], ("validation.hard", "f1")),
        ("hard.f1", ["validation", "validation.hard"], ("validation.hard", "f1")),
        ("main.f1", ["validation.hard", "validation"], ("validation", "f1")),
        ("test.f1", ["test", "validation", "validation.test"], ("test", "f1")),
        ("test.f1", ["validation", "validation.test"], ("validation.test", "f1")),
        ("validation.test.f1", ["test", "validation", "validation.test"], ("validation.test", "f1")),
        ("validation.f1", ["validation", "validation.validation"], ("validation", "f1")),
        ("f1", ["validation", "validation.f1"], ("validation", "f1")),
    ],
)
def test_sets_that_are_called_like_splits_or_figures(key, splits, expected):
    assert figure_of(key, splits) == expected

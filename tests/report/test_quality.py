from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from bigbatch.report.quality import calibration_error, class_figures, most_confused, split_quality
from tests.report.fake_run import quality


def test_class_figures_equal_scikit_learn() -> None:
    dice = np.random.default_rng(0)
    true, predicted = dice.integers(0, 4, 500), dice.integers(0, 4, 500)
    counts = confusion_matrix(true, predicted).tolist()
    figures = class_figures(counts, ["a", "b", "c", "d"])
    precision, recall, f1, support = precision_recall_fscore_support(true, predicted)
    assert [line.precision for line in figures] == pytest.approx(list(precision))
    assert [line.recall for line in figures] == pytest.approx(list(recall))
    assert [line.f1 for line in figures] == pytest.approx(list(f1))
    assert [line.samples for line in figures] == list(support)


def test_a_class_that_never_occurs_has_no_figures() -> None:
    empty = class_figures([[3, 0], [0, 0]], ["a", "b"])[1]
    assert (empty.samples, empty.precision, empty.recall, empty.f1) == (0, None, None, None)


def test_confusions_come_most_frequent_first() -> None:
    pairs = most_confused([[10, 2, 0], [5, 10, 1], [0, 0, 7]], ["a", "b", "c"])
    assert [(pair.label, pair.predicted, pair.samples) for pair in pairs] == [
        ("b", "a", 5),
        ("a", "b", 2),
        ("b", "c", 1),
    ]
    assert pairs[0].share == pytest.approx(5 / 16)


def test_calibration_error_weighs_bins_by_samples() -> None:
    assert calibration_error([(0.9, 0.8, 30), (0.6, 0.6, 10)]) == pytest.approx(0.075)
    assert calibration_error([]) is None


def test_bins_without_samples_are_left_out() -> None:
    facts = {
        "calibration": [
            {"confidence": None, "accuracy": None, "units": 0},
            {"confidence": 0.7, "accuracy": 0.6, "units": 9},
        ]
    }
    assert split_quality("test", facts).calibration == ((0.7, 0.6, 9),)


def test_a_split_is_read_completely() -> None:
    found = split_quality("test", quality()["test"])
    assert len(found.classes) == 3 and len(found.confused) == 6
    assert len(found.calibration) == 6 and len(found.examples) == 4
    assert found.examples[0].predicted == "positive"


@pytest.mark.parametrize(
    "confusion", [None, "x", [[1, 2]], [[1], [2]], [[1, "x"], [2, 3]], [[1, -1], [2, 3]]]
)
def test_a_matrix_that_does_not_fit_is_left_out(confusion: object) -> None:
    found = split_quality("test", {"labels": ["a", "b"], "confusion": confusion})
    assert found.confusion == () and found.classes == ()


def test_examples_name_classes_that_were_written_as_ids() -> None:
    rows = [
        {"text": "a", "label": 1, "predicted": 0, "probability": 0.9, "where": "tweets.csv:812"},
        {"text": "b", "label": "neg", "predicted": 7, "probability": None},
    ]
    first, second = split_quality("test", {"labels": ["neg", "pos"], "examples": rows}).examples
    assert (first.label, first.predicted, first.where) == ("pos", "neg", "tweets.csv:812")
    assert (second.label, second.predicted, second.where) == ("neg", "7", "")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("iVBORw0KGgoAAAA=", True),
        ('iVBORw0KGgoAAAA" onerror="alert(1)', False),
        ("PHN2ZyBvbmxvYWQ9", False),
        (7, False),
        (None, False),
    ],
)
def test_only_a_png_is_shown(value, kept):
    facts = {"labels": ["a", "b"], "examples": [{"label": 0, "predicted": 1, "image": value}]}
    (example,) = split_quality("test", facts).examples
    assert example.image == (value if kept else "")

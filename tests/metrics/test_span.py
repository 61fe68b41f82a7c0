"""Answers against the right ones: figures computed by hand as the scripts of SQuAD and CMRC 2018 count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bigbatch.metrics.figures import Undefined
from bigbatch.metrics.span import chinese_exact, chinese_f1, english_exact, english_f1, span_metrics


@pytest.mark.parametrize(
    ("right", "given", "exact", "f1"),
    [
        ("Denver Broncos", "the Denver Broncos!", 1, 1),
        (
            "Santa Clara, California",
            "Levi's Stadium in Santa Clara",
            0,
            2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3),
        ),
        ("gold", "golden", 0, 0),
        ("a a b b", "b b b", 0, 2 * (2 / 3) * (2 / 2) / (2 / 3 + 1)),
        ("the", "", 1, 1),
        ("", "something", 0, 0),
        ("1,500", "1500", 1, 1),
        ("Café", "cafe", 0, 0),
    ],
)
def test_english_is_counted_as_squad_counts(right, given, exact, f1):
    assert english_exact(right, given) == exact
    assert english_f1(right, given) == pytest.approx(f1, abs=1e-15)


@pytest.mark.parametrize(
    ("right", "given", "exact", "f1"),
    [
        ("《战国无双3》", "战国无双3", 1, 1),
        ("光荣和ω-force", "光荣", 0, 2 * 1 * (2 / 4) / (1 + 2 / 4)),
        ("1990年10月", "10月1990年", 0, 0.5),
        ("北京", "上海", 0, 0),
        ("BERT", "bert", 1, 1),
    ],
)
def test_chinese_is_counted_as_cmrc_counts(right, given, exact, f1):
    assert chinese_exact(right, given) == exact
    assert chinese_f1(right, given) == pytest.approx(f1, abs=1e-15)


GIVEN = ["Paris", "", "the Seine river", "nobody", ""]
RIGHT = [["paris", "City of Light"], [], ["Seine", "river Seine"], [], ["1889"]]


def figures(given, right, **how):
    return {name: metric.value(metric.of_texts(given, right)) for name, metric in span_metrics(**how).items()}


def test_of_several_right_answers_the_best_counts_and_none_is_right_where_there_is_none():
    found = figures(GIVEN, RIGHT)
    assert found == pytest.approx(
        {
            "exact_match": 2 / 5,
            "f1": 3 / 5,
            "exact_match_answerable": 1 / 3,
            "f1_answerable": 2 / 3,
            "exact_match_unanswerable": 1 / 2,
        }
    )
    metric = span_metrics()["f1"]
    halves = [metric.of_texts(GIVEN[part], RIGHT[part]) for part in (slice(0, 2), slice(2, 5))]
    assert metric.value(metric.merge(*halves)) == found["f1"]


def test_what_is_nothing_once_normal_is_an_answer_of_squad_1_and_none_of_squad_2():
    assert figures(["the"], [["the"]])["exact_match"] == 1
    assert figures(["the", ""], [["the"], []])["exact_match"] == 1
    assert figures(["x", ""], [["the", "x"], []])["f1"] == 1
    assert figures(["", ""], [["the"], []])["f1"] == 1


def test_the_language_is_told_by_the_answers():
    chinese = figures(["1990年"], [["1990年10月"]])
    assert chinese["f1"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert chinese["f1"] == figures(["1990年"], [["1990年10月"]], language="zh")["f1"]
    assert figures(["1990年"], [["1990年10月"]], language="en")["f1"] == 0


def test_a_figure_of_questions_that_are_not_there_does_not_exist():
    found = figures(["x"], [["x"]])["exact_match_unanswerable"]
    assert isinstance(found, Undefined) and math.isnan(found)
    scores = span_metrics()["f1_answerable"].rows(GIVEN, RIGHT)
    assert np.isnan(scores).tolist() == [False, True, False, True, False]

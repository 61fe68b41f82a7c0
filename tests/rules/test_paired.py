"""Against scipy, and against what chance does when it is let loose."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bigbatch.rules.paired import best_of, paired, sign_p, student_p


@pytest.mark.parametrize(
    ("better", "worse"), [(0, 0), (1, 0), (0, 5), (5, 5), (12, 3), (300, 250), (700, 290)]
)
def test_rows_that_changed_are_a_fair_coin_exactly(better, worse):
    assert sign_p(better, worse) == pytest.approx(stats.binom.sf(better - 1, better + worse, 0.5), rel=1e-12)


@pytest.mark.parametrize(("better", "worse"), [(5000, 4900), (30_000, 30_100), (0, 2000)])
def test_many_rows_that_changed(better, worse):
    assert sign_p(better, worse) == pytest.approx(stats.binom.sf(better - 1, better + worse, 0.5), rel=1e-7)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 11, 197, 198, 5001])
@pytest.mark.parametrize("t", [-3.0, -0.5, 0.0, 0.2, 1.96, 6.0])
def test_students_distribution(degrees, t):
    assert student_p(t, degrees) == pytest.approx(stats.t.sf(t, degrees), abs=1e-11)


def test_scores_of_0_and_1_are_counted():
    then = np.repeat([1.0, 0.0, 0.0, 1.0], [40, 12, 5, 3])
    now = np.repeat([1.0, 1.0, 0.0, 0.0], [40, 12, 5, 3])
    found = paired(then, now)
    assert found.p == stats.binomtest(12, 15, alternative="greater").pvalue
    assert (found.rows, found.changed, found.difference) == (60, 15, pytest.approx(9 / 60))


def test_numbers_are_held_to_students_t():
    random = np.random.default_rng(0)
    then, now = random.normal(size=50), random.normal(0.2, size=50)
    found, wanted = paired(then, now), stats.ttest_rel(now, then, alternative="greater")
    assert found.p == pytest.approx(wanted.pvalue, abs=1e-12)
    assert found.difference / found.error == pytest.approx(wanted.statistic)
    assert paired(now, then).p == pytest.approx(1 - found.p)


def test_a_score_that_is_no_number_is_worse_than_any():
    then, now = np.array([math.nan, math.inf, 0.0, math.nan]), np.array([0.0, math.inf, 0.5, math.nan])
    found = paired(then, now)
    assert (found.changed, found.p) == (2, 0.25) and math.isnan(found.difference)
    assert paired(now, then).p == 1.0


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_that_all_say_the_same(rows):
    found = paired(np.zeros(rows), np.full(rows, 0.25))
    assert found.p == 0.5**rows
    assert paired(np.full(rows, 0.25), np.zeros(rows)).p == 1.0


def test_other_rows_are_refused():
    with pytest.raises(ValueError, match="the same rows"):
        paired([1.0], [1.0, 0.0])


@pytest.mark.parametrize("binary", [True, False])
def test_chance_is_as_frequent_as_said(binary):
    random = np.random.default_rng(1)
    found = []
    for _ in range(600):
        then, now = random.normal(size=(2, 60))
        found.append(paired(then > 0, now > 0).p if binary else paired(then, now).p)
    share = np.mean(np.array(found) < 0.05)
    assert share < 0.075 and (binary or share > 0.03)


def test_the_best_of_many_is_expected_to_look_good():
    random = np.random.default_rng(2)
    found = []
    for _ in range(400):
        now = random.normal(size=80)
        candidates = [paired(now, random.normal(size=80)).p for _ in range(8)]
        found.append((min(candidates), best_of(min(candidates), 8)))
    plain, corrected = np.mean(np.array(found) < 0.05, axis=0)
    assert plain > 0.15 and corrected < 0.075
    assert best_of(0.02, 1) == pytest.approx(0.02) and best_of(1.0, 9) == 1.0


def test_the_plateau():
    random = np.random.default_rng(3)
    then = random.random(200) < 0.7
    assert not paired(then, then).plausible
    assert not paired(then, then & (random.random(200) < 0.9)).plausible
    assert paired(then, then | (random.random(200) < 0.2)).plausible

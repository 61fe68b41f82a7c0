"""The noise scale's algebra: unbiased, whatever the parts' sizes, with an interval that covers the truth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from bigbatch.rules.noise_scale import (
    Average,
    Estimate,
    advanced,
    estimate_of,
    fieller,
    finite_data,
    interval_of,
    part_sizes,
    t_quantile,
)

EIGENVALUES_D = np.linspace(0.2, 2, 50)
TRIALS = 2000


def true_gradient(square: float = 3.8106) -> np.ndarray:
    """Some direction of this squared length."""
    direction = np.random.default_rng(1).standard_normal(len(EIGENVALUES_D))
    return direction * math.sqrt(square) / np.linalg.norm(direction)


def part_means(random, sizes, trials, gradient):
    """Mean gradients (trials, K, D) of parts of these sizes, with a known covariance of single ones."""
    noise = random.standard_normal((trials, len(sizes), len(EIGENVALUES_D)))
    return gradient + noise * np.sqrt(EIGENVALUES_D / np.array(sizes)[:, None])


@pytest.mark.parametrize(("parts", "trace_sd"), [(4, 7.05), (32, 2.19)])
def test_mean_and_spread_are_those_of_the_closed_form(parts, trace_sd):
    sizes = [32 // parts] * parts
    found = estimate_of(part_means(np.random.default_rng(0), sizes, 20_000, true_gradient()), sizes)
    assert found.trace.mean() == pytest.approx(55, abs=4 * trace_sd / math.sqrt(20_000))
    assert found.trace.std() == pytest.approx(trace_sd, rel=0.03)
    assert found.trace.mean() / found.square.mean() == pytest.approx(14.433, rel=0.01)
    if parts == 4:
        # 4 G'Sigma G / N + 2 tr(Sigma^2) k / ((k - 1) N^2): it depends on the direction of G.
        along = 4 * float((EIGENVALUES_D * true_gradient() ** 2).sum()) / 32
        across = 2 * float(np.square(EIGENVALUES_D).sum()) * 4 / (3 * 32**2)
        assert found.square.std() == pytest.approx(math.sqrt(along + across), rel=0.03)
        assert found.square.std() == pytest.approx(0.896, rel=0.05)


def test_unequal_parts_say_the_same():
    found = {}
    for sizes in ([8, 8, 8, 8], [1, 1, 1, 29]):
        found[len(set(sizes))] = estimate_of(
            part_means(np.random.default_rng(3), sizes, 20_000, true_gradient()), sizes
        )
    assert found[2].trace.mean() == pytest.approx(found[1].trace.mean(), rel=0.01)
    assert found[2].trace.std() == pytest.approx(found[1].trace.std(), rel=0.03)
    assert found[2].square.mean() == pytest.approx(found[1].square.mean(), rel=0.02)


def coverage(means_of, sizes, truth, decay=1.0, measurements=30):
    """Share of trials whose interval holds the truth."""
    average = Average()
    for _ in range(measurements):
        average = average.after(estimate_of(means_of(), sizes), decay)
    low, high = average.bounds()
    return float(((low <= truth) & (truth <= high)).mean()), float(np.isinf(high).mean())


@pytest.mark.parametrize("decay", [1.0, 0.5 ** (1 / 20)], ids=["all", "fading"])
@pytest.mark.parametrize(("square", "samples"), [(3.8106, 4), (0.152424, 4), (0.152424, 32)])
def test_the_interval_covers_the_truth_as_often_as_it_says(square, samples, decay):
    random, gradient, sizes = np.random.default_rng(5), true_gradient(square), [samples] * 8
    share, unbounded = coverage(
        lambda: part_means(random, sizes, TRIALS, gradient), sizes, EIGENVALUES_D.sum() / square, decay
    )
    assert 0.93 <= share <= 0.97
    assert (unbounded > 0.3) == (samples == 4 and square < 1)


def test_what_cannot_be_measured_has_no_upper_end():
    """Without any gradient the scale is infinite: only the lower end can be wrong, which it is in 1 of 40 trials."""
    random, sizes = np.random.default_rng(6), [4] * 8
    share, unbounded = coverage(lambda: part_means(random, sizes, TRIALS, np.zeros(50)), sizes, math.inf)
    assert 0.96 <= share <= 0.99
    assert share == unbounded


def test_on_linear_regression_the_interval_covers_the_closed_form():
    """Loss (x w - y)^2 / 2 with x ~ N(0, D), y = x w* + noise s: with d = w - w*, g = x (x d - e), so

    G = D d  and  E|g|^2 = sum_i D_i (d'Dd + 2 D_i d_i^2) + s^2 tr D  (fourth moments of a normal).
    """
    random, dims, noise, sizes = np.random.default_rng(7), 24, 1.5, [6] * 8
    spectrum_D, away_D = np.linspace(0.3, 1.5, dims), random.standard_normal(dims) * 0.15
    gradient_square = float(np.square(spectrum_D * away_D).sum())
    energy = float((spectrum_D * away_D**2).sum())
    second = energy * spectrum_D.sum() + 2 * float((spectrum_D**2 * away_D**2).sum())
    truth = (second + noise**2 * spectrum_D.sum() - gradient_square) / gradient_square

    def means():
        inputs = random.standard_normal((500, 8, 6, dims), dtype=np.float32) * np.sqrt(spectrum_D)
        errors = inputs @ away_D - noise * random.standard_normal((500, 8, 6))
        return np.einsum("tkn,tknd->tkd", errors, inputs) / 6

    shares = [coverage(means, sizes, truth)[0] for _ in range(4)]
    assert 0.93 <= np.mean(shares) <= 0.97


def test_parts_cut_by_length_are_wrong_where_gradients_depend_on_length():
    """The estimate from random parts is right; sorted ones count the difference between lengths as noise."""
    random, gradient = np.random.default_rng(8), true_gradient()
    lengths = random.lognormal(0, 0.6, (4000, 64))
    noise = random.standard_normal((4000, 64, 50)) * np.sqrt(EIGENVALUES_D)
    single = gradient * lengths[..., None] / math.exp(0.18) + noise
    truth = 55 + 3.8106 * (math.exp(0.36) - 1)
    by_length = np.take_along_axis(single, lengths.argsort(1)[..., None], 1)
    at_random, cut = (
        estimate_of(each.reshape(4000, 8, 8, 50).mean(2), [8] * 8).trace.mean()
        for each in (single, by_length)
    )
    assert at_random == pytest.approx(truth, rel=0.01)
    assert cut > 1.1 * truth


def test_fieller_agrees_with_a_search_over_all_ratios():
    mean, covariance, quantile = Estimate(trace=50.0, square=2.0), (9.0, 0.4, 0.25), 2.0
    low, high = fieller(mean, *covariance, quantile)
    ratios = np.linspace(1, 200, 400_000)
    variance = covariance[0] - 2 * ratios * covariance[1] + ratios**2 * covariance[2]
    allowed = ratios[(mean.trace - ratios * mean.square) ** 2 <= quantile**2 * variance]
    assert (low, high) == pytest.approx((allowed.min(), allowed.max()), rel=1e-3)


def test_quantiles_of_student():
    for degrees in (10, 29, 57.3):
        assert t_quantile(0.975, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_a_state_is_json_and_says_when_it_knows_too_little():
    state: dict = {}
    assert interval_of(state) is None
    random = np.random.default_rng(9)
    for number in range(1, 31):
        found = estimate_of(part_means(random, [4] * 8, 1, true_gradient())[0], [4] * 8)
        new = Estimate(trace=float(found.trace), square=float(found.square))
        state = json.loads(json.dumps(advanced(state, {"whole": new}, 32 * number, 640.0)))
        known = interval_of(state)
        assert known is not None and known.measurements == number
        assert (known.low is None) == (number < 30)
    assert known.low < known.scale < known.high
    assert known.low < 14.433 < known.high


def test_a_measurement_counts_half_after_its_half_life():
    state = advanced({}, {"whole": Estimate(trace=4.0, square=1.0)}, 100, 50.0)
    state = advanced(state, {"whole": Estimate(trace=1.0, square=1.0)}, 150, 50.0)
    assert interval_of(state).scale == pytest.approx((4 * 0.5 + 1) / 1.5)


def test_no_gradient_to_be_seen_is_an_infinite_scale():
    assert Average().after(Estimate(trace=5.0, square=-1.0), 1.0).scale() == math.inf


def test_parts_are_as_equal_as_can_be():
    assert part_sizes(19, 8) == [3, 3, 3, 2, 2, 2, 2, 2]
    assert part_sizes(3, 8) == [1, 1, 1]
    assert finite_data(1, 10) == 1
    assert finite_data(10, 10) == 0

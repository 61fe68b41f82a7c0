from __future__ import annotations

import math

import numpy as np
import pytest

from bigbatch.rules.critical_batch import Trial, bootstrap, cheapest_batch, fit_tradeoff

BATCHES = (16, 64, 256, 1024, 4096)


def trial(batch, updates_min, critical, *, noise=0.0, seed="0"):
    updates = updates_min * (1 + critical / batch) * math.exp(noise)
    return Trial(batch=batch, samples=updates * batch, seed=seed)


def noisy(random, *, updates_min=100.0, critical=300.0, sigma=0.1, seeds=3):
    return [
        trial(batch, updates_min, critical, noise=sigma * random.standard_normal(), seed=str(seed))
        for batch in BATCHES
        for seed in range(seeds)
    ]


def test_the_curve_itself_is_found_again():
    found = fit_tradeoff([trial(batch, 100, 300) for batch in BATCHES])
    assert found.updates_min == pytest.approx(100, rel=1e-6)
    assert found.samples_min == pytest.approx(30_000, rel=1e-6)
    assert found.critical_batch == pytest.approx(300, rel=1e-6)
    assert found.bounded and found.error < 1e-7


def test_at_the_critical_batch_both_double():
    found = fit_tradeoff([trial(batch, 100, 300) for batch in BATCHES])
    at = found.critical_batch
    assert found.updates(at) == pytest.approx(2 * found.updates_min)
    assert found.samples(at) == pytest.approx(2 * found.samples_min)
    for batch in (1, 77, 9000):
        product = (found.updates(batch) / found.updates_min - 1) * (
            found.samples(batch) / found.samples_min - 1
        )
        assert product == pytest.approx(1)
        assert found.samples(batch) == pytest.approx(batch * found.updates(batch))


def test_published_points_of_bert_large():
    """MLPerf, BERT-large: 2.4 to 2.8 million sequences to the target at 448, 5.46 million at 13,888."""
    points = [(448, 2.4e6), (448, 2.8e6), (13_888, 5.46e6)]
    found = fit_tradeoff([Trial(batch=batch, samples=samples) for batch, samples in points])
    assert 11_000 < found.critical_batch < 13_000


def test_as_scipy_finds_it():
    optimize = pytest.importorskip("scipy.optimize")
    trials = noisy(np.random.default_rng(3))
    batch = np.array([each.batch for each in trials])
    updates = np.array([each.updates for each in trials])

    def residuals(logs):
        return np.log(updates) - np.log(np.exp(logs[0]) + np.exp(logs[1]) / batch)

    found, reference = (
        fit_tradeoff(trials),
        optimize.least_squares(residuals, [3.0, 9.0], xtol=1e-14, ftol=1e-14),
    )
    assert found.updates_min == pytest.approx(math.exp(reference.x[0]), rel=1e-5)
    assert found.samples_min == pytest.approx(math.exp(reference.x[1]), rel=1e-5)
    assert found.error == pytest.approx(math.sqrt(2 * reference.cost / len(trials)), rel=1e-6)


def test_runs_that_never_got_there_bound_the_curve_from_below():
    reached = [trial(batch, 100, 300) for batch in (16, 64, 256)]
    curve = fit_tradeoff(reached)
    # 1,024 needs 132,400 samples: that 50,000 were not enough says nothing new, that 400,000 were not says a lot.
    few = Trial(batch=1024, samples=50_000, reached=False)
    many = Trial(batch=1024, samples=400_000, reached=False)
    assert fit_tradeoff([*reached, few]).critical_batch == pytest.approx(curve.critical_batch, rel=1e-5)
    pulled = fit_tradeoff([*reached, many])
    assert pulled.critical_batch < 0.8 * curve.critical_batch
    as_if_reached = fit_tradeoff([*reached, Trial(batch=1024, samples=400_000)])
    assert pulled.critical_batch == pytest.approx(as_if_reached.critical_batch)


def test_several_bounds_are_the_least_of_a_convex_problem():
    optimize = pytest.importorskip("scipy.optimize")
    random = np.random.default_rng(8)
    trials = [
        Trial(batch=each.batch, samples=each.samples, reached=bool(random.random() < 0.6) or each.batch < 65)
        for each in noisy(random, sigma=0.4)
    ]
    batch = np.array([each.batch for each in trials])
    updates = np.array([each.updates for each in trials])
    bound = np.array([not each.reached for each in trials])

    def loss(logs):
        rest = np.log(updates) - np.log(np.exp(logs[0]) + np.exp(logs[1]) / batch)
        return float((np.where(bound, np.maximum(rest, 0), rest) ** 2).sum())

    best = min(
        (optimize.minimize(loss, [a, b], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})
         for a in (2.0, 5.0) for b in (8.0, 11.0)),
        key=lambda result: result.fun,
    )  # fmt: skip
    assert fit_tradeoff(trials).error ** 2 * len(trials) == pytest.approx(best.fun, rel=1e-6)


@pytest.mark.parametrize(("critical", "side"), [(1e9, "above"), (1e-7, "below")])
def test_batches_on_one_side_of_it_do_not_show_where_it_is(critical, side):
    found = fit_tradeoff(
        [trial(batch, 1e6 / critical if side == "above" else 50, critical) for batch in BATCHES]
    )
    assert not found.bounded
    assert (found.critical_batch > max(BATCHES)) == (side == "above")


def test_one_batch_is_no_curve():
    with pytest.raises(ValueError, match="two batches that reached the target; found 1"):
        fit_tradeoff([trial(16, 100, 300), Trial(batch=64, samples=1e4, reached=False)])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """100 studies of 5 batches and 4 seeds; a bootstrap over 4 draws is known to be a little narrow."""
    random = np.random.default_rng(0)
    covered = 0
    for study in range(100):
        found = bootstrap(noisy(random, seeds=4), rounds=60, seed=study)
        assert found is not None
        covered += found["critical_batch"].low <= 300 <= found["critical_batch"].high
    assert 0.74 <= covered / 100 <= 0.95


def test_one_seed_has_no_interval():
    assert bootstrap([trial(batch, 100, 300) for batch in BATCHES]) is None


def test_the_interval_is_open_where_some_draws_show_no_end():
    trials = [
        trial(batch, 1, 3000, noise=noise, seed=str(noise))
        for batch in (16, 32)
        for noise in (-0.3, 0.0, 0.3)
    ]
    found = bootstrap(trials, rounds=100)
    assert found is not None
    assert found["critical_batch"].high == math.inf
    assert found["critical_batch"].low < 3000


def test_of_batches_about_as_fast_the_smallest_is_cheapest():
    curve = fit_tradeoff([trial(batch, 100, 300) for batch in BATCHES])
    proportional = {batch: batch * 1e-2 for batch in BATCHES}  # a CPU: time goes with samples
    assert cheapest_batch(curve, proportional) == 16
    constant = dict.fromkeys(BATCHES, 1.0)  # an idle accelerator: time goes with updates
    assert cheapest_batch(curve, constant) == 4096
    assert cheapest_batch(curve, constant, slack=0.25) == 1024  # 129 updates instead of 107

"""Learning rate and betas when the batch changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import RecipeError
from bigbatch.rules.batch_size import gain, half_life_beta, scaled, sgd_rate


def settings(**changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "name": "adamw", "lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "base_batch": None,
        "lr_rule": "none", "betas_rule": "keep", "noise_scale": None,
    }  # fmt: skip
    return SimpleNamespace(**(values | changes))


def test_nothing_is_rescaled_unless_asked() -> None:
    effective = scaled(settings(), 4096)
    assert (effective.lr, effective.betas, effective.eps, effective.ratio) == (1e-3, (0.9, 0.999), 1e-8, 1.0)
    assert "as typed" in effective.notes[0]


def test_a_base_batch_alone_changes_nothing_and_says_so() -> None:
    effective = scaled(settings(base_batch=32), 128)
    assert (effective.lr, effective.betas, effective.eps) == (1e-3, (0.9, 0.999), 1e-8)
    assert effective.ratio == 4 and "lr_rule is none" in effective.notes[0]


def test_adam_sde() -> None:
    """Malladi et al. 2022: k=4 from 1e-3/.9/.999/1e-8 gives 2e-3/.6/.996/5e-9."""
    effective = scaled(settings(base_batch=32, lr_rule="sqrt", betas_rule="sde"), 128)
    assert effective.lr == pytest.approx(2e-3, rel=1e-12)
    assert effective.betas == pytest.approx((0.6, 0.996), rel=1e-12)
    assert effective.eps == pytest.approx(5e-9, rel=1e-12)
    assert len(effective.notes) == 3
    assert "0.4 is above 0.3" in effective.warnings[0]


def test_sde_beyond_its_range_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        RecipeError, match=r"32 x 0\.1 = 3\.2 \(beta1 would be -2\.2\).*half_life.*below 10 times"
    ):
        scaled(settings(base_batch=32, lr_rule="sqrt", betas_rule="sde"), 1024)


def test_sde_at_exactly_one_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"betas_rule"):
        scaled(settings(base_batch=1, betas=(0.5, 0.999), betas_rule="sde"), 2)


def test_sgd_linear() -> None:
    effective = scaled(settings(name="sgd", base_batch=256, lr_rule="linear", lr=0.1), 8192)
    assert effective.lr == pytest.approx(3.2)
    assert effective.eps == 1e-8 and effective.warnings == ()


def test_linear_with_adam_is_doubted() -> None:
    assert "follows sqrt" in scaled(settings(base_batch=1, lr_rule="linear"), 4).warnings[0]


def test_half_life_keeps_the_memory_in_samples() -> None:
    effective = scaled(settings(base_batch=64, betas_rule="half_life"), 128)
    assert effective.betas == pytest.approx((0.81, 0.998001))


@given(ratio=st.floats(0.01, 1000), beta=st.floats(0.5, 0.9999))
def test_half_life_is_always_a_beta(ratio: float, beta: float) -> None:
    effective = scaled(settings(base_batch=100, betas=(beta, beta), betas_rule="half_life"), 100 * ratio)
    assert all(0 <= value < 1 for value in effective.betas)


@given(k=st.floats(0.1, 3))
def test_scaling_there_and_back_is_the_identity(k: float) -> None:
    there = scaled(settings(base_batch=100, lr_rule="sqrt", betas_rule="sde"), 100 * k)
    back = scaled(
        settings(
            base_batch=100 * k,
            lr_rule="sqrt",
            betas_rule="sde",
            lr=there.lr,
            betas=there.betas,
            eps=there.eps,
        ),
        100,
    )
    assert (back.lr, *back.betas, back.eps) == pytest.approx((1e-3, 0.9, 0.999, 1e-8), rel=1e-9)


def test_rules_without_a_base_batch_are_refused_all_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        scaled(settings(lr_rule="sqrt", betas_rule="half_life"), 128)
    assert [problem.key for problem in caught.value.problems] == ["optimizer.lr_rule", "optimizer.betas_rule"]


def test_betas_of_sgd_are_refused() -> None:
    with pytest.raises(RecipeError, match="sgd does not have"):
        scaled(settings(name="sgd", base_batch=1, betas_rule="sde"), 2)


def test_adascale_gain() -> None:
    """AdaScale (Johnson et al. 2020): B0=32, noise 100, B=256 has gain 2.9663 and efficiency .3708."""
    assert gain(32, 256, 100) == pytest.approx(2.9663, abs=5e-5)
    assert gain(32, 256, 100) / 8 == pytest.approx(0.3708, abs=5e-5)
    effective = scaled(settings(name="sgd", base_batch=32, lr_rule="gain", noise_scale=100), 256)
    assert effective.lr == pytest.approx(1e-3 * gain(32, 256, 100)) and effective.warnings == ()
    assert "one update does the work of 2.966, a sample that of 0.371" in effective.notes[0]


@given(base=st.floats(1, 1e4), k=st.floats(1, 100), noise=st.floats(1e-3, 1e9))
def test_the_gain_is_the_ratio_of_the_sgd_curve_and_lies_between_one_and_k(
    base: float, k: float, noise: float
) -> None:
    found = gain(base, base * k, noise)
    assert found == pytest.approx(sgd_rate(0.3, base * k, noise) / sgd_rate(0.3, base, noise), rel=1e-9)
    assert 1 - 1e-9 <= found <= k * (1 + 1e-9)


def test_sgd_curve() -> None:
    """Half the largest rate at the noise scale, linear far below, flat far above."""
    assert sgd_rate(0.5, 100, 100) == 0.25
    assert sgd_rate(0.5, 1, 1e6) == pytest.approx(0.5e-6, rel=1e-5)
    assert sgd_rate(0.5, 1e9, 100) == pytest.approx(0.5, rel=1e-6)


def test_gain_is_sqrt_for_adam_below_the_noise_scale_and_none_above() -> None:
    below = scaled(settings(base_batch=32, lr_rule="gain", noise_scale=1e9), 128)
    root = scaled(settings(base_batch=32, lr_rule="sqrt"), 128)
    assert (below.lr, below.eps) == pytest.approx((root.lr, root.eps), rel=1e-6)
    above = scaled(settings(base_batch=32, lr_rule="gain", noise_scale=1e-6), 128)
    assert (above.lr, above.eps) == pytest.approx((1e-3, 1e-8), rel=1e-6)


def test_half_life_in_tokens() -> None:
    """A fixed half-life in tokens: 524,288 tokens an update and a half-life of 1e7."""
    assert half_life_beta(524_288, 1e7) == pytest.approx(0.96431, abs=5e-6)
    # Twice the batch: beta squared, as the rule has it.
    assert half_life_beta(2 * 524_288, 1e7) == pytest.approx(half_life_beta(524_288, 1e7) ** 2)


def test_gain_needs_the_noise_scale() -> None:
    with pytest.raises(RecipeError, match=r"optimizer\.lr_rule: gain needs optimizer\.noise_scale"):
        scaled(settings(base_batch=32, lr_rule="gain"), 128)


@pytest.mark.parametrize("rule", ["linear", "sqrt"])
def test_a_known_noise_scale_warns_of_batches_beyond_it(rule: str) -> None:
    name = "sgd" if rule == "linear" else "adamw"
    far = scaled(settings(name=name, base_batch=32, lr_rule=rule, noise_scale=100), 256)
    assert "2.56 times optimizer.noise_scale: the gain is 2.966, not 8" in far.warnings[0]
    assert scaled(settings(name=name, base_batch=32, lr_rule=rule, noise_scale=1e5), 256).warnings == ()


@pytest.mark.parametrize(
    ("name", "rule"),
    [("sgd", "sqrt"), ("lars", "sqrt"), ("lion", "sqrt"), ("muon", "gain"), ("lamb", "linear")],
)
def test_rules_of_other_optimisers_are_doubted(name: str, rule: str) -> None:
    effective = scaled(settings(name=name, base_batch=32, lr_rule=rule, noise_scale=1e9), 128)
    assert len(effective.warnings) == 1 and name in effective.warnings[0]


@pytest.mark.parametrize("name", ["lars", "schedule_free"])
def test_betas_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(RecipeError, match=name):
        scaled(settings(name=name, base_batch=1, betas_rule="half_life"), 2)


def test_a_rule_says_where_it_is_known_to_hold() -> None:
    told = scaled(settings(base_batch=32, lr_rule="sqrt", betas_rule="half_life"), 128).notes
    assert "LAMB to 32,768" in told[0] and "pre-training of language models" in told[2]


def test_the_tuned_batch_itself_is_not_told_as_a_change():
    found = scaled(settings(lr=1e-3, base_batch=16, lr_rule="sqrt"), 16)
    assert (found.lr, found.notes) == (1e-3, ("lr 0.001 as it is: the batch is optimizer.base_batch",))

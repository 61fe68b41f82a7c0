"""Learning rate and betas when the batch changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import RecipeError
from bigbatch.rules.batch_size import scaled


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
    """science.md, section 8: k=4 from 1e-3/.9/.999/1e-8 gives 2e-3/.6/.996/5e-9."""
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

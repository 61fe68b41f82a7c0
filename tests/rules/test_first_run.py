"""What `auto` stands for, at sizes that were tried and at the ends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.rules import first_run as first
from bigbatch.rules.first_run import (
    FirstRun,
    cool_down_end,
    first_run,
    rate_found,
    rate_test_updates,
)


def chosen(rows, validation=None, **changes):
    known = {"hidden": 384, "pretrained": True, "grows": True, **changes}
    return first_run(
        FirstRun(rows=rows, validation_rows=rows // 9 if validation is None else validation, **known)
    )


@pytest.mark.parametrize(
    ("rows", "smallest", "largest", "epochs", "measured"),
    [
        (144, 16, 16, 17.8, False),  # 20 rows of each of 8 classes
        (900, 16, 16, 30.0, True),
        (9_002, 32, 64, 10.5, True),
        (100_000, 32, 256, 3.16, True),
        (1_000_000, 32, 512, 1.0, True),
    ],
)
def test_by_rows(rows, smallest, largest, epochs, measured):
    found = chosen(rows)
    assert (found.first_batch, found.last_batch) == (smallest, largest if rows > 1_000 else found.last_batch)
    assert found.epochs == pytest.approx(epochs, rel=0.01)
    assert found.measured is measured


@pytest.mark.parametrize(
    ("hidden", "pretrained", "lr"),
    [(384, True, 3e-4), (768, True, 5.7e-5), (1024, True, 2.8e-5), (128, True, 1e-3), (768, False, 6e-4)],
)
def test_the_rate_goes_by_the_width(hidden, pretrained, lr):
    assert chosen(10_000, hidden=hidden, pretrained=pretrained).lr == pytest.approx(lr, rel=0.02)


@pytest.mark.parametrize(
    ("hidden", "classes", "pretrained"), [(384, 3, True), (4096, 0, True), (64, 77, False)]
)
def test_adapters_have_a_rate_of_their_own_at_any_width(hidden, classes, pretrained):
    found = chosen(10_000, hidden=hidden, classes=classes, pretrained=pretrained, adapters=True)
    assert (found.lr, found.base_batch) == (5e-4, 32) and found.lr_reason.startswith("usual for adapters")


@pytest.mark.parametrize(
    ("hidden", "classes", "lr"),
    [(384, 0, 3e-4), (384, 2, 1e-4), (384, 8, 1e-4), (384, 32, 2e-4), (384, 77, 3e-4), (768, 2, 5.7e-5), (128, 3, 3e-4),
     (32, 3, 1e-3)],
)  # fmt: skip
def test_few_classes_take_a_lower_rate(hidden, classes, lr):
    found = chosen(10_000, hidden=hidden, classes=classes)
    assert found.lr == pytest.approx(lr, rel=0.02)
    assert (f"{classes} classes" in found.lr_reason) is (classes > 0)


@given(st.integers(1, 10**8), st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_every_choice_can_be_trained(rows, validation, grows, coupled, pretrained):
    found = chosen(rows, validation, grows=grows, coupled=coupled, pretrained=pretrained)
    assert 1 <= found.first_batch <= rows
    assert found.last_batch % found.first_batch == 0
    assert found.last_batch <= rows
    assert 0 < found.epochs <= 90
    assert math.ceil(found.epochs * rows / found.first_batch) >= 1
    assert found.measured == (validation >= 100)
    assert 0 < found.lr <= 1e-3


def test_without_growth_the_batch_stays():
    assert chosen(100_000, grows=False).last_batch == 32
    assert chosen(100_000, coupled=True).last_batch == chosen(100_000, coupled=True).first_batch == 128


def test_the_test_of_the_rate_takes_at_most_three_percent():
    assert [rate_test_updates(updates) for updates in (100, 666, 667, 1_000, 10_000)] == [0, 0, 20, 30, 60]


def curve(rates, turn, noise=0.0):
    """A loss that falls from 4 while the rate is below `turn`, and rises behind it."""
    losses, loss = [], 4.0
    for number, rate in enumerate(rates):
        loss += -0.05 if rate <= turn else 0.2
        losses.append(loss + noise * (-1) ** number)
    return losses


@pytest.mark.parametrize(
    ("turn", "factor"),
    [(2.4e-3, 1.0), (1.3e-3, 1.0), (4e-4, 0.25), (6e-4, 0.25), (1e-4, 0.25)],
)
def test_the_rate_is_an_eighth_of_where_the_loss_turns(turn, factor):
    usual = 3e-4
    rates = first.tested_rates(usual, 60)
    found, why = rate_found(usual, rates, curve(rates, turn))
    assert found == pytest.approx(usual * factor)
    assert "the loss turned at about" in why


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_turn(seed):
    """Two classes: a loss that falls little and jumps about, and turns at 2.4e-3 only."""
    rates = first.tested_rates(3e-4, 60)
    draw = np.random.default_rng(seed)
    losses, level = [], 0.69
    for rate in rates:
        level += -0.003 if rate < 2.4e-3 else 0.08
        losses.append(level + 0.1 * draw.standard_normal())
    assert rate_found(3e-4, rates, losses)[0] == 3e-4


def test_a_loss_that_never_turns_keeps_the_usual_rate():
    rates = first.tested_rates(3e-4, 40)
    assert rate_found(3e-4, rates, [4.0 - 0.01 * number for number in range(40)])[0] == 3e-4
    assert rates[0] == pytest.approx(7.5e-5)
    assert rates[-1] == pytest.approx(9.6e-3)


def test_a_loss_that_is_not_finite_has_turned():
    rates = first.tested_rates(3e-4, 40)
    losses = [4.0 - 0.01 * number for number in range(10)] + [math.inf]
    found, why = rate_found(3e-4, rates[: len(losses)], losses)
    assert found == pytest.approx(3e-4 / 4)
    assert "turned" in why


@given(st.floats(2e-4, 9e-3), st.floats(-1e-6, 1e-6))
def test_rounding_rarely_moves_the_choice(turn, noise):
    rates = first.tested_rates(3e-4, 60)
    plain, other = (rate_found(3e-4, rates, curve(rates, turn, each))[0] for each in (0.0, noise))
    assert plain == other


def test_a_cool_down_is_its_share_of_the_whole():
    assert cool_down_end(800, 0.2) == 1_000


@pytest.mark.parametrize("validation", [50, 1_000])
def test_where_nothing_is_evaluated_no_plateau_can_be_seen(validation):
    unseen, without = chosen(9_002, validation, watched=False), chosen(9_002, 0)
    assert (unseen.epochs, unseen.measured) == (without.epochs, False)
    assert "run.evaluate_every" in unseen.epochs_reason


def test_one_row_is_one():
    assert chosen(9, 1).epochs_reason.startswith("1 validation row is too few")
    assert chosen(90, 9).epochs_reason.startswith("9 validation rows are too few")

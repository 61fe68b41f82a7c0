"""Warm-up when the batch changes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bigbatch.errors import RecipeError
from bigbatch.rules.schedules import schedule_from
from bigbatch.rules.warmup import scaled_warmup
from bigbatch.units import parse_quantity


def settings(warmup: str, rule: str = "legw") -> SimpleNamespace:
    return SimpleNamespace(
        name="linear", warmup=parse_quantity(warmup), warmup_rule=rule, decay=parse_quantity("0"), final_fraction=0.0,
        args={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("0.5 epochs", "2 epochs"),
        ("1000 samples", "4000 samples"),
        ("6 %", "24 %"),
        ("200 updates", "200 updates"),
    ],
)
def test_legw_keeps_the_number_of_updates(typed: str, found: str) -> None:
    warmup = scaled_warmup(settings(typed), 32, 128)
    assert str(warmup.length) == found and warmup.note is not None and "128 is 4 times 32" in warmup.note
    # In samples: k times what the base batch had, however it was typed.
    before = schedule_from(settings(typed), 10_000, 32, 1000)
    after = schedule_from(settings(typed), 10_000, 128, 1000, warmup=warmup.length)
    assert after.warmup_samples == pytest.approx(4 * before.warmup_samples)


def test_nothing_moves_unless_asked() -> None:
    warmup = scaled_warmup(settings("6 %", "keep"), 32, 128)
    assert (str(warmup.length), warmup.note) == ("6 %", None)


def test_legw_needs_a_base() -> None:
    with pytest.raises(RecipeError, match=r"schedule\.warmup_rule: legw needs optimizer\.base_batch"):
        scaled_warmup(settings("6 %"), None, 128)


def test_a_warm_up_beyond_the_run_is_doubted() -> None:
    warmup = scaled_warmup(settings("50 %"), 32, 128)
    laid = schedule_from(settings("50 %"), 10_000, 128, 1000, warmup=warmup.length)
    assert "200 % = 20,000 samples" in laid.warnings[0]

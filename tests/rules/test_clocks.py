"""Lengths and intervals."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import RecipeError
from bigbatch.rules.clocks import Clock, few_updates, mark_crossed, total_updates
from bigbatch.units import Quantity, parse_quantity


def test_the_last_batch_wraps() -> None:
    length = total_updates(parse_quantity("3 epochs"), 1024, 12_600)
    assert str(length) == "37 updates = 37,888 samples = 3.007 epochs"
    assert length.exact


@pytest.mark.parametrize(
    ("text", "updates", "samples"),
    [
        ("500 updates", 500, 128_000), ("1e6 samples", 3907, 1_000_192), ("256 samples", 1, 256),
        ("257 samples", 2, 512), ("1 epochs", 4, 1024), ("0.256 epochs", 1, 256), ("25600 tokens", 10, 2560),
    ],
)  # fmt: skip
def test_units(text: str, updates: int, samples: int) -> None:
    length = total_updates(parse_quantity(text), 256, 1000, tokens=10_000)
    assert (length.updates, length.samples) == (updates, samples)
    assert length.epochs == pytest.approx(samples / 1000)


@given(batch=st.integers(1, 500), samples=st.integers(1, 5000), epochs=st.floats(0.01, 20))
def test_just_enough_updates(batch: int, samples: int, epochs: float) -> None:
    length = total_updates(Quantity(epochs, "epochs"), batch, samples, allow_repeats=True)
    assert length.samples == length.updates * batch
    assert length.samples >= epochs * samples * (1 - 1e-8)
    assert length.updates == 1 or length.samples - batch < epochs * samples


def test_rounding_does_not_add_an_update() -> None:
    assert total_updates(Quantity(0.1 * 3, "epochs"), 100, 1000).updates == 3


def test_batch_larger_than_the_data() -> None:
    with pytest.raises(
        RecipeError, match=r"batch\.samples: one update takes 1,024 samples, .* has 1,000.*allow_repeats"
    ):
        total_updates(parse_quantity("1 epochs"), 1024, 1000)
    with pytest.raises(RecipeError, match=r"batch\.tokens: one update takes 65,536 tokens"):
        total_updates(parse_quantity("1 epochs"), None, 1000, batch_tokens=65_536, tokens=34_000)
    assert total_updates(parse_quantity("3 epochs"), 1024, 1000, allow_repeats=True).updates == 3


def test_few_updates_are_a_warning_with_a_remedy() -> None:
    assert total_updates(parse_quantity("50 updates"), 4, 1000).warnings == ()
    (warning,) = total_updates(parse_quantity("44 updates"), 256, 11_213).warnings
    assert "only 44 updates" in warning and "112 samples gives 100 updates" in warning


def test_token_batches_are_estimated_from_the_mean_length() -> None:
    length = total_updates(parse_quantity("2 epochs"), None, 1000, batch_tokens=3400, tokens=34_000)
    assert (length.updates, length.samples, length.exact) == (20, 2000, False)
    assert str(length).startswith("about 20 updates")


def test_token_batches_are_exact_with_a_walk() -> None:
    lengths = [10, 50, 20, 30, 90, 10, 40, 50]

    def next_position(position: int) -> int:
        tokens = 0
        first = position
        while position == first or tokens + lengths[position % 8] <= 100:
            tokens += lengths[position % 8]
            position += 1
        return position

    # 10 50 20 | 30 | 90 10 | 40 50 10 (the next epoch's first)
    length = total_updates(
        parse_quantity("1 epochs"), None, 8, batch_tokens=100, tokens=300, next_position=next_position
    )
    assert (length.updates, length.samples, length.exact) == (4, 9, True)
    two = total_updates(
        parse_quantity("2 updates"), None, 8, batch_tokens=100, tokens=300, next_position=next_position
    )
    assert (two.updates, two.samples) == (2, 4)


def test_a_length_in_minutes_is_refused() -> None:
    with pytest.raises(RecipeError, match="found 5 min; expected epochs"):
        total_updates(parse_quantity("5 min"), 10, 100)


def fires(every: str, batch: int = 32, updates: int = 20, epoch: int = 100) -> list[int]:
    clocks = [
        Clock(updates=u, samples=u * batch, tokens=u * batch * 10, seconds=u * 2.5)
        for u in range(updates + 1)
    ]
    return [
        after.updates
        for before, after in pairwise(clocks)
        if mark_crossed(
            parse_quantity(every), before, after, epoch_samples=epoch, total_samples=updates * batch
        )
    ]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("7 updates", [7, 14]),
        ("1 epochs", [4, 7, 10, 13, 16, 19]),
        ("100 samples", [4, 7, 10, 13, 16, 19]),
        ("2000 tokens", [7, 13, 19]),
        ("50 %", [10, 20]),
        ("10 s", [4, 8, 12, 16, 20]),
        ("end", [20]),
        ("never", []),
        ("0", []),
    ],
)
def test_intervals_fire_after_the_first_update_that_crosses(every: str, expected: list[int]) -> None:
    assert fires(every) == expected


@given(every=st.floats(0.01, 3), batch=st.integers(1, 100), epoch=st.integers(100, 1000))
def test_each_mark_fires_once(every: float, batch: int, epoch: int) -> None:
    last = 3 * epoch // batch + 1
    clocks = [Clock(updates=u, samples=u * batch) for u in range(last + 1)]
    quantity = Quantity(every, "epochs")
    fired = sum(
        mark_crossed(quantity, before, after, epoch_samples=epoch, total_samples=last * batch)
        for before, after in pairwise(clocks)
    )
    marks = int(last * batch / (every * epoch) * (1 + 1e-9))
    assert fired <= marks
    if every * epoch >= batch:
        assert fired == marks


def test_a_tenth_of_an_epoch_fires_ten_times() -> None:
    assert fires("0.1 epochs", batch=10, updates=10, epoch=100) == list(range(1, 11))


def test_the_smaller_batch_that_is_advised_is_never_of_one_sample() -> None:
    (warning,) = few_updates(3, 4)
    assert "a batch of about 2 samples gives 6 updates" in warning
    (alone,) = few_updates(3, 2)
    assert "train longer" in alone

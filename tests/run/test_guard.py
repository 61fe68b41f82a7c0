from __future__ import annotations

import json

import pytest

from bigbatch.errors import Diverged
from bigbatch.records import Update
from bigbatch.run.guard import Guard


def update(step: int, *, skipped: bool = False) -> Update:
    return Update(
        step=step, samples=8 * step, tokens=80 * step, batch_samples=8, batch_tokens=80,
        loss=float("nan") if skipped else 0.75, grad_norm=float("inf") if skipped else 2.5,
        lr=5e-4, seconds=0.1, skipped=skipped,
    )  # fmt: skip


def feed(guard: Guard, pattern: str, first: int = 1) -> None:
    for step, letter in enumerate(pattern, start=first):
        guard.see(update(step, skipped=letter == "x"))


def test_finite_updates_pass_and_break_a_row():
    guard = Guard(patience=3)
    feed(guard, "..xx.xx.xx..")
    assert guard.skipped_updates == 6
    assert guard.skipped_in_a_row == []


def test_patience_in_a_row_ends_the_run_with_what_to_try():
    guard = Guard(patience=3)
    feed(guard, ".xx")
    with pytest.raises(Diverged) as error:
        feed(guard, "x", first=4)
    message = str(error.value)
    assert error.value.exit_code == 5
    assert message.startswith(
        "3 updates in a row (2 to 4) had a non-finite loss or gradient norm (loss nan, "
    )
    assert "the last finite ones were 0.75 and 2.5 at update 1" in message
    assert (
        "guard.patience is 3" in message and "optimizer.lr" in message and "learning rate 0.0005" in message
    )


def test_stop_ends_it_at_the_first():
    guard = Guard(patience=3, on_nonfinite="stop")
    with pytest.raises(
        Diverged, match=r"^update 1 had .*no update before had finite ones; guard.on_nonfinite is stop"
    ):
        feed(guard, "x")


@pytest.mark.parametrize("cut", range(1, 6))
def test_history_goes_through_a_checkpoint(cut):
    pattern = ".x.xxx"
    first = Guard(patience=3)
    feed(first, pattern[:cut])
    resumed = Guard(patience=3)
    resumed.restore(json.loads(json.dumps(first.to_state(), allow_nan=False)))
    with pytest.raises(Diverged, match=r"\(4 to 6\).*at update 3"):
        feed(resumed, pattern[cut:], first=cut + 1)
    assert resumed.skipped_updates == 4

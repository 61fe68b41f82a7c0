from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from bigbatch.records import Eval, Event, Update
from bigbatch.report.console import ConsoleObserver, printable

LABEL = "[bold]x[/] \x1b[31mred\r\n forged"


class Clock:
    """Seconds that only move when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def update(step: int, *, loss: float = 0.5, skipped: bool = False) -> Update:
    return Update(
        step=step, samples=step * 100, tokens=step * 3000, batch_samples=100, batch_tokens=3000, loss=loss,
        grad_norm=1.0, lr=1e-3, seconds=2.0, skipped=skipped,
    )  # fmt: skip


def evaluation(**metrics: float | None) -> Eval:
    return Eval(step=4, split="validation", loss=0.41, metrics=metrics, seconds=1.0, samples_per_second=9.0)  # type: ignore[arg-type]


def plain(clock: Clock | None = None) -> tuple[ConsoleObserver, io.StringIO]:
    stream = io.StringIO()
    return ConsoleObserver(Console(file=stream, width=80), clock=clock or Clock()), stream


def terminal(clock: Clock) -> tuple[ConsoleObserver, io.StringIO]:
    stream = io.StringIO()
    console = Console(
        file=stream, width=100, force_terminal=True, force_jupyter=False, _environ={"TERM": "xterm"}
    )
    return ConsoleObserver(console, clock=clock), stream


def test_a_plain_line_has_every_figure() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    observer.start(["256 samples an update", "about 8 min"], total_updates=44, total_samples=4400)
    clock.now = 2.0
    observer(update(1))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["256 samples an update", "about 8 min"]
    assert lines[2] == ("  2 %  update 1/44  loss 0.5  50.0 samples/s  1,500 tokens/s  1 min 26 s left")


def test_without_a_terminal_lines_come_every_ten_seconds_or_five_percent() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    observer.start(total_updates=1000, total_samples=100_000)
    for step in range(1, 1001):
        clock.now += 0.5
        observer(update(step))
    lines = stream.getvalue().splitlines()
    assert (
        len(lines) == 51
    )  # the first, then one every 20 updates = 10 s, and the last is one of them or its own
    assert "update 1/1,000" in lines[0] and "update 1,000/1,000" in lines[-1]


def test_a_fast_run_shows_twenty_lines() -> None:
    observer, stream = plain()
    observer.start(total_updates=1000, total_samples=100_000)
    for step in range(1, 1001):
        observer(update(step))
    assert 20 <= len(stream.getvalue().splitlines()) <= 22


def test_evaluations_and_events_are_always_shown() -> None:
    observer, stream = plain()
    observer.start(total_updates=10, total_samples=1000)
    observer(evaluation(accuracy=0.85, f1_macro=0.79321, other=1.0))
    observer(Event(step=5, event="nonfinite", why="the loss was infinite", did="skipped the update"))
    observer(Event(step=6, event="checkpoint", why="5 min", did="saved"))
    assert stream.getvalue().splitlines() == [
        "update 4  validation  loss 0.41  f1_macro 0.7932  accuracy 0.85  other 1",
        "update 5  nonfinite: the loss was infinite: skipped the update",
    ]


def test_a_fast_run_that_is_evaluated_often_shows_some_evaluations_and_the_last() -> None:
    observer, stream = plain()
    observer.start(total_updates=1000, total_samples=100_000)
    for step in range(1, 1001):
        observer(update(step))
        for split in ("validation", "validation.hard"):
            observer(replace(evaluation(accuracy=step / 1000), step=step, split=split))
    lines = [line for line in stream.getvalue().splitlines() if "  validation  " in line]
    assert 20 <= len(lines) <= 22
    assert lines[0].startswith("update 1 ") and lines[-1].startswith("update 1,000 ")
    assert stream.getvalue().count("  validation.hard  ") == len(lines)


def test_evaluations_that_are_ten_seconds_apart_are_all_shown() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    observer.start(total_updates=1000, total_samples=100_000)
    for step in range(1, 41):
        observer(update(step))
        clock.now += 10.0
        observer(replace(evaluation(accuracy=0.5), step=step))
    assert stream.getvalue().count("validation  loss") == 40


def test_a_metric_that_does_not_exist_is_a_dash() -> None:
    observer, stream = plain()
    observer(evaluation(roc_auc_ovr=None))
    assert "roc_auc_ovr –" in stream.getvalue()


def test_the_remaining_time_counts_evaluations_and_starts_at_the_resume() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    observer.start(total_updates=100, total_samples=10_000)
    clock.now = 30.0  # the first update after a resume took 2 s, an evaluation before it 28 s
    observer(update(91))
    assert "4 min 30 s left" in stream.getvalue()  # 9 more of the kind of the one that was done


def test_the_test_of_the_rate_does_not_lengthen_the_remaining_time() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    observer.start(total_updates=100, total_samples=10_000)
    clock.now = 500.0
    observer(Event(step=0, event="rate_test", why="it turned", did="trains", details={}))
    clock.now = 502.0
    observer(update(1))
    assert "3 min 18 s left" in stream.getvalue()


def test_skipped_updates_and_infinite_losses_are_shown() -> None:
    observer, stream = plain()
    observer.start(total_updates=2)
    observer(update(1, skipped=True, loss=math.inf))
    observer(update(2, skipped=True, loss=math.nan))
    assert "loss inf" in stream.getvalue() and "2 skipped" in stream.getvalue().splitlines()[-1]


def test_a_run_of_unknown_length_has_no_share_and_no_remaining_time() -> None:
    observer, stream = plain()
    observer.start()
    observer(update(1))
    assert stream.getvalue().splitlines() == ["update 1  loss 0.5  50.0 samples/s  1,500 tokens/s"]


def test_controls_and_markup_in_user_data_stay_text() -> None:
    observer, stream = plain()
    observer.start([LABEL])
    observer(evaluation(**{LABEL: 0.5}))
    observer(Event(step=1, event=LABEL, why=LABEL, did=LABEL))
    text = stream.getvalue()
    assert "\x1b" not in text and "\r" not in text
    assert len(text.splitlines()) == 3
    assert text.count("[bold]x[/] \\x1b[31mred\\r\\n forged") == 5
    assert printable("a\u202eb\x9b") == "a\\u202eb\\x9b"


def test_long_lines_are_not_broken_in_logs() -> None:
    observer, stream = plain()
    observer(Event(step=1, event="e", why="w" * 300, did=""))
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_has_a_live_line_and_keeps_the_last_state() -> None:
    clock = Clock()
    observer, stream = terminal(clock)
    observer.start(["plan"], total_updates=10, total_samples=1000)
    for step in range(1, 8):
        clock.now += 2.0
        observer(update(step))
    observer(evaluation(f1_macro=0.8))
    observer.close()
    observer.close()
    text = stream.getvalue()
    assert "\x1b[?25l" in text and text.rstrip().endswith("\x1b[?25h")  # the cursor comes back
    assert "70 %" in text and "update 7/10" in text
    assert "last evaluation  loss 0.41  f1_macro 0.8" in text.split("70 %")[-1]


def test_a_terminal_is_redrawn_at_most_ten_times_a_second() -> None:
    clock = Clock()
    observer, stream = terminal(clock)
    observer.start(total_updates=10_000)
    for step in range(1, 1001):
        clock.now += 0.001
        observer(update(step))
    assert 9 <= stream.getvalue().count("tokens/s") <= 12


class ClosedPipe(io.StringIO):
    """A stream whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


class PipeConsole(Console):
    """rich's own handler also points the process's standard output to nowhere; the rest is the same."""

    def on_broken_pipe(self) -> None:
        raise SystemExit(1)


@pytest.mark.parametrize("force_terminal", [True, False])
def test_a_closed_pipe_does_not_reach_the_run(force_terminal: bool) -> None:
    observer = ConsoleObserver(PipeConsole(file=ClosedPipe(), force_terminal=force_terminal))
    observer.start(["plan"], total_updates=3)
    assert observer(update(1)) is None
    observer.close()


def test_a_record_that_cannot_be_shown_does_not_reach_the_run() -> None:
    observer, stream = plain()
    observer.start(total_updates=3)
    observer(update(1, loss="low"))  # type: ignore[arg-type]
    observer(update(2))
    assert "update 2" not in stream.getvalue()


def test_an_encoding_without_the_letters_shows_question_marks() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    observer = ConsoleObserver(Console(file=stream, width=80), clock=Clock())
    observer.start(["中性 café"], total_updates=2)
    observer(update(1))
    stream.flush()
    assert raw.getvalue().decode("ascii").splitlines()[0] == "?? caf?"
    assert b"update 1/2" in raw.getvalue()


def test_quick_preparations_print_nothing_in_a_log_and_slow_ones_a_line_now_and_then() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    for done in range(0, 60_001, 1000):
        clock.now += 0.5
        observer.progress("train", done, 60_000)
    assert stream.getvalue().splitlines() == [
        "train  19,000 of 60,000 rows", "train  39,000 of 60,000 rows", "train  59,000 of 60,000 rows",
    ]  # fmt: skip


def test_a_preparation_on_a_terminal_leaves_nothing_behind() -> None:
    clock = Clock()
    observer, stream = terminal(clock)
    observer.say("reading the data")
    for done in range(0, 101, 10):
        clock.now += 0.2
        observer.progress("train", done, 100)
    observer.start(total_updates=2)
    observer(update(2))
    observer.close()
    text = stream.getvalue()
    assert "train  50 of 100 rows" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2
    observer.say("done \x1b[31m")
    assert stream.getvalue().endswith("done \\x1b[31m\n")


def test_forced_colours_on_a_pipe_move_no_cursor(monkeypatch, capsys) -> None:
    """A notebook sets FORCE_COLOR for all that it starts, and reads their output through a pipe."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-color")
    observer = ConsoleObserver(clock=Clock())
    observer.progress("train", 1, 2)
    observer.start(["plan"], total_updates=1, total_samples=100)
    observer(update(1))
    observer.close()
    shown = capsys.readouterr().err
    assert "update 1/1" in shown
    assert not [code for code in ("\x1b[?25", "\x1b[1A", "\x1b[2K", "\r") if code in shown]


def test_the_figure_that_chooses_the_weights_comes_first() -> None:
    clock = Clock()
    observer, stream = plain(clock)
    observer.start(total_updates=10, total_samples=1000, chosen="f1")
    observer(evaluation(accuracy=0.936, precision=0.4, f1=0.309))
    observer(
        Eval(step=4, split="validation.hard", loss=1.0, metrics={"f1": 0.1}, seconds=1, samples_per_second=1)
    )
    clock.now = 20.0
    observer(update(5))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "update 4  validation  f1 0.309  loss 0.41  accuracy 0.936  precision 0.4"
    assert "update 5/10  f1 0.309  loss 0.5  " in lines[2]


def test_perplexity_and_recall_come_before_accuracy() -> None:
    observer, stream = plain()
    observer.start(chosen="loss")
    observer(evaluation(accuracy=0.2, perplexity=40.0))
    observer(evaluation(**{"ndcg@10": 0.5, "recall@1": 0.3}))
    observer(update(5))
    lines = stream.getvalue().splitlines()
    assert "loss 0.41  perplexity 40  accuracy 0.2" in lines[0] and "recall@1 0.3  ndcg@10 0.5" in lines[1]
    assert lines[2].startswith("update 5  validation loss 0.41  loss 0.5")

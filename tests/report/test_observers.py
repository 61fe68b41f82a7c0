from __future__ import annotations

from pathlib import Path

import pytest

from bigbatch.errors import RecipeError
from bigbatch.records import Evaluate, Event, Record, Save, Stop, Update
from bigbatch.report.observers import load_observers

FILE = """
from bigbatch.records import Stop

seen = []

def notify(record):
    seen.append(record)
    return Stop("good enough") if record["loss"] < 0.1 else None

class Counter:
    def __init__(self):
        self.count = 0

    def __call__(self, record):
        self.count += 1

NUMBER = 3
"""


def update(step: int = 1, loss: float = 0.5) -> Update:
    return Update(
        step=step,
        samples=1,
        tokens=1,
        batch_samples=1,
        batch_tokens=1,
        loss=loss,
        grad_norm=1.0,
        lr=1.0,
        seconds=1.0,
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "alerts.py").write_text(FILE)
    return tmp_path


def test_a_function_in_a_file_is_found_and_may_ask(base: Path) -> None:
    events: list[Event] = []
    (observer,) = load_observers(["alerts.py:notify"], base, events.append)
    assert observer(update()) is None
    assert observer(update(loss=0.05)) == Stop("good enough")
    assert events == []


def test_a_class_is_made_once_and_remembers(base: Path) -> None:
    (observer,) = load_observers(["alerts.py:Counter"], base, lambda event: None)
    observer(update(1))
    observer(update(2))
    assert observer._observer.count == 2  # type: ignore[attr-defined]


def test_callables_are_taken_as_they_are(base: Path) -> None:
    seen: list[Record] = []
    asks: list[object] = [Save(), Evaluate()]
    observers = load_observers([seen.append, lambda record: asks.pop()], base, lambda event: None)  # type: ignore[list-item, arg-type]
    assert [observer(update()) for observer in observers] == [None, Evaluate()]
    assert len(seen) == 1


@pytest.mark.parametrize("error", [ValueError("no network"), SystemExit(3), RecursionError()])
def test_an_exception_becomes_an_event(base: Path, error: BaseException) -> None:
    events: list[Event] = []

    def fail(record: Record) -> None:
        raise error

    (observer,) = load_observers([fail], base, events.append)  # type: ignore[list-item]
    assert observer(update(7)) is None
    (event,) = events
    assert (event.event, event.step) == ("observer_failed", 7)
    assert "fail raised" in event.why and type(error).__name__ in event.why


def test_an_interrupt_goes_through(base: Path) -> None:
    def interrupt(record: Record) -> None:
        raise KeyboardInterrupt

    (observer,) = load_observers([interrupt], base, lambda event: None)  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        observer(update())


def test_an_answer_that_is_no_request_becomes_an_event(base: Path) -> None:
    events: list[Event] = []
    (observer,) = load_observers([lambda record: "stop"], base, events.append)  # type: ignore[list-item]
    assert observer(update()) is None
    assert "answered with str; expected Stop, Save, Evaluate or None" in events[0].why


def test_an_observer_that_keeps_failing_is_no_longer_called(base: Path) -> None:
    events: list[Event] = []
    calls = []

    def fail(record: Record) -> None:
        calls.append(record)
        raise ValueError

    (observer,) = load_observers([fail], base, events.append)  # type: ignore[list-item]
    for step in range(10):
        observer(update(step))
    assert len(calls) == len(events) == 3
    assert events[-1].did == "it is not called any more"


def test_a_success_between_failures_starts_the_count_again(base: Path) -> None:
    events: list[Event] = []

    def every_other(record: Record) -> None:
        if record.step % 2:
            raise ValueError

    (observer,) = load_observers([every_other], base, events.append)  # type: ignore[list-item]
    for step in range(20):
        observer(update(step))
    assert len(events) == 10


def test_its_own_failure_is_not_answered_with_another_event(base: Path) -> None:
    events: list[Event] = []

    def fail(record: Record) -> None:
        raise ValueError

    (observer,) = load_observers([fail], base, events.append)  # type: ignore[list-item]
    observer(update())
    observer(events[0])
    assert len(events) == 1


def test_all_wrong_references_are_said_at_once(base: Path) -> None:
    specs = ["alerts.py:notifi", "nonsense", "alerts.py:NUMBER", "alerts.py:notify"]
    with pytest.raises(RecipeError) as caught:
        load_observers(specs, base, lambda event: None)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "did you mean notify?" in text
    assert "observers[1]" in text and "alerts.py:notify" in text
    assert "is a int; expected a function of one record" in text

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bigbatch.errors import RecipeError
from bigbatch.records import Event
from bigbatch.track import kinds
from bigbatch.track.beside import Beside, check_trackers, start_beside, with_trackers


def record(step: int) -> Event:
    return Event(step=step, event="note", why="", did="")


def beside(run: Path, code: str, clock: list[float], events: list[Event]) -> Beside:
    def start(folder: Path, kind: str) -> subprocess.Popen[bytes]:
        (folder / "track").mkdir(exist_ok=True)
        with (folder / "track" / f"{kind}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, "-S", "-c", code], stdout=log, stderr=log)

    found = Beside("fake", events.append, start=start, clock=lambda: clock[0])
    found.folder = run
    return found


def test_a_tracker_that_dies_is_one_event_with_its_last_words(tmp_path: Path) -> None:
    events: list[Event] = []
    observer = beside(tmp_path, "import sys; print('the disk is full'); sys.exit(6)", [0.0], events)
    observer(record(1))
    assert observer._process is not None
    observer._process.wait()
    for step in range(2, 9):
        observer(record(step))
    (event,) = events
    assert (event.event, event.step) == ("tracker_failed", 2)
    assert "ended with code 6: the disk is full" in event.why and "bigbatch track RUN --to fake" in event.did


def test_a_tracker_that_is_slow_is_said_and_waited_for_by_nobody(tmp_path: Path) -> None:
    events: list[Event] = []
    clock = [0.0]
    observer = beside(tmp_path, "import sys; sys.stdin.read()", clock, events)
    observer(record(1))
    kept = tmp_path / "track" / "fake.json"
    for second in range(0, 700, 5):
        clock[0] = float(second)
        if second < 300:
            kept.write_text("x" * (second + 1))  # it sends
        observer(record(second))
    assert [event.why for event in events] == ["fake: nothing was sent for 120 s"]
    assert observer._process is not None
    observer._process.kill()
    observer._process.wait()


def test_one_that_cannot_be_started_is_an_event(tmp_path: Path) -> None:
    events: list[Event] = []

    def start(folder: Path, kind: str) -> subprocess.Popen[bytes]:
        raise OSError("no more processes")

    observer = Beside("fake", events.append, start=start)
    observer(record(0))  # no directory yet
    observer.folder = tmp_path
    observer(record(1))
    observer(record(2))
    assert [event.step for event in events] == [1]


def test_the_process_is_started_with_a_log_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        process = start_beside(tmp_path, "no-such-tracker")
        assert process.wait(60) == 2
        log = (tmp_path / "track" / "no-such-tracker.log").read_text()
        assert log.count("this is not a run directory") == 1


def test_what_is_missing_is_said_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        check_trackers(["alerts.py:notify", "tensorboard", "mlflow"])
    text = str(caught.value)
    assert (
        "observers[1]" in text
        and "pip install 'bigbatch[tensorboard]'" in text
        and "bigbatch[mlflow]" in text
    )
    monkeypatch.setattr(kinds, "find_spec", lambda name: name)
    observers, trackers = with_trackers(["alerts.py:notify", "wandb"], lambda event: None)
    assert observers == ["alerts.py:notify", *trackers] and len(trackers) == 1

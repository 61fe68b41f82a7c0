"""What is left of a run is told from what its updates took; the plan stays."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from bigbatch.facts import Choice
from bigbatch.plan.frozen import Plan
from bigbatch.records import Event
from bigbatch.run.forecast import Forecast, told_anew
from bigbatch.store.progress import Progress


@dataclass
class Shown:
    """What is read of a run's parts."""

    plan: Plan
    clocks: Any


def parts(foretold: float | None = 100.0) -> Any:
    """100 updates of 10 samples of 5 tokens."""
    train = Choice(value="1 min 40 s", reason="", source="measured", prediction=foretold, unit="s")
    return Shown(
        plan=Plan(choices={"train_seconds": train}),
        clocks=SimpleNamespace(
            length=SimpleNamespace(samples=1000), lengths=SimpleNamespace(tokens=5000, samples=1000)
        ),
    )


def events(forecast: Forecast, progress: Progress, seconds: list[float]) -> list[Event]:
    found: list[Event] = []
    for each in seconds:
        progress.update += 1
        progress.position += 10
        found += forecast.news(SimpleNamespace(step=progress.update, seconds=each, batch_tokens=50))  # type: ignore[arg-type]
    return found


def test_updates_that_take_far_longer_are_an_event_and_once_only() -> None:
    progress = Progress()
    (event,) = events(Forecast(parts(), progress), progress, [9.0, *[11.0] * 9])
    assert (event.event, event.step) == ("forecast", 4)  # after 30 s, the first update apart
    assert event.why == "updates take 11.0 times as long as was foretold"
    assert event.did == ("expects 17 min 36 s more of training instead of 1 min 36 s; the plan stays")
    assert event.details["train_seconds_left"] == pytest.approx(96 * 11.0)


def test_load_that_goes_is_news_too() -> None:
    progress = Progress()
    found = events(Forecast(parts(), progress), progress, [9.0, *[11.0] * 9, *[1.0] * 60])
    assert [round(event.details["factor"], 1) for event in found] == [11.0, 0.1]


@pytest.mark.parametrize("seconds", [[1.4] * 60, [40.0, 1.0, 1.0], [11.0, 11.0, 11.0]])
def test_what_was_foretold_about_rightly_or_only_just_began_is_no_news(seconds: list[float]) -> None:
    progress = Progress()
    assert events(Forecast(parts(), progress), progress, seconds) == []


def test_without_a_forecast_nothing_is_corrected() -> None:
    progress = Progress()
    assert events(Forecast(parts(None), progress), progress, [20.0] * 10) == []


def test_a_resumed_run_is_held_against_what_it_took_so_far() -> None:
    progress = Progress(update=50, position=500, tokens=2500, train_seconds=550.0)
    assert events(Forecast(parts(), progress), progress, [11.0] * 20) == []


def test_a_resume_tells_what_is_left_at_the_speed_so_far() -> None:
    one = parts()
    progress = Progress(update=75, position=750, tokens=3750, train_seconds=825.0)
    told = told_anew(one, progress).plan.choices["train_seconds"]
    assert (told.value, told.prediction) == ("4 min 35 s", pytest.approx(275.0))
    assert told.reason == (
        "left after update 75, at the speed so far; 1 min 40 s were foretold for the whole run"
    )
    assert one.plan.value("train_seconds") == "1 min 40 s"
    assert told_anew(one, Progress()) is one

"""The forecast is held against the updates while they run: the plan stays, what is told of the time does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bigbatch.build.parts import Parts
from bigbatch.records import Event, Update
from bigbatch.store.progress import Progress
from bigbatch.units import show_seconds

_WRONG = 1.5
"""So many times faster or slower than foretold is worth a new forecast."""
_SECONDS = 30.0
_UPDATES = 3
"""A new forecast rests on this much at least; less may be a moment's load."""


class Forecast:
    """Seconds per real token: as the plan has them, then as the updates since the last forecast had them."""

    def __init__(self, parts: Parts, progress: Progress) -> None:
        """A run that is resumed is held against what it took so far."""
        self._parts, self._progress = parts, progress
        train = parts.plan.choices.get("train_seconds")
        foretold = None if train is None else train.prediction
        tokens = _tokens(parts, parts.clocks.length.samples)
        if progress.tokens and progress.train_seconds:
            foretold, tokens = progress.train_seconds, float(progress.tokens)
        self._each = foretold / tokens if foretold and tokens else 0.0
        self._seconds = self._tokens = 0.0
        self._updates = -1  # the first update of a process pays for what libraries do once

    def news(self, record: Update) -> Iterator[Event]:
        """An event when the updates since the last forecast took much more or less time than it says."""
        self._updates += 1
        if not self._each or not self._updates:
            return
        self._seconds += record.seconds
        self._tokens += record.batch_tokens
        if self._updates < _UPDATES or self._seconds < _SECONDS or not self._tokens:
            return
        each = self._seconds / self._tokens
        factor = each / self._each
        if 1 / _WRONG < factor < _WRONG:
            self._updates, self._seconds, self._tokens = 0, 0.0, 0.0
            return
        left = each * _tokens(self._parts, self._parts.clocks.length.samples - self._progress.position)
        was = left / factor
        self._each, self._updates, self._seconds, self._tokens = each, 0, 0.0, 0.0
        yield Event(
            step=record.step,
            event="forecast",
            why=f"updates take {factor:.1f} times as long as was foretold",
            did=f"expects {show_seconds(left)} more of training instead of {show_seconds(was)}; the plan stays",
            details={"seconds_per_token": each, "train_seconds_left": left, "factor": factor},
        )


def _tokens(parts: Parts, samples: int) -> float:
    """Real tokens of so many samples, on average."""
    return samples * parts.clocks.lengths.tokens / max(1, parts.clocks.lengths.samples)


def told_anew(parts: Parts, progress: Progress) -> Parts:
    """The run as it is shown when it goes on: with the time that is left, at the speed so far, not the old forecast."""
    plan, left = parts.plan, parts.clocks.length.samples - progress.position
    if not progress.train_seconds or not progress.position or "train_seconds" not in plan.choices:
        return parts
    seconds = progress.train_seconds * left / progress.position
    before = plan.choices["train_seconds"]
    why = (
        f"left after update {progress.update:,}, at the speed so far; "
        f"{before.value} were foretold for the whole run"
    )
    now = replace(before, value=show_seconds(seconds), reason=why, source="measured", prediction=seconds)
    return replace(parts, plan=replace(plan, choices={**plan.choices, "train_seconds": now}))

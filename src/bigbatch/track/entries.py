"""A record of the journal as trackers are sent it, and the memory of which were sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bigbatch.documents import Line
from bigbatch.protocols import Json
from bigbatch.report.facts import event_details, number
from bigbatch.report.text import clean, shorten

_NOT_FIGURES = ("kind", "time", "step", "split", "nonfinite")
_MOST_FIGURES = 2000
"""Of one record: an evaluation may have a figure for each class."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record."""

    number: int
    """From 0, counted over all that were ever sent of this run."""
    step: int
    """The update after which it was."""
    seconds: float
    """Since the epoch."""
    figures: Mapping[str, float]
    """`train/loss`, `validation/f1_macro`; of an event none."""
    event: str = ""
    """Its short name; empty: none."""
    text: str = ""
    """An event in words."""


@dataclass
class Ledger:
    """Which records were sent. A resume makes some again, and a journal may be read anew: none counts twice.

    An update is known by its number, an evaluation by its split and update, an event by its line. So a record that a
    resume made again is not sent again, and the figures that trackers show are those of the first time.
    """

    count: int = 0
    update: int = 0
    """The last one."""
    evaluations: dict[str, int] = field(default_factory=dict)
    """Split -> update of the last one."""
    events: list[str] = field(default_factory=list)
    """A short hash of each."""

    def admit(self, line: Line) -> Entry | None:
        """What is to be sent of a record; None if it was sent before. It counts as sent from now on."""
        step = line["step"]
        if line["kind"] == "update":
            if step <= self.update:
                return None
            self.update = step
        elif line["kind"] == "eval":
            split = line["split"]
            if step <= self.evaluations.get(split, -1):
                return None
            self.evaluations[split] = step
        else:
            name = hashlib.sha256(json.dumps(line, sort_keys=True).encode("utf-8", "replace")).hexdigest()[
                :16
            ]
            if name in self.events:
                return None
            self.events.append(name)
        entry = entry_of(line, self.count)
        self.count += 1
        return entry

    def as_json(self) -> dict[str, Json]:
        """To be kept."""
        return {"count": self.count, "update": self.update, "evaluations": dict(self.evaluations),
                "events": list(self.events)}  # fmt: skip


def entry_of(line: Line, place: int) -> Entry:
    """A record as trackers are sent it.

    >>> found = entry_of({"kind": "eval", "step": 7, "split": "test", "time": "2026-01-01T00:00:00Z", "loss": 0.5}, 3)
    >>> found.number, found.step, dict(found.figures), found.seconds
    (3, 7, {'test/loss': 0.5}, 1767225600.0)
    """
    facts: Mapping[str, object] = line
    seconds = _seconds(facts.get("time"))
    if line["kind"] == "event":
        details = event_details(facts)
        words = [clean(facts.get(key, "")) for key in ("why", "did")] + ([details] if details else [])
        text = shorten("; ".join(word for word in words if word), 2000)
        return Entry(
            number=place,
            step=line["step"],
            seconds=seconds,
            figures={},
            event=clean(line["event"])[:200],
            text=text,
        )
    prefix = "train" if line["kind"] == "update" else line["split"]
    found = [
        (key, _figure(value)) for key, value in list(facts.items())[:_MOST_FIGURES] if key not in _NOT_FIGURES
    ]
    figures = {f"{clean(prefix)}/{clean(key)}"[:250]: value for key, value in found if value is not None}
    return Entry(number=place, step=line["step"], seconds=seconds, figures=figures)


def _figure(value: object) -> float | None:
    return float(value) if isinstance(value, bool) else number(value)


def _seconds(time: object) -> float:
    try:
        return max(0.0, datetime.fromisoformat(str(time)).timestamp())
    except (ValueError, OverflowError):
        return 0.0

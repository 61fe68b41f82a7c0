"""A tracker that writes a line a record into a file, and can be killed at any of its moments."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bigbatch.protocols import Json
from bigbatch.track.entries import Entry
from bigbatch.track.kinds import About, Ending


class Killed(BaseException):
    """The process is gone."""


class FakeTracker:
    def __init__(self, path: Path, moment: Callable[[], None] = lambda: None) -> None:
        self.path, self.moment = path, moment
        self.endings: list[Ending] = []

    def open(self, about: About, kept: Json) -> bool:
        self.moment()
        self.about = about
        with self.path.open("ab"):
            os.truncate(self.path, kept if isinstance(kept, int) else 0)
        self.moment()
        return False

    def send(self, entries: Sequence[Entry]) -> Json:
        with self.path.open("ab", buffering=0) as file:
            for entry in entries:
                line = (
                    json.dumps([entry.number, entry.step, entry.event, dict(entry.figures)]).encode() + b"\n"
                )
                file.write(line[:9])
                self.moment()  # in the middle of a record
                file.write(line[9:])
                self.moment()
            return file.tell()

    def finish(self, ending: Ending) -> Json:
        self.moment()
        self.endings.append(ending)
        return self.path.stat().st_size

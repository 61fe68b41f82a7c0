"""One run as its files tell it: its journal read on, its small files read again when they have changed."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bigbatch.documents import Line, SignFile, StagesFile, checked
from bigbatch.report.facts import number
from bigbatch.report.following import LOOK_BYTES, Follower
from bigbatch.stored import Damaged, read_bytes, read_object
from bigbatch.watch.curves import Curve

_DOCUMENTS = ("status", "plan", "result", "stages")
_DOCUMENT_BYTES = 2**22
_SIGN_BYTES = 2**16
_RECIPE_BYTES = 2**20
_MOST_CURVES = 64
_MOST_SPLITS = 16
_MOST_EVENTS = 200
_MOST_RANKS = 1024
_MOST_PROBLEMS = 8
_SILENT_SECONDS = 60.0
"""After which the lock of a run counts as nobody's, as `bigbatch train` has it."""
_NOT_CURVES = ("kind", "time", "step", "samples", "tokens", "split", "nonfinite", "skipped", "empty")


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What one rank said last."""

    rank: int
    host: str
    update: int
    phase: str
    age_seconds: float
    """Since it said so, by the clock of this machine."""


@dataclass
class Journal:
    """What was read of `metrics.jsonl`."""

    updates: dict[str, Curve] = field(default_factory=dict)
    evaluations: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Split -> figure -> curve."""
    newest: dict[str, Line] = field(default_factory=dict)
    """The last evaluation of each split."""
    last: Mapping[str, object] = field(default_factory=dict)
    """The last update."""
    noise: Mapping[str, object] = field(default_factory=dict)
    """The last update whose gradient noise was measured."""
    events: deque[tuple[float, Line]] = field(default_factory=lambda: deque(maxlen=_MOST_EVENTS))
    """(samples, event)"""
    event_count: int = 0
    skipped: int = 0
    records: int = 0

    def take(self, line: Line) -> None:
        """One more record."""
        self.records += 1
        if line["kind"] == "update":
            self._update(line)
        elif line["kind"] == "eval":
            self._evaluation(line)
        else:
            self.event_count += 1
            self.events.append((self.samples, line))

    @property
    def samples(self) -> float:
        """Consumed so far."""
        return number(self.last.get("samples")) or 0.0

    def _update(self, line: Mapping[str, object]) -> None:
        self.last = line
        self.skipped += line.get("skipped") is True
        if number(line.get("noise_scale_measurements")) is not None:
            self.noise = line
        _add(self.updates, self.samples, line)
        seconds, waited = (number(line.get(key)) for key in ("seconds", "wait_seconds"))
        if seconds:
            derived = {f"{unit}_per_second": (number(line.get(f"batch_{unit}")) or 0.0) / seconds
                       for unit in ("samples", "tokens")}  # fmt: skip
            _add(self.updates, self.samples, derived | {"wait_share": (waited or 0.0) / seconds})

    def _evaluation(self, line: Line) -> None:
        split = str(line.get("split"))
        if split in self.evaluations or len(self.evaluations) < _MOST_SPLITS:
            self.newest[split] = line
            _add(self.evaluations.setdefault(split, {}), self.samples, line)


def _add(curves: dict[str, Curve], samples: float, figures: Mapping[str, object]) -> None:
    for name, value in figures.items():
        figure = None if name in _NOT_CURVES else number(value)
        if figure is not None and (name in curves or len(curves) < _MOST_CURVES):
            curves.setdefault(name, Curve()).add(samples, figure)


class Observed:
    """A run directory that is looked at again and again; `folder` is that of the last stage that has begun."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Nothing is read yet.

        Args:
            folder: the run directory, or one with stages.
            clock: seconds since the epoch.
        """
        self.named = folder
        self._clock = clock
        self._begin(folder)

    def _begin(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal()
        self.left_bytes = 0
        self.documents: dict[str, Mapping[str, object]] = {}
        self.recipe = ""
        self.ranks: tuple[Rank, ...] = ()
        self.problems: tuple[str, ...] = ()
        self._found: dict[str, str] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._follower = Follower(folder / "metrics.jsonl")

    def look(self, most_bytes: int = LOOK_BYTES) -> None:
        """Read what is new; whatever cannot be read is a sentence in `problems`, and no error.

        Args:
            most_bytes: of the journal, in this look.
        """
        stage = _stage_of(self.named)
        if stage != self.folder:
            self._begin(stage)
        for name in _DOCUMENTS:
            self._again(f"{name}.json")
        self._again("recipe.yaml")
        self._read_on(most_bytes)
        self.ranks = self._signs()
        self.problems = tuple(self._found.values())[:_MOST_PROBLEMS]

    def glance(self) -> str:
        """The state, by status.json and result.json alone."""
        stage = _stage_of(self.named)
        if stage != self.folder:
            self._begin(stage)
        for name in ("status.json", "result.json"):
            self._again(name)
        return self.state

    @property
    def state(self) -> str:
        """`running`, `silent`, `finished`, `interrupted`, `failed` or `unknown`."""
        said = str(self.documents.get("status", {}).get("state") or "")
        if said not in ("running", "finished", "interrupted", "failed"):
            return "finished" if self.documents.get("result") else "unknown"
        return "silent" if said == "running" and self.quiet_seconds > _SILENT_SECONDS else said

    @property
    def quiet_seconds(self) -> float:
        """Since the run last touched one of its files."""
        touched = [seen[2] / 1e9 for name in ("lock.json", "metrics.jsonl", "status.json")
                   if (seen := _stamp(self.folder / name))]  # fmt: skip
        return max(0.0, self._clock() - max(touched)) if touched else 0.0

    @property
    def updates(self) -> int | None:
        """How many the plan has."""
        choice = self.documents.get("plan", {}).get("updates")
        value = choice.get("value") if isinstance(choice, Mapping) else None
        return value if isinstance(value, int) and value > 0 else None

    def _again(self, name: str) -> None:
        """A small file, if it is another one than last time; one that is gone is empty."""
        path, key = self.folder / name, name.split(".")[0]
        stamp = _stamp(path)
        if stamp == self._seen.get(name) and stamp is not None:
            return
        self._found.pop(name, None)
        with self._said(name):
            try:
                if name == "recipe.yaml":
                    self.recipe = read_bytes(path, most_bytes=_RECIPE_BYTES, links=False).decode(
                        "utf-8", "replace"
                    )
                else:
                    self.documents[key] = read_object(path, most_bytes=_DOCUMENT_BYTES, links=False)
            except FileNotFoundError:
                self.documents.pop(key, None)
        if stamp is not None:
            self._seen[name] = stamp

    def _read_on(self, most_bytes: int) -> None:
        self._found.pop("metrics.jsonl", None)
        with self._said("metrics.jsonl"):
            look = self._follower.look(most_bytes)
            if look.anew:
                self.journal = Journal()
            for line in look.lines:
                self.journal.take(line)
            self.left_bytes = look.left_bytes
            for problem in look.problems[:_MOST_PROBLEMS]:
                self._found[problem] = problem

    def _signs(self) -> tuple[Rank, ...]:
        """Signs of life that ranks leave in RUN/logs, of the newest start."""
        found: list[SignFile] = []
        with suppress(OSError):
            names = sorted(entry.name for entry in os.scandir(self.folder / "logs"))
            for name in [name for name in names if name.startswith("beat-")][:_MOST_RANKS]:
                with suppress(OSError, Damaged):
                    path = self.folder / "logs" / name
                    found.append(checked(read_object(path, most_bytes=_SIGN_BYTES, links=False), SignFile))
        newest = max((sign["restart"] for sign in found), default=0)
        # Ranks of an earlier, larger start leave theirs behind.
        size = next((sign["size"] for sign in found if sign["rank"] == 0 and sign["restart"] == newest), 0)
        return tuple(
            Rank(
                rank=sign["rank"],
                host=sign["host"],
                update=sign["update"],
                phase=sign["phase"],
                age_seconds=max(0.0, self._clock() - sign["at"]),
            )
            for sign in found
            if sign["restart"] == newest and sign["rank"] < size
        )

    def _said(self, name: str) -> _Said:
        return _Said(name, self._found)


@dataclass
class _Said:
    """A file that cannot be used is among the problems afterwards."""

    name: str
    found: dict[str, str]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError):
            self.found[self.name] = f"{self.name} could not be read: {error.strerror}."
        elif isinstance(error, Damaged):
            self.found[self.name] = f"{self.name} {error}."
        return isinstance(error, (OSError, Damaged))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stage_of(run: Path) -> Path:
    """Of a run with stages the directory of the last one that has begun."""
    try:
        path = run / "stages.json"
        stages = checked(read_object(path, most_bytes=_DOCUMENT_BYTES, links=False), StagesFile)["stages"]
    except (OSError, Damaged):
        return run
    begun = [entry["folder"] for entry in stages if entry["folder"] is not None]
    return run / "stages" / begun[-1] if begun else run

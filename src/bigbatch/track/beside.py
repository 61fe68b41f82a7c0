"""The process beside a run that sends it to a tracker, and what the run says of it.

The run starts it and never waits for it: with every record it asks whether the process lives, and every ten seconds
for the size of what the process has sent. A tracker that is dead, slow or full is an event, once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bigbatch.errors import Problem, RecipeError, UsageError
from bigbatch.protocols import Observer
from bigbatch.recipe.machine import TRACKERS
from bigbatch.records import Event, Record
from bigbatch.report.text import clean, shorten
from bigbatch.stored import Damaged, read_bytes
from bigbatch.track.kinds import check_kind
from bigbatch.written import make_folder, open_append, remove

_LOOK_SECONDS = 10.0
_SLOW_SECONDS = 120.0
_LOG_BYTES = 2**20


def check_trackers(observers: Sequence[str | Observer]) -> None:
    """Whether the trackers among a recipe's observers are installed: before anything is computed.

    Raises:
        RecipeError: with what to install.
    """
    problems = []
    for place, name in enumerate(observers):
        if isinstance(name, str) and name in TRACKERS:
            try:
                check_kind(name)
            except UsageError as error:
                problems.append(Problem(where="recipe", key=f"observers[{place}]", what=str(error)))
    if problems:
        raise RecipeError(problems)


def start_beside(run: Path, kind: str) -> subprocess.Popen[bytes]:
    """Start the process; it outlives this one until it has sent everything.

    Args:
        run: the run directory.
        kind: of tracker.

    Raises:
        OSError: it could not be started.
    """
    folder = run / "track"
    make_folder(folder)
    with suppress(FileNotFoundError):
        remove(folder / f"{kind}.log")
    with open_append(folder / f"{kind}.log") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bigbatch", "track", str(run), "--to", kind, "--follow"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            # The user's own use of Weights & Biases has a server that would end with this process.
            env={key: value for key, value in os.environ.items() if not key.startswith("WANDB_SERVICE")},
        )


def with_trackers(
    observers: Sequence[str | Observer], on_event: Callable[[Event], None]
) -> tuple[list[str | Observer], list[Beside]]:
    """The observers with trackers in the place of their names, and those trackers.

    Raises:
        RecipeError: a tracker that is not installed.
    """
    check_trackers(observers)
    found = [Beside(one, on_event) if isinstance(one, str) and one in TRACKERS else one for one in observers]
    return [*found], [one for one in found if isinstance(one, Beside)]


class Beside:
    """An observer that starts the process with the first record, and says when something is wrong with it."""

    def __init__(
        self,
        kind: str,
        on_event: Callable[[Event], None],
        *,
        start: Callable[[Path, str], subprocess.Popen[bytes]] = start_beside,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is started yet.

        Args:
            kind: of tracker.
            on_event: is told what goes wrong.
            start: starts the process.
            clock: seconds.
        """
        self._kind, self._on_event, self._start, self._clock = kind, on_event, start, clock
        self.folder: Path | None = None
        """The run directory, once there is one."""
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False
        self._looked = self._moved = 0.0
        self._stamp: tuple[int, int] | None = None

    def __call__(self, record: Record) -> None:
        """Never waits."""
        folder = self.folder
        if self._over or folder is None:
            return
        now = self._clock()
        if self._process is None:
            self._begin(folder, record, now)
        elif self._process.poll() not in (None, 0):
            self._say(
                record,
                f"its process ended with code {self._process.returncode}: {_last_line(folder, self._kind)}",
            )
        elif now - self._looked >= _LOOK_SECONDS:
            self._look(folder, record, now)

    def _begin(self, folder: Path, record: Record, now: float) -> None:
        try:
            self._process = self._start(folder, self._kind)
        except OSError as error:
            self._say(record, f"its process could not be started: {error}")
        self._looked = self._moved = now

    def _look(self, folder: Path, record: Record, now: float) -> None:
        self._looked = now
        stamp = None
        with suppress(OSError):
            found = (folder / "track" / f"{self._kind}.json").lstat()
            stamp = found.st_size, found.st_mtime_ns
        if stamp != self._stamp:
            self._stamp, self._moved = stamp, now
        elif now - self._moved >= _SLOW_SECONDS:
            self._say(record, f"nothing was sent for {now - self._moved:.0f} s", over=False)
            self._moved = float("inf")

    def _say(self, record: Record, why: str, *, over: bool = True) -> None:
        self._over = over
        did = f"the run goes on; send it later: bigbatch track RUN --to {self._kind}"
        self._on_event(Event(step=record.step, event="tracker_failed", why=f"{self._kind}: {why}", did=did))


def _last_line(run: Path, kind: str) -> str:
    try:
        lines = read_bytes(run / "track" / f"{kind}.log", most_bytes=_LOG_BYTES, links=False).decode(
            "utf-8", "replace"
        )
    except (OSError, Damaged):
        return "it left no log"
    said = [line for line in lines.splitlines() if line.strip()]
    return shorten(clean(said[-1]), 300) if said else "it said nothing"

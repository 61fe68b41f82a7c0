"""Training runs as processes of their own, several at a time; a signal reaches each of them once."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from bigbatch.written import make_folders, open_append

SAID_LINES = 5
"""Last lines of a run that failed, kept as the reason."""
_LOOK_SECONDS = 0.1
_SIGNAL_AT_PARENTS_DEATH = 1
"""Linux: PR_SET_PDEATHSIG of prctl(2)."""
_CHILD = (
    "import sys; from bigbatch.study.children import end_with; end_with(int(sys.argv.pop(1))); "
    "from bigbatch.cli import main; main()"
)
_WATCHED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Work:
    """One process to be started."""

    name: str
    words: Sequence[str]
    """Behind `bigbatch`."""
    log: Path
    """Gets what it says; what an earlier start said stays above."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended."""

    name: str
    code: int
    """Exit code; negative: the signal that killed it."""
    seconds: float
    said: str
    """Last lines of its log."""


@dataclass(kw_only=True)
class Signals:
    """What came while the processes ran."""

    first: signal.Signals | None = None
    running: dict[str, _Running] = field(default_factory=dict)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Pass it on: the first lets a run save its last update, a second ends it at once."""
        self.first = self.first or signal.Signals(number)
        for one in list(self.running.values()):
            one.process.send_signal(number)


@dataclass(frozen=True, kw_only=True)
class _Running:
    work: Work
    process: subprocess.Popen[bytes]
    started: float
    log_bytes: int


def run_all(
    waiting: list[Work],
    parallel: int,
    *,
    may_start: Callable[[], bool],
    begun: Callable[[Work], None],
    ended: Callable[[Ended], None],
) -> signal.Signals | None:
    """Run them in order, `parallel` at a time, until none is left or `may_start` says no.

    Args:
        waiting: those not started yet; started ones are taken out of it.
        parallel: processes at a time.
        may_start: asked before each start.
        begun: told of each start.
        ended: told of each end.

    Returns:
        The signal that ended it early; None when there was none.
    """
    with _signals() as signals:
        running = signals.running
        try:
            while True:
                while waiting and len(running) < parallel and signals.first is None and may_start():
                    work = waiting.pop(0)
                    begun(work)
                    running[work.name] = _start(work)
                    if signals.first is not None:  # it came between the two
                        running[work.name].process.send_signal(signals.first)
                for one in [one for one in running.values() if one.process.poll() is not None]:
                    del running[one.work.name]
                    ended(_end(one, signals.first))
                if not running and (not waiting or signals.first is not None or not may_start()):
                    return signals.first
                time.sleep(_LOOK_SECONDS)
        finally:
            # Left by an error of our own: nobody would watch them any more.
            for one in running.values():
                one.process.terminate()
            for one in running.values():
                one.process.wait()


def _start(work: Work) -> _Running:
    make_folders(work.log.parent)
    with open_append(work.log) as log:
        before = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, str(os.getpid()), *work.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C comes to the parent, which passes it on once.
            start_new_session=True,
        )
    return _Running(work=work, process=process, started=time.monotonic(), log_bytes=before)


def _end(one: _Running, signalled: signal.Signals | None) -> Ended:
    """One that a signal met before it could handle it ends with some code of the interpreter's."""
    with one.work.log.open("rb") as log:
        log.seek(one.log_bytes)
        lines = log.read().decode("utf-8", "replace").strip().splitlines()
    return Ended(
        name=one.work.name,
        code=128 + signalled if signalled and one.process.returncode else one.process.returncode,
        seconds=time.monotonic() - one.started,
        said="\n".join(lines[-SAID_LINES:]),
    )


def end_with(parent: int) -> None:
    """Called in the child: SIGTERM when the parent is gone, however it went. Only Linux can do it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SIGNAL_AT_PARENTS_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # it went before that
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _signals() -> Iterator[Signals]:
    """Handlers for SIGINT and SIGTERM; only the main thread can have them."""
    signals = Signals()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, signals.handle) for number in _WATCHED}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

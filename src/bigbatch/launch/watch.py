"""Watches the signs of life of all ranks: which one has fallen silent, which one the others wait for.

Times are the watcher's own, taken when it sees a sign change, so that clocks of different hosts need not agree.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigbatch.processes import catches, descends, is_running, send_signal, this_machine, was_given
from bigbatch.recipe.layers import WORKER_VARIABLE
from bigbatch.run.beat import WAITING, Sign, read_signs

Say = Callable[[str], None]
Look = Callable[[Sign], str | None]
"""State of a rank's process, such as `T (stopped)`; `gone` when there is none, None when it cannot be found out."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a rank may be quiet."""

    silent_seconds: float = 20.0
    """Without a sign of life."""
    stuck_seconds: float = 40.0
    """Without a step of work, while others wait."""
    look_seconds: float = 2.0
    """Between two looks."""


@dataclass
class _Seen:
    """What is remembered of one rank."""

    sign: Sign
    beat_at: float
    """Seconds of the watcher's clock: the newest sign."""
    tick_at: float
    """The newest step of work."""


@dataclass(frozen=True)
class Trouble:
    """One rank that does not go on."""

    sign: Sign
    seconds: float
    silent: bool
    """No sign at all; else it lives and does not move."""

    def told(self, state: str | None) -> str:
        """`rank 2 on host b has not answered for 41 s: update 17, phase accumulate; process state T (stopped)`."""
        sign = self.sign
        what = "has not answered" if self.silent else "has not moved"
        where = (
            "before the first update"
            if sign.phase == "starting"
            else f"update {sign.update}, phase {sign.phase}"
        )
        seen = f"; process {sign.pid} has state {state}" if state else f"; process {sign.pid}"
        return f"rank {sign.rank} on {sign.host} {what} for {self.seconds:.0f} s: {where}{seen}"


@dataclass
class Watch:
    """Judges what it is shown; knows no files, threads or clocks."""

    patience: Patience = field(default_factory=Patience)
    _seen: dict[int, _Seen] = field(default_factory=dict)

    def see(self, signs: Sequence[Sign], now: float) -> list[Trouble]:
        """The ranks that do not go on.

        Args:
            signs: the newest one of each rank.
            now: seconds of the watcher's clock.
        """
        self._seen = {sign.rank: self._noted(sign, now) for sign in signs}
        living = [seen for seen in self._seen.values() if seen.sign.phase != "ended"]
        silent = [seen for seen in living if now - seen.beat_at > self.patience.silent_seconds]
        if silent:
            # The others only wait for these.
            return [Trouble(seen.sign, now - seen.beat_at, True) for seen in silent]
        busy = [seen for seen in living if seen.sign.phase not in (*WAITING, "starting")]
        if len(living) < 2 or not busy:
            return []
        stuck = [seen for seen in busy if now - seen.tick_at > self.patience.stuck_seconds]
        # Others wait, or nobody moves: in an evaluation a rank that is done looks like one that hangs.
        waited_for = len(busy) < len(living) or len(stuck) == len(busy)
        return [Trouble(seen.sign, now - seen.tick_at, False) for seen in stuck] if waited_for else []

    def _noted(self, sign: Sign, now: float) -> _Seen:
        before = self._seen.get(sign.rank)
        if before is None or (before.sign.pid, before.sign.restart) != (sign.pid, sign.restart):
            return _Seen(sign, now, now)
        beat_at = now if sign.beats != before.sign.beats else before.beat_at
        tick_at = now if sign.ticks != before.sign.ticks else before.tick_at
        return _Seen(sign, beat_at, tick_at)


class Watcher:
    """Context manager: a thread that reads the signs in a folder and says which rank does not go on."""

    def __init__(
        self,
        folder: Path,
        say: Say,
        *,
        patience: Patience | None = None,
        timeout_seconds: float | None = None,
        give_up: Callable[[], None] = lambda: None,
        look: Look | None = None,
        of: Callable[[Sign], bool] = lambda sign: True,
        is_ours: Callable[[int], bool] = lambda pid: False,
    ) -> None:
        """Ready to watch.

        Args:
            folder: where the signs are.
            say: told about each rank once, and again when it goes on.
            patience: None: the usual one.
            timeout_seconds: after this long without an answer `give_up` is called, once; None: never.
            give_up: ends the group.
            look: finds out the state of a process; None: on this machine.
            of: which ranks are watched.
            is_ours: whether a process of this machine is one of the group: only those are asked for their stack.
        """
        self._folder, self._say, self._of, self._is_ours = folder, say, of, is_ours
        self._watch = Watch(patience or Patience())
        self._timeout, self._give_up, self._look = timeout_seconds, give_up, look or look_here
        self._named: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="watch", daemon=True)
        self.verdict: str | None = None
        """Why the group was given up."""

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Watcher:
        """As entering, for callers whose end is not that of a block."""
        return self.__enter__()

    def close(self) -> None:
        """Watch no longer."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _go_on(self) -> None:
        while not self._ended.wait(self._watch.patience.look_seconds):
            signs = read_signs(self._folder)
            troubles = self._watch.see(signs, time.monotonic())
            self._tell([trouble for trouble in troubles if self._of(trouble.sign)])

    def _tell(self, troubles: Sequence[Trouble]) -> None:
        states = {trouble.sign.rank: self._look(trouble.sign) for trouble in troubles}
        # Whoever started it sees a process that is gone, and says so or starts it again.
        troubles = [trouble for trouble in troubles if states[trouble.sign.rank] != "gone"]
        for trouble in troubles:
            rank = trouble.sign.rank
            if rank not in self._named:
                self._named.add(rank)
                self._say(trouble.told(states[rank]))
                if not trouble.silent:
                    # It lives: it writes its Python stack to its log.
                    signal_rank(
                        trouble.sign,
                        signal.SIGUSR1,
                        lambda pid: catches(pid, signal.SIGUSR1) and self._is_ours(pid),
                    )
        for rank in self._named - {trouble.sign.rank for trouble in troubles}:
            self._named.discard(rank)
            self._say(f"rank {rank} goes on")
        late = [each for each in troubles if self._timeout is not None and each.seconds > self._timeout]
        if late and self.verdict is None:
            self.verdict = f"{late[0].told(states[late[0].sign.rank])}; launch.timeout is over"
            self._give_up()


def look_here(sign: Sign) -> str | None:
    """State of a process of this machine; None for other machines and systems without /proc."""
    here = sign.machine == this_machine() if sign.machine else sign.host == socket.gethostname()
    if not Path("/proc/self/status").exists() or not here:
        return None
    try:
        state = process_state(Path(f"/proc/{sign.pid}/status").read_text())
    except OSError:
        return None if is_running(sign.pid, sign.start) else "gone"
    return state if is_running(sign.pid, sign.start) else "gone"


def process_state(status: str) -> str | None:
    """`T (stopped)` from the contents of /proc/PID/status."""
    lines = [line for line in status.splitlines() if line.startswith("State:")]
    return lines[0].partition(":")[2].strip() if lines else None


def signal_rank(sign: Sign, number: int, is_ours: Callable[[int], bool]) -> bool:
    """Signal the process that a sign names, if there is such a one and it is ours: a sign is a file that others may
    have written.

    Args:
        sign: names a process of this machine or of another one.
        number: of the signal.
        is_ours: whether a process id belongs to this launch.

    Returns:
        Whether it was sent.
    """
    return send_signal(sign.pid, number, machine=sign.machine, start=sign.start, is_ours=is_ours)


def launched_from(folder: Path) -> Callable[[int], bool]:
    """Whether a process is a worker of the launch whose folder this is: it was given the folder's name, which nobody
    else knows, or descends from this process.
    """
    return lambda pid: was_given(pid, WORKER_VARIABLE, str(folder)) or descends(pid, os.getpid())

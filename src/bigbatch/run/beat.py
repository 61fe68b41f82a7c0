"""Signs of life: what this rank is doing, in a small file that whoever watches the group reads.

A thread writes it every few seconds, so it goes on while the rank computes; a process that was stopped, or whose
machine is gone, falls silent. `ticks` says whether the rank itself moves.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bigbatch.documents import Phase, SignFile, checked
from bigbatch.processes import process_start, this_machine
from bigbatch.stored import Damaged, read_object
from bigbatch.written import make_folders, replace_text

EVERY_SECONDS = 5.0
_MOST_BYTES = 2**16
WAITING: tuple[Phase, ...] = ("reduce", "waiting", "ended")
"""Phases in which a rank has done its part, or waits for others."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One sign of life."""

    rank: int
    size: int
    """Ranks of the group."""
    host: str
    pid: int
    start: str = ""
    """When the process started, in the system's words."""
    machine: str = ""
    """Where process ids mean what they mean here; the host is only a name."""
    restart: int
    """How often the group had been started before."""
    update: int
    """1-based number of the update in progress; 0 before the first."""
    phase: Phase
    beats: int
    """Counts signs: it stands still when the process does."""
    ticks: int
    """Counts steps of the work, such as micro-batches: it stands still when the rank hangs."""
    at: float
    """Seconds since the epoch, by this host's clock."""


class Beat:
    """Writes signs of life of one rank, once it knows where to."""

    def __init__(
        self,
        *,
        rank: int = 0,
        size: int = 1,
        host: str = "",
        restart: int = 0,
        every_seconds: float = EVERY_SECONDS,
    ) -> None:
        """In the phase `starting`.

        Args:
            rank: this process.
            size: ranks of the group.
            host: name of this machine, for messages.
            restart: how often the group had been started before.
            every_seconds: time between two signs.
        """
        self.rank = rank
        pid = os.getpid()
        which = {"pid": pid, "start": process_start(pid) or "", "machine": this_machine()}
        self._facts = {"rank": rank, "size": size, "host": host, "restart": restart, **which}
        self._state: tuple[int, Phase] = (0, "starting")
        self._ticks = self._beats = 0
        self._every = every_seconds
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._folders: tuple[Path, ...] = ()
        self.closing = ExitStack()
        """What ends with it."""

    def begin(self, folder: Path) -> None:
        """Write signs into a folder on a disk that the watcher sees."""
        self._folders = (folder,)
        with suppress(AttributeError, ValueError, OSError):  # no such signal, or no standard error
            # Works in C: also where Python itself cannot go on.
            faulthandler.register(signal.SIGUSR1, file=sys.__stderr__ or sys.stderr, all_threads=True)
        self._thread = threading.Thread(target=self._go_on, name="beat", daemon=True)
        self._thread.start()

    def also(self, folder: Path) -> None:
        """Write each sign into this folder too, for those who follow the run by its files."""
        with suppress(OSError):
            make_folders(folder)
            self._folders = (*self._folders, folder)

    def at(self, update: int, phase: Phase) -> None:
        """The rank is here now."""
        self._state = (update, phase)
        self._ticks += 1

    def phase(self, phase: Phase) -> None:
        """The rank does this now, in the same update."""
        self.at(self._state[0], phase)

    def tick(self) -> None:
        """The rank has done a piece of its work."""
        self._ticks += 1

    def close(self) -> None:
        """Say that nothing more is to be expected."""
        self.closing.close()
        self.phase("ended")
        self._ended.set()
        if self._thread is not None:
            self._thread.join(self._every)
            self._thread = None
            self._write()

    def _go_on(self) -> None:
        while not self._ended.is_set():
            self._write()
            self._ended.wait(self._every)

    def _write(self) -> None:
        self._beats += 1
        update, phase = self._state
        sign = {
            **self._facts,
            "update": update,
            "phase": phase,
            "beats": self._beats,
            "ticks": self._ticks,
            "at": time.time(),
        }
        for folder in self._folders:
            with suppress(OSError):  # a full disk must not end a run that computes
                replace_text(folder / sign_name(self.rank), json.dumps(sign), durable=False)


def sign_name(rank: int) -> str:
    """`beat-0003.json`."""
    return f"beat-{rank:04d}.json"


def read_signs(folder: Path) -> list[Sign]:
    """The newest sign of every rank of the newest start, in rank order."""
    found = []
    for path in folder.glob("beat-*.json"):
        with suppress(OSError, Damaged):
            found.append(Sign(**checked(read_object(path, most_bytes=_MOST_BYTES), SignFile)))
    newest = max((sign.restart for sign in found), default=0)
    first = next((sign for sign in found if sign.rank == 0 and sign.restart == newest), None)
    size = first.size if first is not None else 0
    return sorted(
        (sign for sign in found if sign.restart == newest and sign.rank < size), key=lambda sign: sign.rank
    )


NO_BEAT = Beat()
"""For a process that nobody watches."""

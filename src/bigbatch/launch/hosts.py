"""A group on several machines, from the first question to the last exit: who is lost, who goes on, what is said."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.endings import worker_pids
from bigbatch.launch.local import Passing, Say, outcome
from bigbatch.launch.passed import resolved_keys, write_resolved
from bigbatch.launch.ssh import SSH_FAILED, Call, Hosts, agent_on, ask, look_there, ranks_on
from bigbatch.launch.watch import Watcher, launched_from
from bigbatch.written import make_folders

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe


_POLL_SECONDS = 0.2
_NUDGE_SECONDS = 20.0
"""After a host is lost: survivors that have not noticed by then are started again by hand."""
END_NOW, START_AGAIN = signal.SIGUSR1, signal.SIGUSR2
"""What agents understand beside signals for the workers."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be started on the hosts."""

    recipe: str | None
    """As typed; None: what is computed lies on the shared disk."""
    loaded: Recipe | None
    """The recipe as it was resolved here; None as above."""
    changes: Sequence[str]
    words: Sequence[str]
    """The command of every worker, behind `bigbatch`."""
    ranks: int | str | None
    """Over all hosts; `auto` or None: one for each accelerator, and at least one on each host."""
    max_restarts: int
    min_nodes: int | None
    """Fewest hosts to go on with; None: all."""
    timeout_seconds: float
    grace_seconds: float
    shared: Path
    """A folder on the disk that all hosts share."""

    @property
    def keys(self) -> dict[str, str] | None:
        """Digests of the recipe's keys."""
        return None if self.loaded is None else resolved_keys(self.loaded)


@dataclass(eq=False)
class Remote:
    """One host's agent, seen from here."""

    host: str
    process: subprocess.Popen[str]
    last_error: str = ""
    """The last line it said."""
    threads: list[threading.Thread] = field(default_factory=list)

    def tell(self, number: int) -> None:
        """Pass on a signal."""
        with suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.write(f"{int(number)}\n")
            self.process.stdin.flush()

    def relay(self) -> None:
        """Print what it says, with its name in front."""
        for source, target in ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr)):
            assert source is not None
            thread = threading.Thread(target=self._relay, args=(source, target), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _relay(self, source: TextIO, target: TextIO) -> None:
        for line in source:
            if target is sys.stderr and line.strip():
                self.last_error = line.strip()
            print(f"[{self.host}] {line}", end="", file=target, flush=True)

    def close(self) -> None:
        """Let go of it, in whatever state it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError):
                assert stream is not None
                stream.close()


def run_hosts(hosts: Hosts, wanted: Wanted, say: Say) -> int:
    """Ask the hosts, start the workers, wait for their end.

    Args:
        hosts: where, and how they are reached.
        wanted: what runs on them.
        say: told of the start, and how it ended.

    Returns:
        The exit code of the first rank that failed by itself, or 0.

    Raises:
        UsageError: the hosts differ, or are too few.
        MachineError: a host that cannot be reached, or was lost.
    """
    least = wanted.min_nodes or len(hosts.names)
    if len(set(hosts.names)) < len(hosts.names) or not 1 <= least <= len(hosts.names):
        raise UsageError(
            f"hosts {', '.join(hosts.names)}, launch.min_nodes {least}: expected distinct hosts, and no more "
            "than there are"
        )
    make_folders(wanted.shared)
    with tempfile.TemporaryDirectory(prefix="launch-", dir=wanted.shared) as temporary:
        folder = Path(temporary).resolve()
        facts = ask(hosts, wanted.recipe, wanted.changes, folder, wanted.keys)
        if wanted.loaded is not None:
            write_resolved(folder, wanted.loaded)
        ranks = ranks_on(facts, wanted.ranks)
        say("starts " + ", ".join(f"{count} on {host}" for host, count in ranks.items()))
        restarts = max(wanted.max_restarts, len(hosts.names) - least)
        remotes = []
        try:
            for host in hosts.names:
                call = agent_on(
                    hosts, host, facts, launch_folder=folder, ranks=ranks[host], min_nodes=least,
                    max_restarts=restarts, words=wanted.words,
                )  # fmt: skip
                remotes.append(_started(host, call))
            return _Waiting(hosts, wanted, folder, remotes, least, say).result()
        finally:
            for remote in remotes:
                remote.close()


def _started(host: str, call: Call) -> Remote:
    pipe = subprocess.PIPE
    # Ctrl-C comes here; the agents pass it on once.
    process = subprocess.Popen(
        call.words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1, start_new_session=True
    )
    remote = Remote(host, process)
    remote.relay()
    with suppress(OSError):  # it is gone, and its exit code says so
        assert process.stdin is not None
        process.stdin.write(call.line)
        process.stdin.flush()
    return remote


@dataclass
class _Waiting:
    """What happens until the last agent has ended."""

    hosts: Hosts
    wanted: Wanted
    folder: Path
    remotes: Sequence[Remote]
    least: int
    say: Say
    lost: dict[str, str] = field(default_factory=dict)
    """Host -> what ssh said."""
    deadline: float | None = None
    """When whoever is left is ended by force."""
    nudge: tuple[float, dict[int, int]] | None = None
    """When survivors are started again, if their processes are still these."""

    def result(self) -> int:
        watcher = Watcher(
            self.folder,
            self.say,
            timeout_seconds=self.wanted.timeout_seconds,
            give_up=partial(self._tell_all, END_NOW),
            look=partial(look_there, self.hosts),
            is_ours=launched_from(self.folder),
        )
        with Passing([remote.process for remote in self.remotes]) as signals, watcher:
            while any(remote.process.poll() is None for remote in self.remotes):
                self._look()
                time.sleep(_POLL_SECONDS)
            self._look()
        if watcher.verdict is not None:
            raise MachineError(watcher.verdict)
        codes = [r.process.returncode for r in self.remotes if r.host not in self.lost]
        went_on = len(codes) >= self.least and not any(codes)
        if self.lost and not went_on and signals.first is None:
            raise MachineError("; ".join(f"host {host} is gone ({why})" for host, why in self.lost.items()))
        code = outcome(self.folder, max(codes, default=0, key=abs), signals.first, self.say)
        return 128 + signals.first if signals.first is not None and code > 128 else code

    def _look(self) -> None:
        for remote in self.remotes:
            code = remote.process.poll()
            if code is not None and remote.host not in self.lost and (code == SSH_FAILED or code < 0):
                self._note_lost(remote)
            elif code and self.deadline is None and self.least == len(self.remotes):
                # The others cannot go on; most notice by themselves.
                self.deadline = time.monotonic() + self.wanted.grace_seconds + 30
        if self.nudge is not None and time.monotonic() > self.nudge[0]:
            if worker_pids(self.folder) == self.nudge[1]:
                self._tell_all(START_AGAIN)
            self.nudge = None
        if self.deadline is not None and time.monotonic() > self.deadline:
            self._tell_all(END_NOW)
            self.deadline = time.monotonic() + 15
            for remote in self.remotes:
                remote.process.terminate()

    def _note_lost(self, remote: Remote) -> None:
        self.lost[remote.host] = remote.last_error or "the connection ended"
        left = len(self.remotes) - len(self.lost)
        if left >= self.least:
            self.say(f"host {remote.host} is gone ({self.lost[remote.host]}); {left} can go on")
            self.nudge = (time.monotonic() + _NUDGE_SECONDS, worker_pids(self.folder))
            return
        self._tell_all(signal.SIGTERM)
        self.deadline = time.monotonic() + self.wanted.grace_seconds + 10

    def _tell_all(self, number: int) -> None:
        for remote in self.remotes:
            if remote.process.poll() is None:
                remote.tell(number)

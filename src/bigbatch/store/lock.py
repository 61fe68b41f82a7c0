"""One process at a time in a run directory, on one machine or on many that share a disk.

The lock is `RUN/lock.json`: who holds it, with the file's modification time as heartbeat. Whether its holder
is alive is decided by

1. the process table, when reader and holder are on the same machine (same boot, same process namespace: equal
   host names alone also occur in containers) and of the same user, since others' processes may be hidden. The start
   time tells a reused process id from the holder;
2. the heartbeat: older than 60 s is stale. Its age is measured against a file just written next to it, so the
   clock is the file system's and a wrong clock on either machine does not matter.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from bigbatch.documents import LockFile, checked
from bigbatch.errors import MachineError, RunLocked
from bigbatch.processes import is_running, process_start, this_machine
from bigbatch.store.durable import atomic_write_json, disk_error, make_folders
from bigbatch.stored import Damaged, read_object
from bigbatch.written import beside, open_kept, open_new, remove

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_GUARD_SECONDS = 3.0
_MOST_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Contents of lock.json."""

    host: str
    pid: int
    process_start: str
    """Start time of the process as the system tells it; empty when it does not."""
    machine: str
    """Boot and process namespace: process ids mean the same only where this is equal."""
    job_id: str | None
    token: str
    """Random; whose lock this is."""

    def __str__(self) -> str:
        job = f", job {self.job_id}" if self.job_id else ""
        return f"process {self.pid} on {self.host}{job}"


class RunLock:
    """Context manager that owns a run directory, or refuses.

    Example:
        >>> with RunLock(Path("runs/tweets")) as lock:  # doctest: +SKIP
        ...     lock.check()
    """

    def __init__(
        self,
        directory: Path,
        *,
        job_id: str | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.path = (directory.resolve() if directory.is_symlink() else directory) / "lock.json"
        self.note: str | None = None
        """Said when a stale lock was taken over: whose, and why it counts as stale."""
        self._heartbeat_seconds = heartbeat_seconds
        self._stale_seconds = stale_seconds
        self._job_id = job_id
        self._holder: Holder | None = None
        self._lost: str | None = None
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock and start the heartbeat.

        Raises:
            RunLocked: a live process holds it; names host and process.
            DiskError: the directory cannot be written.
        """
        make_folders(self.path.parent)
        holder = this_process(self._job_id)
        with _one_at_a_time(self.path.parent):
            found = read_holder(self.path)
            if self.path.exists():
                self.note = self._take_over(found)
            atomic_write_json(self.path, asdict(holder))
        self._holder, self._lost = holder, None
        self._done.clear()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Called at update boundaries: is the directory still ours?

        Raises:
            RunLocked: the heartbeat found that another process took the lock over, or that it is gone.
        """
        if self._lost:
            raise RunLocked(self._lost)

    def release(self) -> None:
        """Stop the heartbeat and remove the lock if it is still ours. A forked child's copy does nothing."""
        holder, self._holder = self._holder, None
        if holder is None or holder.pid != os.getpid():
            return
        self._done.set()
        if self._thread:
            self._thread.join()
        with contextlib.suppress(OSError, MachineError), _one_at_a_time(self.path.parent):
            if read_holder(self.path) == holder:
                self.path.unlink()

    def __enter__(self) -> RunLock:
        """`acquire`."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`release`."""
        self.release()

    def _take_over(self, found: Holder | None) -> str:
        """Why the lock that is there may be taken; raises RunLocked when it may not."""
        age_seconds = heartbeat_age_seconds(self.path)
        who = str(found) if found else "an unknown process (lock.json is damaged)"
        if found and self._is_certain(found) and not is_running(found.pid, found.process_start):
            return f"took over the lock of {who}: that process is gone"
        if age_seconds > self._stale_seconds:
            return f"took over the lock of {who}: its last heartbeat was {age_seconds:.0f} s ago"
        raise RunLocked(
            f"{self.path.parent} is in use by {who} (heartbeat {age_seconds:.0f} s ago); wait for it, stop "
            f"it, or set run.dir to another folder. If it was killed, its lock ends "
            f"{self._stale_seconds:.0f} s after the last heartbeat"
        )

    def _is_certain(self, found: Holder) -> bool:
        """Whether the process table shows the holder: on this machine, and a process of this user."""
        mine = sys.platform == "win32" or self.path.lstat().st_uid == os.geteuid()
        return mine and found.machine == this_machine()

    def _beat(self) -> None:
        while not self._done.wait(self._heartbeat_seconds):
            try:
                found = holder_of(self.path)
                if found != self._holder:
                    self._lost = f"{self.path.parent} was taken over by {found}"
                    return
                os.utime(self.path)
            except FileNotFoundError:
                self._lost = f"{self.path} was removed: another process may be at work there"
                return
            except (OSError, Damaged):
                continue  # a network disk that hiccups; if it lasts, another process may rightly take over


def this_process(job_id: str | None = None) -> Holder:
    """Who we are."""
    pid = os.getpid()
    return Holder(
        host=socket.gethostname(),
        pid=pid,
        process_start=process_start(pid) or "",
        machine=this_machine(),
        job_id=job_id,
        token=uuid.uuid4().hex,
    )


def read_holder(path: Path) -> Holder | None:
    """Who holds the lock; None when there is none or it is damaged."""
    try:
        return holder_of(path)
    except (OSError, Damaged):
        return None


def holder_of(path: Path) -> Holder:
    """Who holds the lock.

    Raises:
        Damaged: the file says something else.
        OSError: there is none, or it cannot be read.
    """
    return Holder(**checked(read_object(path, most_bytes=_MOST_BYTES), LockFile))


def heartbeat_age_seconds(path: Path) -> float:
    """Seconds since the last heartbeat, by the file system's clock; 0 when the lock is just being removed."""
    probe = beside(path.with_name("clock"))
    try:
        with open_new(probe) as file:
            now = os.fstat(file.fileno()).st_mtime
        return max(0.0, now - path.lstat().st_mtime)
    except FileNotFoundError:
        return 0.0
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            remove(probe)


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Serialise looking at the lock and taking it, so that two processes cannot both take over a stale one.

    A file lock of the system, held for milliseconds: it ends with the process, so it cannot be left behind.
    Where the file system has none, the heartbeat still finds out who was overwritten.
    """
    try:
        handle = open_kept(directory / ".lock-guard")
    except OSError as error:
        raise disk_error(error, directory) from error
    with handle:
        _flock(handle, directory)
        yield


def _flock(handle: BinaryIO, directory: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    for _ in range(int(_GUARD_SECONDS / 0.01)):
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # this file system has no locks
            return None
    raise RunLocked(f"{directory} is in use: another process is starting there; try again")

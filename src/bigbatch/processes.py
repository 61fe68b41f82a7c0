"""Which process is meant, and whether it is ours to signal. A number alone says neither.

Process ids are used again, and mean something else in another container or on another machine, which may have the same
name. So a process is (machine, id, start time), and what a file in a shared folder says of one is only a claim.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType

_MOST_ANCESTORS = 32
Handler = Callable[[int, FrameType | None], object] | int | None
"""What answers a signal, as `signal.signal` gives it back."""


def this_machine() -> str:
    """Text that is equal exactly where process ids mean the same thing: boot and process namespace."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        try:
            parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
            parts.append(os.readlink("/proc/self/ns/pid"))
        except OSError:
            parts.append(uuid.uuid4().hex)  # nothing but the name is known, and names are not enough
    return " ".join(parts)


def is_running(pid: int, start: str) -> bool:
    """Whether the process that started at `start` may still run; a reused process id started later.

    A process that /proc does not show (`hidepid`, no /proc) and that the system still knows counts as running.
    """
    found = process_start(pid)
    if found is None:
        return _is_hidden(pid)
    return not start or not found or found == start


def process_start(pid: int) -> str | None:
    """When a process started, in the system's words: empty if it does not say, None if it is gone or hidden."""
    if sys.platform == "linux":
        found = _stat(pid)
        return None if found is None or found[0] in "ZX" else found[19]  # starttime, in ticks since the boot
    if sys.platform == "win32":  # no standard way to ask; the heartbeat alone decides
        return ""
    return _ps("lstart", pid) or None


def parent_of(pid: int) -> int | None:
    """The process that started it, or who adopted it; None where the system does not say."""
    if sys.platform == "linux":
        found = _stat(pid)
        return None if found is None else int(found[1])
    text = "" if sys.platform == "win32" else _ps("ppid", pid)
    return int(text) if text.isdigit() else None


def descends(pid: int, ancestor: int) -> bool:
    """Whether `ancestor`, which is not the system's first process, started it, or started whoever did."""
    parent: int | None = pid
    for _ in range(_MOST_ANCESTORS):
        parent = parent_of(parent) if parent is not None else None
        if parent is None or parent <= 1:
            return False
        if parent == ancestor:
            return True
    return False


def was_given(pid: int, name: str, value: str) -> bool:
    """Whether a process started with this environment variable. Only its owner can read that, and only on Linux.

    Args:
        pid: its number.
        name: of the variable.
        value: exactly this one.
    """
    with contextlib.suppress(OSError):
        return f"{name}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def catches(pid: int, number: int) -> bool:
    """Whether a process has something to do on a signal, so that it does not end of it; true where nobody can say."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
        return not masks or bool(masks[0] >> (number - 1) & 1)
    return sys.platform != "linux"


def send_signal(pid: int, number: int, *, machine: str, start: str, is_ours: Callable[[int], bool]) -> bool:
    """Signal a process, if it is the one that is meant.

    Args:
        pid: claimed.
        number: of the signal.
        machine: claimed; must be this one.
        start: claimed start time; must be its own.
        is_ours: whether a process is one that the caller, or the caller's own parent, could have started.

    Returns:
        Whether it was sent.
    """
    if pid <= 1 or pid == os.getpid() or not start or machine != this_machine():
        return False
    with contextlib.suppress(OSError), _held(pid) as send:
        # Looked at after it is held: the id cannot be another process's any more.
        if process_start(pid) == start and is_ours(pid):
            send(number)
            return True
    return False


@contextlib.contextmanager
def _held(pid: int):
    """A way to signal this process and no later one of the same id, where the system has one."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        yield lambda number: os.kill(pid, number)
        return
    handle = os.pidfd_open(pid)
    try:
        yield lambda number: signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def _is_hidden(pid: int) -> bool:
    """Of a process that cannot be looked at: whether there is one. Signal 0 asks, and is not sent."""
    if sys.platform == "win32":
        return False
    if _stat(pid) is not None:  # it can be looked at: it has ended, and nobody has waited for it
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on; None without one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _ps(what: str, pid: int) -> str:
    asked = subprocess.run(
        ["ps", "-o", f"{what}=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()

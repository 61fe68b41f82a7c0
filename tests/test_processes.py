"""Whose process a number is, and that none but ours is signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from bigbatch import processes
from bigbatch.processes import (
    catches,
    descends,
    is_running,
    parent_of,
    process_start,
    send_signal,
    this_machine,
    was_given,
)

SLEEP = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); print(1, flush=True); time.sleep(60)"


@pytest.fixture
def sleeper():
    """A child of this process that ends with 7 on SIGUSR1."""
    environ = {**os.environ, "MARK": "this one"}
    process = subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE, env=environ)
    assert process.stdout is not None and process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def _send(process: subprocess.Popen[bytes], **changes) -> bool:
    claimed = {
        "machine": this_machine(),
        "start": process_start(process.pid) or "",
        "is_ours": lambda pid: descends(pid, os.getpid()),
        **changes,
    }
    return send_signal(process.pid, signal.SIGUSR1, **claimed)


def test_our_own_process_is_signalled(sleeper):
    assert parent_of(sleeper.pid) == os.getpid() and descends(sleeper.pid, os.getpid())
    assert was_given(sleeper.pid, "MARK", "this one") and not was_given(sleeper.pid, "MARK", "this")
    assert catches(sleeper.pid, signal.SIGUSR1) and not catches(sleeper.pid, signal.SIGUSR2)
    assert _send(sleeper)
    assert sleeper.wait(20) == 7


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": "another"},
        {"machine": ""},
        {"machine": os.uname().nodename},
        {"start": ""},
        {"start": "1"},
        {"is_ours": lambda pid: False},
        {"is_ours": lambda pid: was_given(pid, "MARK", "another")},
        {"is_ours": lambda pid: descends(pid, pid)},
    ],
    ids=["machine", "no machine", "name of it", "no start", "start", "not ours", "mark", "itself"],
)
def test_one_that_is_not_meant_is_left_alone(sleeper, changes):
    """A container of the same name, a reused number, somebody else's process whose facts a file gives rightly."""
    assert not _send(sleeper, **changes)
    time.sleep(0.05)
    assert sleeper.poll() is None


def test_no_group_of_processes_is_ever_signalled():
    for pid in (-1, 0, 1, os.getpid()):
        claimed = {
            "machine": this_machine(),
            "start": process_start(os.getpid()) or "",
            "is_ours": lambda pid: True,
        }
        assert not send_signal(pid, signal.SIGTERM, **claimed)


def test_a_process_that_the_system_hides_counts_as_running(monkeypatch, sleeper):
    """/proc with hidepid: signal 0 still says that there is one."""
    monkeypatch.setattr(processes, "_stat", lambda pid: None)
    assert process_start(sleeper.pid) is None
    assert is_running(sleeper.pid, "123")
    assert not is_running(2**22 + 1, "123")


def test_without_proc_no_machine_is_this_one(monkeypatch):
    monkeypatch.setattr(processes.os, "readlink", _hidden)
    if sys.platform == "linux":
        assert this_machine() != this_machine()


def _hidden(path):
    raise PermissionError(path)

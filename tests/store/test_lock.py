from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import bigbatch.store.lock as lock_module
from bigbatch.errors import DiskError, RunLocked
from bigbatch.store.lock import (
    Holder,
    RunLock,
    heartbeat_age_seconds,
    is_running,
    process_start,
    read_holder,
    this_machine,
    this_process,
)

HOLD = """
import sys, time
from pathlib import Path
from bigbatch.store.lock import RunLock
lock = RunLock(Path(sys.argv[1]), job_id="77")
lock.acquire()
print(lock.note or "mine", flush=True)
sys.stdin.read()
lock.release()
"""


def holder_process(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process


def plant(directory: Path, *, seconds_ago: float, **fields) -> None:
    """A lock whose last heartbeat was so long ago."""
    (directory / "lock.json").write_text(
        json.dumps(dataclasses.asdict(dataclasses.replace(this_process(), **fields)))
    )
    then = time.time() - seconds_ago
    os.utime(directory / "lock.json", (then, then))


def test_a_free_directory_is_taken_and_given_back(tmp_path):
    with RunLock(tmp_path / "new" / "run", job_id="5") as lock:
        found = read_holder(lock.path)
        assert found is not None and (found.pid, found.job_id) == (os.getpid(), "5")
        assert lock.note is None
        lock.check()
    assert not lock.path.exists()
    with RunLock(tmp_path / "new" / "run") as lock:
        assert lock.note is None


def test_a_live_lock_of_another_process_is_refused_and_named(tmp_path):
    with holder_process(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "mine\n"
        before = (tmp_path / "lock.json").read_bytes()
        with pytest.raises(
            RunLocked, match=rf"in use by process {process.pid} on .*, job 77 \(heartbeat \d s ago\)"
        ) as error:
            RunLock(tmp_path).acquire()
        assert error.value.exit_code == 6
        assert (tmp_path / "lock.json").read_bytes() == before
        process.communicate("")
    with RunLock(tmp_path) as lock:
        assert lock.note is None


def test_the_lock_of_a_killed_process_is_taken_over_at_once_and_said(tmp_path):
    with holder_process(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunLock(tmp_path) as lock:
        assert lock.note is not None
        assert lock.note.startswith(f"took over the lock of process {process.pid} on ")
        assert lock.note.endswith("job 77: that process is gone")


def test_two_runs_of_one_process_do_not_share(tmp_path):
    with RunLock(tmp_path), pytest.raises(RunLocked, match=rf"process {os.getpid()} "):
        RunLock(tmp_path).acquire()


def test_a_reused_process_id_is_not_mistaken_for_the_holder(tmp_path):
    plant(tmp_path, seconds_ago=0, process_start="1", token="old")
    with RunLock(tmp_path) as lock:
        assert lock.note is not None and "that process is gone" in lock.note


@pytest.mark.parametrize("fields", [{"machine": "another", "host": "node7", "pid": 2**22 + 1}, {}])
def test_only_an_old_heartbeat_ends_the_lock_of_a_process_that_may_live(tmp_path, fields):
    plant(tmp_path, seconds_ago=55, **fields)
    with pytest.raises(RunLocked):
        RunLock(tmp_path).acquire()
    plant(tmp_path, seconds_ago=65, **fields)
    with RunLock(tmp_path) as lock:
        assert lock.note is not None and lock.note.endswith("its last heartbeat was 65 s ago")


@pytest.mark.parametrize("text", ["", "{", '{"pid": 3}'])
def test_a_damaged_lock_counts_until_it_is_stale(tmp_path, text):
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(RunLocked, match=r"unknown process \(lock.json is damaged\)"):
        RunLock(tmp_path).acquire()
    os.utime(tmp_path / "lock.json", (0, 0))
    with RunLock(tmp_path) as lock:
        assert lock.note is not None


def until(condition, seconds: float = 20.0) -> None:
    """Wait for a thread; the limit is only there so that a failure ends."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_heartbeat_keeps_the_lock_fresh(tmp_path):
    with RunLock(tmp_path, heartbeat_seconds=0.01) as lock:
        os.utime(lock.path, (0, 0))
        until(lambda: lock.path.stat().st_mtime > 0)
        assert heartbeat_age_seconds(lock.path) < 60
        lock.check()


def test_the_heartbeat_notices_a_thief_and_leaves_him_alone(tmp_path):
    lock = RunLock(tmp_path, heartbeat_seconds=0.01)
    lock.acquire()
    plant(tmp_path, seconds_ago=0, token="thief", pid=4242, host="node9")
    until(lambda: lock._lost)
    with pytest.raises(RunLocked, match=r"taken over by process 4242 on node9"):
        lock.check()
    lock.release()
    found = read_holder(lock.path)
    assert found is not None and found.token == "thief"


def test_the_heartbeat_notices_that_the_lock_was_removed(tmp_path):
    with RunLock(tmp_path, heartbeat_seconds=0.01) as lock:
        lock.path.unlink()
        until(lambda: lock._lost)
        with pytest.raises(RunLocked, match="was removed"):
            lock.check()


def test_a_disk_that_hiccups_does_not_cost_the_lock(tmp_path, monkeypatch):
    calls = threading.Event()

    def broken(path):
        calls.set()
        raise OSError("stale file handle")

    with RunLock(tmp_path, heartbeat_seconds=0.01) as lock:
        monkeypatch.setattr(lock_module.os, "utime", broken)
        assert calls.wait(20)
        monkeypatch.undo()
        os.utime(lock.path, (0, 0))
        until(lambda: lock.path.stat().st_mtime > 0)
        lock.check()


def test_a_forked_child_does_not_release_its_parents_lock(tmp_path, monkeypatch):
    with RunLock(tmp_path) as lock:
        child = dataclasses.replace(
            lock._holder, pid=os.getpid() + 1
        )  # as a child sees itself: another process
        monkeypatch.setattr(lock, "_holder", child)
        lock.release()
        assert lock.path.exists()
        lock._done.set()


RACE = """
import sys, time
from pathlib import Path
from bigbatch.errors import RunLocked
from bigbatch.store.lock import RunLock
print("ready", flush=True)
for line in sys.stdin:
    lock = RunLock(Path(line.strip()))
    try:
        lock.acquire()
        print("won", flush=True)
    except RunLocked:
        print("refused", flush=True)
"""


@pytest.mark.parametrize("start", ["free", "stale"])
def test_of_two_processes_exactly_one_wins(tmp_path, start):
    """Free or stale: never both, never none, twenty times. The winners keep their locks."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"  # type: ignore[union-attr]
        for number in range(20):
            directory = tmp_path / str(number)
            directory.mkdir()
            if start == "stale":
                plant(directory, seconds_ago=100, token="stale")
            for racer in racers:
                racer.stdin.write(f"{directory}\n")  # type: ignore[union-attr]
                racer.stdin.flush()  # type: ignore[union-attr]
            said = sorted(racer.stdout.readline().strip() for racer in racers)  # type: ignore[union-attr]
            assert said == ["refused", "won"]
    finally:
        for racer in racers:
            racer.communicate()


def test_a_start_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(lock_module, "_GUARD_SECONDS", 0.05)
    with (tmp_path / ".lock-guard").open("wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(RunLocked, match="another process is starting"):
            RunLock(tmp_path).acquire()


def test_a_directory_that_cannot_be_written_is_a_disk_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DiskError):
        RunLock(tmp_path / "file").acquire()


def test_processes_are_told_apart_by_their_start():
    pid, start = os.getpid(), process_start(os.getpid())
    assert start
    assert is_running(pid, start)
    assert not is_running(pid, start + "0")
    assert is_running(pid, "")
    assert process_start(2**22 + 1) is None  # above the largest process id
    assert this_machine() == this_machine()


def test_a_dead_child_that_nobody_has_waited_for_is_not_running():
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.DEVNULL) as process:
        until(lambda: process_start(process.pid) is None)


def test_a_holder_reads_like_a_sentence():
    holder = Holder(host="node1", pid=7, process_start="1", machine="m", job_id=None, token="t")
    assert str(holder) == "process 7 on node1"
    assert str(dataclasses.replace(holder, job_id="9")) == "process 7 on node1, job 9"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="gives a file to another user")
def test_the_fresh_lock_of_another_user_holds_whatever_the_process_table_shows(tmp_path):
    """With hidepid a live process of another user looks as if it were gone."""
    plant(tmp_path, seconds_ago=5, pid=2**22 + 1)
    os.chown(tmp_path / "lock.json", 12345, 12345)
    with pytest.raises(RunLocked, match="in use by process"):
        RunLock(tmp_path).acquire()
    plant(tmp_path, seconds_ago=65, pid=2**22 + 1)
    os.chown(tmp_path / "lock.json", 12345, 12345)
    with RunLock(tmp_path) as lock:
        assert lock.note is not None and lock.note.endswith("its last heartbeat was 65 s ago")

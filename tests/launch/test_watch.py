"""Which rank is named, and when: judged on signs and a clock given here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from bigbatch.launch.local import end
from bigbatch.launch.watch import (
    Patience,
    Trouble,
    Watch,
    Watcher,
    launched_from,
    look_here,
    process_state,
)
from bigbatch.processes import process_start, this_machine
from bigbatch.run.beat import Beat, Sign, read_signs

SIGN = Sign(rank=0, size=2, host="a", pid=11, restart=0, update=17, phase="reduce", beats=1, ticks=1, at=0.0)


def _pair(seconds: int, *, silent: bool, phase="accumulate"):
    """Rank 0 waits and beats; rank 1 computes, and beats unless it is silent."""
    beats = 1 if silent else seconds
    return [
        replace(SIGN, beats=seconds),
        replace(SIGN, rank=1, host="b", pid=12, phase=phase, beats=beats, ticks=3),
    ]


def test_a_silent_rank_is_named_and_not_those_that_wait_for_it():
    watch = Watch(Patience(silent_seconds=20, stuck_seconds=40))
    assert watch.see(_pair(1, silent=True), 100.0) == []
    assert watch.see(_pair(2, silent=True), 119.0) == []
    (found,) = watch.see(_pair(3, silent=True), 121.0)
    assert (found.sign.rank, found.silent, found.seconds) == (1, True, 21.0)
    assert found.told("T (stopped)") == (
        "rank 1 on b has not answered for 21 s: update 17, phase accumulate; process 12 has state T (stopped)"
    )


def test_a_rank_that_lives_and_does_not_move_is_named_while_others_wait():
    watch = Watch(Patience(silent_seconds=20, stuck_seconds=40))
    found: list[Trouble] = []
    for seconds in range(0, 60, 5):
        found = watch.see(_pair(seconds, silent=False), float(seconds))
        assert bool(found) == (seconds > 40)
    assert not found[0].silent and "has not moved for 55 s" in found[0].told(None)


def test_a_long_start_and_an_end_are_no_trouble():
    for phase in ("starting", "ended", "reduce"):
        watch = Watch(Patience(silent_seconds=20, stuck_seconds=40))
        for seconds in range(0, 600, 5):
            assert watch.see(_pair(seconds, silent=phase == "ended", phase=phase), float(seconds)) == []


def test_a_new_process_of_a_rank_begins_anew():
    watch = Watch(Patience(silent_seconds=20, stuck_seconds=40))
    watch.see(_pair(1, silent=True), 0.0)
    assert watch.see(_pair(1, silent=True), 30.0)
    signs = [replace(sign, pid=sign.pid + 100) for sign in _pair(1, silent=True)]
    assert watch.see(signs, 31.0) == []


def test_the_state_of_a_stopped_process_is_read():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        os.kill(process.pid, signal.SIGSTOP)
        sign = replace(SIGN, pid=process.pid, host=os.uname().nodename)
        for _ in range(100):
            if (look_here(sign) or "").startswith("T"):
                break
            time.sleep(0.02)
        assert look_here(sign) == "T (stopped)"
        assert look_here(replace(sign, host="elsewhere")) is None
    finally:
        process.kill()
        process.wait()
    assert look_here(sign) == "gone"
    assert look_here(replace(sign, machine="a container of the same name")) is None
    assert process_state("Name: x\n") is None


STUCK = """
import sys, time
from pathlib import Path
from bigbatch.run.beat import Beat
beat = Beat(rank=1, size=2, host=sys.argv[2], every_seconds=0.02)
beat.begin(Path(sys.argv[1]))
beat.at(3, "accumulate")
time.sleep(60)
"""


@pytest.mark.parametrize("ours", [True, False])
def test_a_rank_of_ours_writes_its_stack_and_nobody_elses_process_is_touched(tmp_path, ours):
    """A sign may come from anybody who may write to the folder, and say the truth of any process."""
    host = os.uname().nodename
    first = Beat(rank=0, size=2, host=host, every_seconds=0.02)
    first.begin(tmp_path)
    first.at(3, "reduce")
    said: list[str] = []
    patience = Patience(silent_seconds=30, stuck_seconds=0.2, look_seconds=0.02)
    is_ours = launched_from(tmp_path) if ours else lambda pid: False
    with (
        subprocess.Popen(
            [sys.executable, "-c", STUCK, str(tmp_path), host], stderr=subprocess.PIPE, text=True
        ) as rank,
        Watcher(tmp_path, said.append, patience=patience, is_ours=is_ours),
    ):
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.1)
        assert said and rank.poll() is None
        rank.kill()
        assert ("Current thread" in rank.communicate()[1]) == ours
    first.close()


def test_the_end_of_a_group_ends_no_process_that_a_sign_names_wrongly(tmp_path):
    """A launch folder holds the sign of a process of ours, of ours under another machine's name, and of a stranger."""
    mine, other = (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdin=subprocess.PIPE)
        for _ in range(2)
    )
    agent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        true = {"machine": this_machine(), "host": "h", "size": 3}
        signs = [
            replace(SIGN, rank=0, pid=mine.pid, start=process_start(mine.pid) or "", **true),
            replace(SIGN, rank=1, pid=other.pid, start="17", **true),
            replace(SIGN, rank=2, pid=os.getppid(), start=process_start(os.getppid()) or "", **true),
        ]
        for sign in signs:
            (tmp_path / f"beat-{sign.rank:04d}.json").write_text(json.dumps(asdict(sign)))
        end(tmp_path, agent)
        assert mine.wait(20) == -signal.SIGKILL and agent.wait(20) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (mine, other, agent):
            process.kill()
            process.wait()
        for process in (mine, other):
            assert process.stdin is not None
            process.stdin.close()


def test_a_beat_is_written_read_and_watched(tmp_path):
    first, second = (Beat(rank=rank, size=2, host="h", every_seconds=0.02) for rank in (0, 1))
    first.begin(tmp_path)
    second.begin(tmp_path)
    first.at(3, "reduce")
    second.at(3, "accumulate")
    said: list[str] = []
    ended: list[bool] = []
    patience = Patience(silent_seconds=30, stuck_seconds=0.2, look_seconds=0.02)
    with Watcher(
        tmp_path, said.append, patience=patience, timeout_seconds=0.4, give_up=lambda: ended.append(True)
    ) as watcher:
        for _ in range(300):
            if ended:
                break
            time.sleep(0.02)
    assert ended == [True] and watcher.verdict is not None and "launch.timeout" in watcher.verdict
    assert said[0].startswith("rank 1 on h has not moved for 0 s: update 3, phase accumulate; process")
    first.close()
    second.close()
    assert [sign.phase for sign in read_signs(tmp_path)] == ["ended", "ended"]

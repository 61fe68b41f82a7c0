"""Which rank is named, and when: judged on signs and a clock given here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

from bigbatch.launch.watch import Patience, Trouble, Watch, Watcher, look_here, process_state
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
    assert process_state("Name: x\n") is None


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

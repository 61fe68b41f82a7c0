"""The first cause among many endings, and endings of groups that are no more."""

from __future__ import annotations

import json

from bigbatch.launch.endings import Ending, cause, endings, leave, told


def _ending(rank: int, code: int, at: float, **more) -> Ending:
    return Ending(rank=rank, host="h", pid=100 + rank, exit_code=code, at=at, **more)


def test_a_consequence_is_not_the_cause():
    first = _ending(1, 5, 2.0, message="diverged")
    found = cause([_ending(0, 6, 1.0, consequence=True), first], interrupted=False)
    assert found == first and told(first) == (5, "rank 1 (process 101 on h): diverged")


def test_whoever_the_agent_ended_is_not_the_cause():
    killed = _ending(1, -9, 2.0)
    assert cause([_ending(0, 143, 1.0), killed], interrupted=False) == killed
    code, words = told(killed)
    assert code == 6 and "SIGKILL" in words and "memory" in words


def test_a_signal_without_a_name_has_its_number():
    assert told(_ending(0, -33, 1.0)) == (6, "rank 0 (process 100 on h) was killed (signal 33)")


def test_endings_of_a_larger_group_are_forgotten(tmp_path):
    for rank in (0, 1):
        leave(tmp_path, _ending(rank, 6, 1.0, consequence=True), 0)
    (tmp_path / "worker-1.json").write_text(json.dumps({"pid": 101, "size": 2}))
    (tmp_path / "worker-0.json").write_text(json.dumps({"pid": 200, "size": 1}))
    assert endings(tmp_path) == []
    leave(tmp_path, Ending(rank=0, host="h", pid=200, exit_code=0), 0)
    assert [ending.exit_code for ending in endings(tmp_path)] == [0]

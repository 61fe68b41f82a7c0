"""Whole runs: whatever happens to one rank in the middle of an update, nothing is lost and the same command goes on."""

from __future__ import annotations

from typing import Any

import pytest

JOB = "tests.run.leave_jobs:through"
ALONE = [("memory", 1, 0), ("exception", 2, 0), ("signal", 1, 0), ("nonfinite", 1, 0)]
AMONG = [("memory", 2, 1), ("exception", 1, 1), ("signal", 1, 1), ("late", 1, 1), ("nonfinite", 1, 0)]
BESIDE = [("evaluation", 1, 1), ("evaluation", 2, 0), ("data", 1, 1), ("data", 1, 0), ("metric", 1, 1)]
"""Outside the pass of an update."""


def check(found: list[list[dict[str, Any]]], cases: list[tuple[str, int, int]]) -> None:
    """Ends, words and journals of all ranks; the first entry is a run in which nothing happened."""
    size, losses = len(found), found[0][0]["losses"]
    assert len(losses) == 4
    for number, (way, _, failed) in enumerate(cases, start=1):
        ranks = [everything[number] for everything in found]
        first, journal = ranks[0], ranks[0]["journal"]
        told = {event: why for event, _, why in journal["events"]}
        where = "" if failed == 0 else f"rank {failed}: "
        if way == "memory":
            assert [rank["status"] for rank in ranks] == ["finished"] * size
            assert told["out_of_memory"] == where + "no room for 9 bytes"
            assert first["losses"][0] == losses[0] and first["steps"] == [1, 2, 3, 4]
        elif way == "nonfinite":
            assert [rank["status"] for rank in ranks] == ["finished"] * size and "nonfinite" in told
            assert first["losses"][:2] == [losses[0], None]
        elif way == "evaluation":
            assert [rank["status"] for rank in ranks] == ["finished"] * size
            assert told["out_of_memory"] == where + "no room for 9 bytes" and first["losses"] == losses
        elif way in ("exception", "data", "metric"):
            for rank, seen in enumerate(ranks):
                own = rank == failed
                assert seen["raised"] == ("Bug" if own else "PeerFailed"), seen
                assert seen["text"] == ("of the user" if own else f"rank {failed}: Bug: of the user")
                assert seen["status"] == "failed" and seen["again"] == "finished"
            assert journal["steps"] == ([1, 2, 3, 4] if way == "metric" else [1])
            assert "of the user" in told["failed"]
        else:
            for seen in ranks:
                assert (seen["status"], seen["signal"], seen["raised"]) == ("interrupted", 15, None)
                assert seen["again"] == "finished"
            # Ranks end the update, unless that takes too long; one process drops it.
            assert journal["steps"] == ([1, 2] if way == "signal" and size > 1 else [1])
            assert told["interrupted"].startswith(where + "SIGTERM was received")
            assert ("half-way" in told["interrupted"]) == (way == "late")
        if way not in ("memory", "nonfinite"):
            assert first["losses"] == losses and first["steps"] == [1, 2, 3, 4], (way, first)


def test_one_process(ranks, tmp_path):
    check(ranks.run(JOB, 1, tmp_path, root=str(tmp_path), mesh=None, cases=ALONE), ALONE)


@pytest.mark.world_size(2)
@pytest.mark.parametrize("mesh", [{"replicate": 2}, {"shard": 2}], ids=str)
def test_ranks(ranks, tmp_path, mesh):
    check(ranks.run(JOB, 2, tmp_path, root=str(tmp_path), mesh=mesh, cases=AMONG), AMONG)


@pytest.mark.world_size(2)
def test_outside_the_pass_of_an_update(ranks, tmp_path):
    check(ranks.run(JOB, 2, tmp_path, root=str(tmp_path), mesh={"shard": 2}, cases=BESIDE), BESIDE)


@pytest.mark.slow
@pytest.mark.world_size(4)
@pytest.mark.parametrize(
    ("mesh", "keys"),
    [
        ({"tensor": 2}, {}),
        ({"replicate": 2, "shard": 2}, {"plan.micro_tokens": 40}),
        ({"replicate": 2}, {"sync.replicas": 2, "sync.period": 2}),
    ],
    ids=str,
)
def test_other_arrangements(ranks, tmp_path, mesh, keys):
    size = 4 if "shard" in mesh else 2
    given = {"root": str(tmp_path), "mesh": mesh, "cases": AMONG, "seconds": 600, **keys}
    check(ranks.run(JOB, size, tmp_path, **given), AMONG)

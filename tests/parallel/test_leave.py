"""Leaving an update in the middle: whatever happens to one rank, all raise the same, and can do the update again."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.parallel.leave_jobs import PLACES, POINTS, WAYS

JOB = "tests.parallel.leave_jobs:left"
KINDS = ["replicate", "bitwise", "shard", "tensor", "match", "match-plain", "match-shard", "apart"]
QUICK = [
    ("memory", "forward", "first", 1),
    ("memory", "backward", "last", 0),
    ("exception", "backward", "middle", 1),
    ("signal", "between", "last", 0),
    ("interrupt", "forward", "middle", 1),
]
RAISED = {
    "memory": ("OutOfMemory", "OutOfMemory", "no room for 9 bytes"),
    "signal": ("Leaving", "Leaving", "SIGTERM was received"),
    "interrupt": ("Leaving", "Leaving", "SIGINT was received"),
    "exception": ("Bug", "PeerFailed", "the loss of the user"),
}
SIGNALS = {"signal": 15, "interrupt": 2}


def check(found: list[dict[str, list[dict[str, Any]]]], kinds: list[str], cases: list[Any]) -> None:
    """All ranks learn the true words, at once; nothing has moved; the same update has the same numbers."""
    for kind, (number, case) in itertools.product(kinds, enumerate(cases)):
        way, _, _, failed = case
        for rank, everything in enumerate(found):
            seen = everything[kind][number]
            own, others, text = RAISED[way]
            named = f"Bug: {text}" if way == "exception" else text
            where = (kind, case, rank, seen)
            assert seen["raised"] == (own if rank == failed else others), where
            assert seen["text"] == (text if rank == failed else f"rank {failed}: {named}"), where
            assert seen["signal"] == SIGNALS.get(way), where
            assert seen["seconds"] < 20, where
            assert not seen["moved"] and seen["same"] == [True, True], where


@pytest.mark.world_size(2)
def test_all_ranks_leave_together_and_can_do_it_again(ranks, tmp_path):
    given = {"kinds": KINDS, "cases": QUICK, "place": str(tmp_path)}
    check(ranks.run(JOB, 2, tmp_path, **given), KINDS, QUICK)


def pairwise(size: int) -> list[list[Any]]:
    """Every way at every point, every point at every place and every way at every place, each on every rank."""
    numbers = itertools.product(range(len(WAYS)), range(len(POINTS)))
    squares = [(WAYS[way], POINTS[point], PLACES[(way + point) % len(PLACES)]) for way, point in numbers]
    return [[*case, rank] for case, rank in itertools.product(squares, range(size))]


def test_the_pairs_are_all_there():
    cases = pairwise(2)
    for first, second in itertools.combinations(range(4), 2):
        found = {(case[first], case[second]) for case in cases}
        assert found == set(
            itertools.product({case[first] for case in cases}, {case[second] for case in cases})
        )
    assert len(cases) == 24


@pytest.mark.slow
@pytest.mark.world_size(4)
@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.stress)], ids=["pairs", "every"]
)
@pytest.mark.parametrize(
    "kind",
    [kind if kind == "tensor" else pytest.param(kind, marks=pytest.mark.stress) for kind in (*KINDS, "both")],
)
def test_ways_out_at_places_on_every_rank(ranks, tmp_path, kind, every):
    size = 4 if kind == "both" else 2
    product = [list(case) for case in itertools.product(WAYS, POINTS, PLACES, range(size))]
    cases = product if every else pairwise(size)
    given = {"kinds": [kind], "cases": cases, "place": str(tmp_path)}
    check(ranks.run(JOB, size, tmp_path, seconds=900, **given), [kind], cases)

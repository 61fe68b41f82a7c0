"""Memory that malloc keeps: blocks of all sizes, freed, leave little behind."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from bigbatch.serve import heap

CHURN = """
import random, sys
from pathlib import Path
from bigbatch.serve.heap import keep_few_holes
done = keep_few_holes(()) if sys.argv[1] == "few" else False
import numpy as np
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon"))
chance, kept, before = random.Random(0), [], resident()
for _ in range(30):
    batch = [np.ones(chance.randrange(1, 28 << 20), np.uint8) for _ in range(4)]
    kept.append(np.ones(200_000, np.uint8))  # something small that stays, behind what goes
    del batch
print(done, resident() - before - (sum(each.nbytes for each in kept) >> 20))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_large_blocks_leave_no_holes():
    def left(way):
        done = subprocess.run([sys.executable, "-c", CHURN, way], capture_output=True, text=True, check=True)
        return done.stdout.split()

    (few, mib), (usual, usual_mib) = left("few"), left("usual")
    assert (few, usual) == ("True", "False")
    assert int(mib) < 45 < int(usual_mib)


def test_what_the_user_has_chosen_stays():
    assert not any(heap.keep_few_holes({name}) for name in heap.CHOSEN_BY)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_pages_are_given_back_now_and_then(monkeypatch):
    holes = heap.Holes()
    assert not holes.give_back()
    monkeypatch.setattr(heap, "GIVE_BACK_SECONDS", 0.0)
    assert holes.give_back()

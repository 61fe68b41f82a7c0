"""Golden losses: 100 updates of loss and gradient norm, written down once, so that no change goes unseen.

    python -m tests.step.test_golden       # from the root, with src on the path: writes the files anew

Equal splits prove that the engine agrees with itself and with the oracle of today; these files prove that it agrees
with last month's: order of samples, packing, masks, weights, clipping, schedule, optimiser. A file that has to be
written anew is a change of results, and the changelog says so.

Nothing here depends on anybody's random numbers but our own: rows and initial weights are integers of splitmix64.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.exact import exact_weights, numbers
from tests.models import VOCABULARY, tiny
from tests.split import Rows, parts_of, train_split

FOLDER = Path(__file__).resolve().parent / "golden"
UPDATES = 100


class Golden(NamedTuple):
    """One file."""

    name: str
    dtype: torch.dtype
    dropout: float
    tolerance: float
    """Largest relative difference of any loss or gradient norm."""


PLAIN = Golden("plain-fp64", torch.float64, 0.0, 1e-9)
"""Rounding differs between processors, numbers of threads and versions of libraries. Measured over the 100 updates:
other micro-batches or 2 threads move a figure by at most 4e-15, a relative change s of all initial weights by 10 s.
1e-9 leaves room for kernels that round a thousand times worse than these, and for nothing that is a change."""
DROPOUT = Golden("dropout-fp32", torch.float32, 0.1, 5e-5)
"""Measured: 2 threads move a figure by at most 2e-6, the same masks in fp64 by 4e-6, weights changed by 1e-6 by 2e-5.
The masks come from torch's generator, by way of Intel's random numbers where torch is built with MKL (Linux and
Windows on x86); elsewhere they are other masks and the file says nothing."""


def golden_rows() -> Rows:
    """300 rows of 2 to 48 tokens, mostly short; the class is what most of a row's tokens say."""
    rows: Rows = []
    for number in range(300):
        length = 2 + math.prod(numbers(number, 2, 8)) % 47
        label = numbers(number + 1000, 1, 10)[0] * 3 // 10
        ids = [
            3 + (token // 3 * 3 + label if token % 4 else token) % (VOCABULARY - 3)
            for token in numbers(number + 2000, length, VOCABULARY - 3)
        ]
        rows.append({"input_ids": ids, "labels": label})
    return rows


def golden_model(golden: Golden) -> torch.nn.Module:
    """A tiny BERT whose matrices are multiples of 2**-12: exact in every precision, the same everywhere."""
    return exact_weights(tiny("bert", dropout=golden.dropout)).to(golden.dtype)


def figures(golden: Golden, micro_tokens: int = 512) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each update."""
    parts = parts_of(
        golden_model(golden),
        golden_rows(),
        "single",
        micro_tokens=micro_tokens,
        packing="packed",
        batch=64,
        updates=UPDATES,
        loss={"class_weights": "balanced", "label_smoothing": 0.05},
        optimizer={"lr": 2e-3, "weight_decay": 0.01},
        schedule={"name": "cosine", "warmup": "10 %"},
        clip=0.5,
        seed={"model": 1, "data": 2, "dropout": 3},
    )
    found = train_split(parts, UPDATES)
    return list(zip(found.losses, found.norms, strict=True))


def write(golden: Golden) -> None:
    """Make the file."""
    lines = [
        f"{step:3} {loss:.15e} {norm:.15e}" for step, (loss, norm) in enumerate(figures(golden), start=1)
    ]
    text = "\n".join(["# update, loss, gradient norm before clipping", *lines])
    (FOLDER / f"{golden.name}.txt").write_text(text + "\n", encoding="ascii")


def read(golden: Golden) -> list[tuple[float, float]]:
    """The figures of the file."""
    lines = (FOLDER / f"{golden.name}.txt").read_text(encoding="ascii").splitlines()
    return [(float(loss), float(norm)) for _, loss, norm in (line.split() for line in lines[1:])]


def worst(found: list[tuple[float, float]], expected: list[tuple[float, float]]) -> tuple[float, int]:
    """Largest relative difference, and the update it is in."""
    assert len(found) == len(expected) == UPDATES
    return max(
        (max(abs(a / b - 1) for a, b in zip(mine, golden, strict=True)), step)
        for step, (mine, golden) in enumerate(zip(found, expected, strict=True), start=1)
    )


def test_one_hundred_updates_are_what_they_have_always_been():
    expected = read(PLAIN)
    difference, step = worst(figures(PLAIN), expected)
    assert difference <= PLAIN.tolerance, f"update {step}: {difference:.1e} away"


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch without MKL draws other masks")
def test_and_so_are_those_with_dropout():
    expected = read(DROPOUT)
    difference, step = worst(figures(DROPOUT), expected)
    assert difference <= DROPOUT.tolerance, f"update {step}: {difference:.1e} away"


@pytest.mark.parametrize("golden", [PLAIN, DROPOUT], ids=lambda golden: golden.name)
def test_the_files_show_a_run_that_learns_and_clips(golden):
    """Figures of a run that stands still, or never clips, would hide most faults."""
    losses, norms = zip(*read(golden), strict=True)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert 10 <= sum(norm > 0.5 for norm in norms) <= 90


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in (PLAIN, DROPOUT):
        write(each)
        print(FOLDER / f"{each.name}.txt")

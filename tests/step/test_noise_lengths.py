"""Gradients that depend on the length of a sample: cut by length the estimate is wrong, cut at random it is right.

The whole path but the model: batches, micro-batches and the meter are those of a run; a sample's gradient is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from bigbatch.data.batches import Batches
from bigbatch.data.packs import micro_batches
from bigbatch.data.random_parts import STRIDE, part_micro_batches
from bigbatch.parallel.single import SingleWorld
from bigbatch.rules.noise_scale import WHOLE, part_sizes
from bigbatch.samples import GlobalBatch, MicroBatch
from bigbatch.step.noise import NoiseMeter
from tests.data.tables import token_rows

ROWS, DIMS, SAMPLES, UPDATES, BUDGET = 4096, 40, 64, 512, 256
"""Eight epochs of 64 updates of 64 samples."""
Cut = Callable[[GlobalBatch], tuple[list[MicroBatch], list[int]]]


@pytest.fixture(scope="module")
def table():
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 0.6, ROWS), 2, 128).astype(int)
    return token_rows([int(length) for length in lengths])


@pytest.fixture(scope="module")
def gradients_SD(table):
    """Of each sample: twice as long, twice as large; and noise of its own."""
    random = np.random.default_rng(1)
    direction = random.standard_normal(DIMS)
    lengths_S = table.lengths_B / table.lengths_B.mean()
    own_SD = random.standard_normal((ROWS, DIMS)) * np.linspace(0.2, 1.2, DIMS)
    return torch.from_numpy(2 * lengths_S[:, None] * direction / np.linalg.norm(direction) + own_SD)


def traces(table, gradients_SD, cut: Cut) -> np.ndarray:
    """The meter's estimate of trace(Sigma) in each update."""
    weights = torch.nn.Parameter(torch.zeros(DIMS, dtype=torch.float64))
    meter = NoiseMeter([weights], ["head"], SingleWorld(), torch.optim.SGD([weights], lr=0.1))
    batches, found = Batches(table, seed=2, samples=SAMPLES), []
    for update in range(1, UPDATES + 1):
        batch = batches.at((update - 1) * SAMPLES, update)
        pieces, sizes = cut(batch)
        weights.grad = torch.zeros_like(weights)
        for piece in meter.watched(pieces, sizes):
            weights.grad += gradients_SD[torch.from_numpy(piece.sample_ids_B)].sum(0) / SAMPLES
        meter.read()
        found.append(meter.found[WHOLE].trace)
    return np.array(found)


def test_random_parts_are_right_where_sorted_micro_batches_are_not(table, gradients_SD):
    def at_random(batch: GlobalBatch) -> tuple[list[MicroBatch], list[int]]:
        sizes = part_sizes(SAMPLES, 8)
        return list(part_micro_batches(batch, sizes, seed=2, micro_tokens=BUDGET, packing="packed")), sizes

    def by_length(batch: GlobalBatch) -> tuple[list[MicroBatch], list[int]]:
        """Each micro-batch of any other update as a part; the estimate allows for their unequal sizes."""
        pieces = list(micro_batches(batch, micro_tokens=BUDGET, packing="packed"))
        parts = [replace(piece, index=number * STRIDE) for number, piece in enumerate(pieces)]
        return parts, [len(piece.sample_ids_B) for piece in pieces]

    # What a batch drawn without replacement is expected to show: the variance among all rows.
    truth = float(gradients_SD.var(0).sum())
    ours, naive = traces(table, gradients_SD, at_random), traces(table, gradients_SD, by_length)
    error = ours.std() / np.sqrt(UPDATES)
    assert ours.mean() == pytest.approx(truth, abs=4 * error)
    assert 4 * error < 0.05 * truth
    assert naive.mean() > 1.15 * truth

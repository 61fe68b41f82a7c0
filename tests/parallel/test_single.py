from __future__ import annotations

import pytest
import torch

from bigbatch.parallel.single import SingleWorld
from bigbatch.protocols import World

WORLD: World = SingleWorld()


def test_there_is_one_rank():
    assert (WORLD.rank, WORLD.size) == (0, 1)
    WORLD.barrier()


def test_sums_over_one_rank_are_what_was_there():
    counts = {"cross_entropy": 0.1 + 0.2, "size": 3}
    found = WORLD.sum_counts(counts)
    assert found == counts and found is not counts
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0])
    WORLD.reduce_gradients([parameter])
    assert parameter.grad.tolist() == [1, 2, 3]
    matrix = torch.rand(2, 3)
    assert WORLD.whole(matrix) is matrix


def test_squared_norms_of_each_tensor():
    found = WORLD.sum_of_squares([torch.tensor([3.0, 4.0]), torch.zeros(2, 2)])
    assert found.tolist() == [25.0, 0.0]
    many = torch.ones(2**24 + 2**12)  # counting by ones, fp32 would stop at 2^24
    assert float(WORLD.sum_of_squares([many])[0]) == pytest.approx(2**24 + 2**12, rel=1e-6)


def test_one_number_that_is_not_finite_shows():
    for broken in (float("nan"), float("inf")):
        found = WORLD.sum_of_squares([torch.ones(3), torch.tensor([1.0, broken])])
        assert found[0] == pytest.approx(3) and not torch.isfinite(found.sum())

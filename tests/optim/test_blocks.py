"""Every value once, in views that write through."""

from __future__ import annotations

import pytest
import torch

from bigbatch.optim.blocks import in_blocks


@pytest.mark.parametrize("values", [1, 3, 7, 64, 10_000])
def test_every_value_is_visited_once_beside_its_partner(values: int) -> None:
    shapes = [(5, 4), (), (0,), (13,), (2, 2, 2)]
    left = [torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape) for shape in shapes]
    right = [torch.zeros_like(tensor) for tensor in left]
    for owners, (some, other) in in_blocks(left, right, values=values):
        assert sum(piece.numel() for piece in some) <= values and len(owners) == len(some)
        for owner, mine, theirs in zip(owners, some, other, strict=True):
            theirs.view(-1).add_(mine.reshape(-1) + owner)
    for number, (mine, theirs) in enumerate(zip(left, right, strict=True)):
        assert torch.equal(theirs, mine + number)


def test_what_is_not_contiguous_is_not_cut() -> None:
    turned = torch.zeros(4, 6).t()
    blocks = list(in_blocks([turned, torch.ones(3)], [torch.ones(6, 4), torch.ones(3)], values=5))
    assert [piece.shape for piece in blocks[0][1][0]] == [(6, 4)] and blocks[1][0] == [1]
    blocks[0][1][0][0].fill_(7)
    assert (turned == 7).all()


def test_nothing_gives_nothing() -> None:
    assert list(in_blocks([], [])) == []

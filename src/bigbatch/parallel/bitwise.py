"""The same bits on any number of ranks: what ranks have summed is joined in the order of a tree.

Each rank gets one part of every rank's gradient, adds the parts in the tree's order and sends the sum to all. A plain
all-reduce adds in an order of its own, which depends on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from bigbatch.errors import UsageError
from bigbatch.parallel.group import GroupWorld, peer_errors
from bigbatch.parallel.single import SingleWorld
from bigbatch.protocols import World
from bigbatch.rules.buckets import BUCKET_BYTES
from bigbatch.rules.tree import tree_total

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class AlignedSingle(SingleWorld):
    """One process whose micro-batches are those that several would have."""

    part = replace(SingleWorld.part, aligned=True)


class AlignedGroup(GroupWorld):
    """`GroupWorld` whose sums have the bits of one process."""

    def __init__(self, group: ProcessGroup | None = None, *, ours: bool = False) -> None:
        super().__init__(group, ours=ours)
        if self.size & (self.size - 1):
            raise UsageError(
                f"plan.reproducible: bitwise needs 1, 2, 4, 8, … ranks (found {self.size}): each holds an aligned "
                "block of micro-batches, so that all add in the same order"
            )
        self.part = replace(self.part, aligned=True)

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum `.grad` over the ranks in the tree's order, in place; None stays where no rank has one."""
        with peer_errors():
            anywhere = self._present(parameters)
            holders = [
                bool(sum(row)) for row in self.exchange([float(p.grad is not None) for p in parameters])
            ]
            chosen = [parameter for parameter, there in zip(parameters, anywhere, strict=True) if there]
            memory: list[Tensor] = []
            for pieces in _in_halves([_flat(parameter) for parameter in chosen]):
                memory = self._sum(pieces, [rank for rank, holds in enumerate(holders) if holds], memory)

    def last_backward(self) -> None:
        """Nothing travels early."""

    def _present(self, parameters: Sequence[Tensor]) -> list[bool]:
        rows = self.exchange([float(parameter.grad is not None) for parameter in parameters])
        return [any(column) for column in zip(*rows, strict=True)]

    def _sum(self, pieces: Sequence[Tensor], holders: Sequence[int], memory: list[Tensor]) -> list[Tensor]:
        """In place, with the memory of those before where that is enough; the memory that was used."""
        sizes = [piece.numel() for piece in pieces]
        part = -(-sum(sizes) // self.size)
        first = pieces[0]
        if not memory or memory[0].numel() < part * self.size or memory[0].dtype != first.dtype:
            memory = [torch.zeros(part * self.size, dtype=first.dtype, device=first.device) for _ in range(2)]
        flat, parts = (each[: part * self.size] for each in memory)
        torch.cat(list(pieces), out=flat[: sum(sizes)])
        dist.all_to_all_single(parts, flat, group=self.group)
        held = parts.view(self.size, part)
        mine = tree_total(((rank, held[rank]) for rank in holders), lambda one, other: one.add_(other))
        assert mine is not None
        # An all-gather of gloo would allocate the whole once more, and let go of it when it likes.
        for row in held:
            row.copy_(mine)
        dist.all_to_all_single(flat, parts, group=self.group)
        for piece, total in zip(pieces, flat[: sum(sizes)].split(sizes), strict=True):
            piece.copy_(total)
        return memory


def aligned(world: World) -> World:
    """The same ranks, with sums that have the same bits on any number of them.

    Raises:
        UsageError: their number is no power of two.
    """
    if isinstance(world, GroupWorld):
        return AlignedGroup(world.group, ours=world.ours)
    return AlignedSingle()


def _flat(parameter: Tensor) -> Tensor:
    """Its gradient, zeros where this rank has none, as one row of the same memory."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    if not parameter.grad.is_contiguous():
        parameter.grad = parameter.grad.contiguous()
    return parameter.grad.view(-1)


def _in_halves(flats: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Pieces of half a bucket at most, of one type each time; what is larger is cut."""
    pieces: list[Tensor] = []
    held = 0
    for flat in flats:
        most = max(1, BUCKET_BYTES // 2 // flat.element_size())
        for piece in flat.split(most):
            full = held + piece.numel() > most
            if pieces and (full or piece.dtype != pieces[0].dtype):
                yield pieces
                pieces, held = [], 0
            pieces.append(piece)
            held += piece.numel()
    if pieces:
        yield pieces

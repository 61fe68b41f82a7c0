"""Replicas meet: the mean of what they hold, in the order of the replicas, whatever number of ranks holds them.

Each rank gets one part of every replica, adds the parts in the order of the replicas and sends the mean to all. With
one replica a rank that sends as many bytes as an all-reduce; with any other number it gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from bigbatch.errors import UsageError
from bigbatch.parallel.group import GroupWorld, peer_errors
from bigbatch.protocols import World
from bigbatch.rules.buckets import BUCKET_BYTES
from bigbatch.rules.sync import held


@dataclass(frozen=True, kw_only=True)
class Mean:
    """What a meeting found."""

    tensors: list[Tensor]
    """The mean of each tensor, in its own type; whole numbers are rounded."""
    drift: float
    """Root mean square over replicas of ||replica - mean|| / ||mean||, floating tensors only."""


class Meeting:
    """Averages the replicas that the ranks of a world hold."""

    def __init__(self, world: World, replicas: int, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        """Deal the replicas.

        Args:
            world: the ranks.
            replicas: how many train apart.
            bucket_bytes: most bytes of a replica that travel at once.

        Raises:
            UsageError: more ranks than replicas.
        """
        if world.size > replicas:
            raise UsageError(
                f"sync.replicas: {replicas} cannot use {world.size} ranks: today each rank holds whole replicas; "
                f"start at most {replicas}, or train more replicas (which changes the result)"
            )
        self.world = world
        self.replicas = replicas
        self.held = held(replicas, world.rank, world.size)
        self.bytes_sent = 0
        """By this rank, in meetings, since the beginning."""
        self._bucket_bytes = bucket_bytes

    def mean(self, mine: Sequence[Sequence[Tensor]]) -> Mean:
        """Average over all replicas. Every rank must call it.

        Args:
            mine: tensors of each held replica, in the same order in all of them.
        """
        found: list[Tensor] = [torch.empty(0)] * len(mine[0])
        squares = [0.0, 0.0]
        with torch.no_grad(), peer_errors():
            for chosen in _buckets(mine[0], self._bucket_bytes):
                flats = torch.stack(
                    [torch.cat([own[number].reshape(-1) for number in chosen]) for own in mine]
                )
                mean, spread, size = self._mean_of(flats)
                squares = [squares[0] + spread, squares[1] + size]
                for number, piece in zip(
                    chosen, mean.split([mine[0][number].numel() for number in chosen]), strict=True
                ):
                    found[number] = piece.view(mine[0][number].shape)
        spread, size = (sum(column) for column in zip(*self.world.exchange(squares), strict=True))
        drift = (spread / self.replicas / size) ** 0.5 if size else 0.0
        return Mean(tensors=found, drift=drift)

    def _mean_of(self, flats: Tensor) -> tuple[Tensor, float, float]:
        """The mean (n,) of all replicas from those held here (held, n); its part's spread and size, squared."""
        if not isinstance(self.world, GroupWorld):
            return _averaged(flats)
        ranks, count = self.world.size, flats.shape[1]
        part = -(-count // ranks)
        padded = torch.nn.functional.pad(flats, (0, part * ranks - count))
        sent = padded.view(len(flats), ranks, part).transpose(0, 1).contiguous()
        got = torch.empty((self.replicas, part), dtype=flats.dtype, device=flats.device)
        rows = [len(held(self.replicas, rank, ranks)) for rank in range(ranks)]
        own = part * flats.element_size()
        dist.all_to_all_single(
            _bytes_of(got), _bytes_of(sent), [row * own for row in rows], [len(flats) * own] * ranks,
            group=self.world.group,
        )  # fmt: skip
        mean, spread, size = _averaged(got)
        whole = torch.empty(part * ranks, dtype=flats.dtype, device=flats.device)
        # Not the form with one tensor: torch 2.13 warns of its name, older ones do not know the new one.
        dist.all_gather([*_bytes_of(whole).chunk(ranks)], _bytes_of(mean), group=self.world.group)
        self.bytes_sent += (ranks - 1) * (len(flats) + 1) * own
        return whole[:count], spread, size


def _averaged(values: Tensor) -> tuple[Tensor, float, float]:
    """Mean of the rows (R, n) -> (n,), in fp64 and in their order; squared distance of all rows from it, its square.

    Measured from the first row, so that equal rows give themselves.
    """
    floats = values.dtype.is_floating_point
    first = values[0].to(torch.float64 if floats else torch.int64)
    away = torch.zeros_like(first, dtype=torch.float64)
    for row in values[1:]:
        away += row.to(first.dtype) - first
    away /= len(values)
    mean = (first + (away if floats else away.round().to(torch.int64))).to(values.dtype)
    if not floats:
        return mean, 0.0, 0.0
    spread = sum(float((row.double() - mean.double()).square().sum()) for row in values)
    return mean, spread, float(mean.double().square().sum())


def _buckets(tensors: Sequence[Tensor], bucket_bytes: int) -> list[list[int]]:
    """Numbers of tensors that travel together: of one type and device, in order."""
    found: list[list[int]] = []
    room: dict[tuple[torch.dtype, torch.device], int] = {}
    latest: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for number, tensor in enumerate(tensors):
        kind = (tensor.dtype, tensor.device)
        if room.get(kind, -1) < tensor.nbytes:
            found.append([])
            room[kind], latest[kind] = bucket_bytes, found[-1]
        latest[kind].append(number)
        room[kind] -= tensor.nbytes
    return found


def _bytes_of(tensor: Tensor) -> Tensor:
    """The same memory as flat bytes: any type travels."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)

"""Several processes, each with the whole model: gradients are summed, everything else is agreed on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import fsum
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.constants import default_pg_timeout

from bigbatch.errors import PeerFailed
from bigbatch.parallel.gradients import Buckets
from bigbatch.parallel.undivided import Undivided
from bigbatch.places import Part
from bigbatch.protocols import Shared

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_DTYPES = ("uint8", "int64", "float32", "float64")
"""Of rows that travel."""
MUCH_BYTES = 2**20
"""From here on a rank may lack the memory for what others send it."""


class LetOut(Exception):
    """A collective was not begun, because another rank could not take part in it; that one says why."""


class GroupWorld(Undivided):
    """`protocols.World` of the processes of torch.distributed's default group, or of a part of them.

    Words and counts travel between CPUs (gloo), so that agreeing never waits for an accelerator.
    """

    def __init__(self, group: ProcessGroup | None = None, *, ours: bool = False) -> None:
        """Speak to the processes of `group`; None: all.

        Args:
            group: of torch.distributed, able to send CPU tensors.
            ours: whether closing this world may close the default group too.
        """
        self.group = group
        self.ours = ours
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.part = Part(rank=self.rank, size=self.size)
        self._buckets: Buckets | None = None
        self._for_gradients: Any = None

    def exchange(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank (fp64), in rank order; equally many on each."""
        mine = torch.tensor(list(numbers), dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with peer_errors():
            dist.all_gather(found, mine, group=self.group)
        return [row.tolist() for row in found]

    def sum_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Sum of each count over all ranks (fp64, rounded once)."""
        rows = self.exchange(list(counts.values()))
        return {name: fsum(row[column] for row in rows) for column, name in enumerate(counts)}

    def gather(self, value: Shared) -> list[Shared]:
        """A JSON value of every rank, in rank order."""
        rows = self.gather_rows(np.frombuffer(json.dumps(value).encode(), np.uint8)[:, None])
        return [json.loads(row.tobytes()) for row in rows]

    def gather_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows (n, C) of every rank, in rank order; n may differ, dtype and C may not."""
        shapes = self.exchange([len(rows), rows.shape[1], _DTYPES.index(rows.dtype.name)])
        counts = [int(shape[0]) for shape in shapes]
        # A rank without rows knows neither their width nor their type.
        _, width, dtype = max(shapes)
        # All of one length, as torch wants them.
        shape, kind = (max(counts), int(width)), _DTYPES[int(dtype)]
        mine, *places = self._room(shape, kind)
        if len(rows):
            mine[: len(rows)] = rows
        found = [torch.from_numpy(place) for place in places]
        with peer_errors():
            dist.all_gather(found, torch.from_numpy(mine), group=self.group)
        return [each.numpy()[:count] for each, count in zip(found, counts, strict=True)]

    def _room(self, shape: tuple[int, int], kind: str) -> list[np.ndarray]:
        """Zeros to send and to receive. Where that is much, no rank goes on before all have them.

        Raises:
            MemoryError: there is none here.
            LetOut: there is none on another rank.
        """
        if (self.size + 1) * np.dtype(kind).itemsize * shape[0] * shape[1] < MUCH_BYTES:
            return [np.zeros(shape, kind) for _ in range(self.size + 1)]
        try:
            room = [np.zeros(shape, kind) for _ in range(self.size + 1)]
        except MemoryError:
            self.exchange([1.0])
            raise
        if any(row[0] for row in self.exchange([0.0])):
            raise LetOut("another rank has no memory for what it was to be sent")
        return room

    def share(self, value: Any = None) -> Any:
        """Rank 0's JSON value; what other ranks pass is ignored."""
        data = json.dumps(value).encode() if self.rank == 0 else b""
        length = torch.tensor([len(data)], dtype=torch.int64)
        with peer_errors():
            dist.broadcast(length, group_src=0, group=self.group)
            sent = _bytes(data) if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(sent, group_src=0, group=self.group)
        return json.loads(sent.numpy().tobytes())

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum `.grad` over the ranks in place, in fp32 or better; None stays where no rank has one."""
        with peer_errors():
            self._buckets_of(parameters).finish()

    def leave(self) -> None:
        """Whole copies of a model are inside no collective before all have agreed to go on."""

    def was_let_out(self, trouble: BaseException) -> bool:
        """Only where rows were to travel."""
        return isinstance(trouble, LetOut)

    def renew(self) -> None:
        """Answer the buckets of gradients that some rank has sent already, and drop them."""
        if self._buckets is not None:
            with peer_errors():
                self._buckets.drop(int(max(row[0] for row in self.exchange([float(self._buckets.sent)]))))

    def last_backward(self) -> None:
        """From here on a bucket of gradients travels as soon as it is complete."""
        if self._buckets is not None:
            self._buckets.arm()

    def barrier(self) -> None:
        """Wait for all."""
        self.exchange([0.0])

    def close(self) -> None:
        """Leave the group; other ranks that still need this one find out. Doing it again changes nothing."""
        if self._buckets is not None:
            self._buckets.close()
        gradients, self._buckets, self._for_gradients = self._for_gradients, None, None
        if not dist.is_initialized():
            return
        if self.ours:
            dist.destroy_process_group()
        elif gradients is not None:
            dist.destroy_process_group(gradients)

    def _buckets_of(self, parameters: Sequence[Tensor]) -> Buckets:
        """Made at the first update of a model and kept: hooks cost nothing while they are not armed."""
        if self._for_gradients is None:
            # Of their own: buckets are on their way while words are exchanged.
            members = dist.get_process_group_ranks(self.group)
            self._for_gradients = dist.new_group(members, timeout=patience(self.group))
        if self._buckets is not None and not self._buckets.hold(parameters):
            self._buckets.close()
            self._buckets = None
        if self._buckets is None:
            self._buckets = Buckets(parameters, self._for_gradients)
        return self._buckets


def patience(group: ProcessGroup | None = None) -> timedelta:
    """How long a rank waits for another in a group of torch.distributed; None: in the default one.

    Groups that are opened beside it are told so: left alone they take torch's own, 10 minutes for NCCL.
    """
    found: Any = dist.group.WORLD if group is None else group
    # Words travel on the CPU; a group of the caller's own may know accelerators alone.
    kinds = found._device_types
    kind = torch.device("cpu") if torch.device("cpu") in kinds else kinds[0]
    options = found._get_backend(kind).options
    return default_pg_timeout if options is None else options._timeout  # imagined ranks have none


def _bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


class peer_errors:
    """Turn what torch raises when a peer is gone, or does not answer in time, into PeerFailed."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        other = isinstance(error, (NotImplementedError, torch.OutOfMemoryError))
        if isinstance(error, RuntimeError) and not other:
            first = str(error).partition("\n")[0]
            raise PeerFailed(f"another rank is gone or does not answer ({first})") from error


def seconds(amount: float) -> timedelta:
    """For torch.distributed, which takes nothing else."""
    return timedelta(seconds=amount)

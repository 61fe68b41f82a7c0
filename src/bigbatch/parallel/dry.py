"""One rank of a group whose other ranks do not exist, and what it would send them.

Torch's fake group answers at once: a rank hears of the others what it said itself, sums stay its own. Numbers are
meaningless; shapes, groups and the order of collectives are those of a real group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.distributed_c10d import _resolve_process_group  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.tensor import DTensor

from bigbatch.errors import UsageError
from bigbatch.parallel.group import GroupWorld
from bigbatch.parallel.mesh import AXES, MeshWorld
from bigbatch.protocols import World

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.distributed import ProcessGroup


EVERYBODY = "all ranks"


@dataclass(frozen=True)
class Collective:
    """One collective as it was called."""

    kind: str
    group: str
    """Name of the group, as torch has it."""
    ranks: int
    payload_bytes: int
    """Of the whole tensors: what is summed, or what everybody has after a gather."""


@contextmanager
def group_of_one(ranks: int) -> Iterator[World]:
    """Rank 0 of so many, the others imagined.

    Raises:
        UsageError: this process is one of several already.
    """
    if dist.is_initialized():
        raise UsageError("--dry-run imagines the other ranks: start it as one process, without torchrun")
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield GroupWorld(ours=True)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def axis_names(world: World) -> dict[str, str]:
    """Name of a group -> the axis of the mesh that its ranks lie along."""
    if not isinstance(world, MeshWorld):
        return {}
    sizes = dict(zip(AXES, (world.shape.replicate, world.shape.shard, world.shape.tensor), strict=True))
    return {world.mesh[axis].get_group().group_name: axis for axis in AXES if sizes[axis] > 1}


def arrangement(world: World) -> str:
    """How the ranks are arranged, in words."""
    return str(world.shape) if isinstance(world, MeshWorld) else f"replicate {world.size}"


def stand_ins(types: Sequence[type]) -> bool:
    """Whether tensors only stand for others: parts of a whole, or what is still on its way. Torch turns operations
    on them into operations on those others.
    """
    return any(issubclass(kind, (DTensor, AsyncCollectiveTensor)) for kind in types)


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def collective_of(func: OpOverload, args: Sequence[Any]) -> Collective | None:
    """What an operation of torch sends; None for all that stay here.

    Args:
        func: the operation, as a dispatch mode sees it.
        args: its positional arguments.

    Raises:
        NotImplementedError: a collective that nobody has counted yet; a dry run must not miss one silently.
    """
    if func.namespace not in ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor"):
        return None
    name = func._schema.name.partition("::")[2]
    if name in _SILENT:
        return None
    if name not in _KINDS:
        raise NotImplementedError(f"the dry run does not know the collective {func}")
    kind, place, size = _KINDS[name]
    found = args[place]
    group = _named(found) if isinstance(found, str) else dist.ProcessGroup.unbox(found)
    return Collective(kind=kind, group=group.group_name, ranks=group.size(), payload_bytes=size(args))


def _named(name: Any) -> ProcessGroup:
    """The group of that name, as functional collectives say it."""
    return _resolve_process_group(name)


def _bytes(tensors: Any) -> int:
    """Of tensors in lists in lists."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(_bytes(item) for item in tensors)


def _first(args: Sequence[Any]) -> int:
    return _bytes(args[0])


def _second(args: Sequence[Any]) -> int:
    return _bytes(args[1])


def _times_ranks(args: Sequence[Any]) -> int:
    return _bytes(args[0]) * args[1]


_SILENT = ("wait_tensor", "barrier", "monitored_barrier_", "_wrap_tensor_autograd")
_KINDS: Mapping[str, tuple[str, int, Callable[[Sequence[Any]], int]]] = {
    "allreduce_": ("all_reduce", 1, _first),
    "broadcast_": ("broadcast", 1, _first),
    "scatter_": ("scatter", 2, _second),
    "allgather_": ("all_gather", 2, _first),
    "_allgather_base_": ("all_gather", 2, _first),
    "_reduce_scatter_base_": ("reduce_scatter", 2, _second),
    "alltoall_base_": ("all_to_all", 2, _second),
    "all_reduce": ("all_reduce", 2, _first),
    "all_reduce_": ("all_reduce", 2, _first),
    "broadcast": ("broadcast", 2, _first),
    "all_gather_into_tensor": ("all_gather", 2, _times_ranks),
    "reduce_scatter_tensor": ("reduce_scatter", 3, _first),
    "all_to_all_single": ("all_to_all", 3, _first),
    "shard_dim_alltoall": ("all_to_all", 3, _first),
}
"""Operation -> kind, place of the group among its arguments, payload. `c10d` takes outputs first, then inputs."""

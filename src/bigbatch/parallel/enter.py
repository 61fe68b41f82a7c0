"""Into the group: one process is a world of its own, several find each other through torch.distributed."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from bigbatch.errors import MachineError
from bigbatch.parallel.group import GroupWorld, seconds
from bigbatch.parallel.single import SingleWorld
from bigbatch.places import Place
from bigbatch.protocols import World


def enter(place: Place | None, *, device: str | None = None, timeout_seconds: float = 1800.0) -> World:
    """Join the other processes: where `place` says, else at the address that torchrun leaves in the environment.

    A group that the caller's program has opened already is used and stays open.

    Args:
        place: this process among the others; None: it is alone.
        device: `plan.device`; None: accelerators where there are some.
        timeout_seconds: longest wait for another rank.

    Raises:
        MachineError: the others were not found in time, or the port is taken.
    """
    if place is None or place.size == 1:
        return SingleWorld()
    ours = not dist.is_initialized()
    if ours:
        accelerated = torch.cuda.is_available() and not (device or "cuda").startswith("cpu")
        if accelerated:
            torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if accelerated else "gloo"
        try:
            _open(place, backend, seconds(timeout_seconds))
        except (dist.DistError, RuntimeError, ValueError) as error:
            raise MachineError(
                f"rank {place.rank} of {place.size} could not join the group: {str(error).partition(chr(10))[0]}"
            ) from error
    return GroupWorld(ours=ours)


def _open(place: Place, backend: str, timeout: timedelta) -> None:
    if place.meeting is None:
        dist.init_process_group(backend, timeout=timeout)
        return
    from bigbatch.parallel.meeting import store_of

    store = store_of(place, timeout, native="nccl" in backend)
    dist.init_process_group(backend, timeout=timeout, store=store, rank=place.rank, world_size=place.size)

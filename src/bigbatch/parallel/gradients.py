"""Gradients travel in buckets, while backward still computes the others.

A bucket holds the gradients of some parameters, the last ones first: backward finishes them first. It leaves when all
of its gradients are there, or, at the end of the pass, with zeros for those that are not. Every rank sends the same
buckets in the same order, whatever it computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

BUCKET_BYTES = 25 * 2**20
"""As torch's DistributedDataParallel has it."""
_LOW = (torch.bfloat16, torch.float16)


class Buckets:
    """Sums the gradients of some parameters over a group."""

    def __init__(self, parameters: Sequence[Tensor], group: Any, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        """Watch the parameters.

        Args:
            parameters: trainable, each once, in the same order on every rank.
            group: of torch.distributed.
            bucket_bytes: most bytes of a bucket.
        """
        self._parameters = list(parameters)
        self._group = group
        self._buckets = _divided(self._parameters, bucket_bytes)
        self._bucket_of = {
            parameter: number for number, bucket in enumerate(self._buckets) for parameter in bucket
        }
        self._armed = False
        self._missing = [0] * len(self._buckets)
        self._sent: list[tuple[Any, list[Tensor]]] = []
        self.bytes_sent = 0
        """Of gradients that were given to the group, since the beginning."""
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._arrived) for parameter in self._parameters
        ]

    def arm(self) -> None:
        """The next backward pass completes the gradients."""
        self._armed = True
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Send what has not been sent, wait for all, and put the sums into `.grad`."""
        self._armed = False
        present = torch.tensor(
            [parameter.grad is not None for parameter in self._parameters], dtype=torch.uint8
        )
        while len(self._sent) < len(self._buckets):
            self._send()
        dist.all_reduce(present, op=dist.ReduceOp.MAX, group=self._group)
        anywhere = dict(zip(self._parameters, present.tolist(), strict=True))
        for bucket, (work, pieces) in zip(self._buckets, self._sent, strict=True):
            work.wait()
            for parameter, piece in zip(bucket, pieces, strict=True):
                _put(parameter, piece, bool(anywhere[parameter]))
        self._sent = []

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, parameter: Tensor) -> None:
        if not self._armed:
            return
        self._missing[self._bucket_of[parameter]] -= 1
        # In order: a bucket that is complete early waits for those before it.
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        """Start the next bucket on its way."""
        bucket = self._buckets[len(self._sent)]
        flat = torch.cat([_gradient(parameter).flatten() for parameter in bucket])
        pieces = [
            piece.view(parameter.shape)
            for piece, parameter in zip(flat.split([item.numel() for item in bucket]), bucket, strict=True)
        ]
        self.bytes_sent += flat.nbytes
        self._sent.append((dist.all_reduce(flat, group=self._group, async_op=True), pieces))


def _gradient(parameter: Tensor) -> Tensor:
    """What this rank has, in fp32 or better; zeros when it has nothing."""
    dtype = torch.float32 if parameter.dtype in _LOW else parameter.dtype
    if parameter.grad is None:
        return torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
    return parameter.grad.to(dtype)


def _put(parameter: Tensor, total: Tensor, anywhere: bool) -> None:
    if not anywhere:
        parameter.grad = None
    elif parameter.grad is None:
        parameter.grad = total.to(parameter.dtype)
    else:
        parameter.grad.copy_(total)


def _divided(parameters: Sequence[Tensor], bucket_bytes: int) -> list[list[Tensor]]:
    """The parameters, the last one first, in buckets of one dtype and device."""
    buckets: list[list[Tensor]] = []
    room, kind = 0, None
    for parameter in reversed(parameters):
        own = (parameter.dtype, parameter.device)
        if not buckets or parameter.nbytes > room or own != kind:
            buckets.append([])
            room, kind = bucket_bytes, own
        buckets[-1].append(parameter)
        room -= parameter.nbytes
    return buckets

"""Gradients travel in buckets, while backward still computes the others.

A bucket holds the gradients of some parameters, the last ones first: backward finishes them first. It leaves when all
of its gradients are there, or, at the end of the pass, with zeros for those that are not. Every rank sends the same
buckets in the same order, whatever it computed. Few are on their way at a time, and their memory is used again, so that
the copies of gradients that they are stay small. A bucket of one large gradient is no copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from bigbatch.rules.buckets import BUCKET_BYTES, ON_THEIR_WAY

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


_LOW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class _Sent:
    """A bucket on its way."""

    work: Any
    flat: Tensor
    """What becomes the sum."""
    pieces: list[Tensor]
    """Of each parameter: views of it."""
    memory: Tensor | None
    """To be used again; None where the sum is the gradient itself, whose memory is not ours."""


class Buckets:
    """Sums the gradients of some parameters over a group, which nobody else uses: buckets may be on their way while
    ranks agree about something else.
    """

    def __init__(
        self, parameters: Sequence[Tensor], group: ProcessGroup | None, *, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        """Watch the parameters.

        Args:
            parameters: trainable, each once, in the same order on every rank.
            group: of torch.distributed.
            bucket_bytes: most bytes of a bucket, unless one gradient has more.
        """
        self._parameters = list(parameters)
        self._group = group
        self._bucket_bytes = bucket_bytes
        self._buckets = divided(self._parameters, bucket_bytes)
        self._numbers = sum(parameter.numel() for parameter in self._parameters)
        self._bucket_of = {
            parameter: number for number, bucket in enumerate(self._buckets) for parameter in bucket
        }
        self._armed = False
        self._missing = [0] * len(self._buckets)
        self._under_way: list[_Sent] = []
        """The latest ones, oldest first."""
        self._spare: list[Tensor] = []
        """Memory of buckets that came back."""
        self.sent = 0
        """Buckets of this pass that were given to the group."""
        self.bytes_sent = 0
        """Of gradients that were given to the group, since the beginning."""
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._arrived) for parameter in self._parameters
        ]

    def hold(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are the parameters that are watched, in this order."""
        return len(parameters) == len(self._parameters) and all(map(is_, parameters, self._parameters))

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
        while self.sent < len(self._buckets):
            self._receive(ON_THEIR_WAY - 1)
            self._send()
        dist.all_reduce(present, op=dist.ReduceOp.MAX, group=self._group)
        self._receive(0)
        for parameter, anywhere in zip(self._parameters, present.tolist(), strict=True):
            if not anywhere:
                parameter.grad = None
        self.sent = 0

    def drop(self, most_sent: int) -> None:
        """Forget the pass. Ranks whose last backward had begun have sent buckets already: the others answer them.

        Args:
            most_sent: the largest `sent` of all ranks.
        """
        self._armed = False
        for parameter in self._parameters:
            parameter.grad = None
        while self.sent < most_sent:
            self._forget(ON_THEIR_WAY - 1)
            self._send()
        self._forget(0)
        self.sent = 0

    def close(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, parameter: Tensor) -> None:
        if not self._armed:
            return
        self._missing[self._bucket_of[parameter]] -= 1
        # In order: a bucket that is complete early waits for those before it.
        while self.sent < len(self._buckets) and self._missing[self.sent] == 0:
            self._receive(ON_THEIR_WAY - 1)
            self._send()

    def _send(self) -> None:
        """Start the next bucket on its way."""
        bucket = self._buckets[self.sent]
        gradients = [_gradient(parameter) for parameter in bucket]
        if len(gradients) == 1 and gradients[0].is_contiguous():
            flat, pieces, memory = gradients[0], gradients, None
        else:
            numbers = sum(each.numel() for each in gradients)
            memory = self._memory(numbers, gradients[0])
            flat = memory[:numbers]
            torch.cat([gradient.flatten() for gradient in gradients], out=flat)
            parts = flat.split([parameter.numel() for parameter in bucket])
            pieces = [part.view(parameter.shape) for part, parameter in zip(parts, bucket, strict=True)]
        self.sent += 1
        self.bytes_sent += flat.nbytes
        work = dist.all_reduce(flat, group=self._group, async_op=True)
        self._under_way.append(_Sent(work, flat, pieces, memory))

    def _memory(self, numbers: int, like: Tensor) -> Tensor:
        """Of a bucket that came back, if it is large enough."""
        for place, spare in enumerate(self._spare):
            if (spare.dtype, spare.device) == (like.dtype, like.device) and spare.numel() >= numbers:
                return self._spare.pop(place)
        largest = max(numbers, self._bucket_bytes // like.element_size())
        return torch.empty(min(largest, self._numbers), dtype=like.dtype, device=like.device)

    def _receive(self, at_most: int) -> None:
        """Wait until so many are on their way, and put the sums of the others into `.grad`."""
        for bucket, pieces in self._come_back(at_most):
            for parameter, piece in zip(bucket, pieces, strict=True):
                if parameter.grad is None:
                    parameter.grad = piece.to(parameter.dtype, copy=True)
                elif parameter.grad is not piece:
                    parameter.grad.copy_(piece)

    def _forget(self, at_most: int) -> None:
        for _ in self._come_back(at_most):
            pass

    def _come_back(self, at_most: int) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The oldest buckets and their sums, until so many are on their way."""
        while len(self._under_way) > at_most:
            bucket = self._buckets[self.sent - len(self._under_way)]
            oldest = self._under_way.pop(0)
            oldest.work.wait()
            yield bucket, oldest.pieces
            if oldest.memory is not None:
                self._spare.append(oldest.memory)


def _gradient(parameter: Tensor) -> Tensor:
    """What this rank has; zeros when it has nothing."""
    dtype = torch.float32 if parameter.dtype in _LOW else parameter.dtype
    if parameter.grad is None:
        return torch.zeros(parameter.shape, dtype=dtype, device=parameter.device)
    return parameter.grad.to(dtype)


def divided(parameters: Sequence[Tensor], bucket_bytes: int = BUCKET_BYTES) -> list[list[Tensor]]:
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

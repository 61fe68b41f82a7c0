"""Runs micro-batches, reads the clock and counts bytes; leaves no trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bigbatch.graph.recompute import KEPT
from bigbatch.model.untouched import untouched
from bigbatch.probe.hardware import resident_bytes, synchronize
from bigbatch.protocols import Forward, Losses
from bigbatch.samples import MicroBatch, Targets

if TYPE_CHECKING:
    from torch._ops import OpOverload


TIMED = 3
"""Micro-batches that are timed of each size."""


class Bench:
    """Runs micro-batches and reads the clock."""

    def __init__(
        self, *, forward: Forward, task: Losses, device: torch.device, weight_copies_bytes: int = 0
    ) -> None:
        self.weight_copies_bytes = weight_copies_bytes
        self._forward = forward
        self._task = task
        self._device = device
        self.high_water_bytes = 0
        """Highest memory in use seen between forward and backward, and after them."""
        self.forward_seconds = 0.0
        """Of the forward passes of all micro-batches that were timed forward and backward, on a CPU."""

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Sum of all terms over the units; its scale does not matter for time and memory."""
        targets = tensors_of(micro_batch.targets, self._device)
        terms = self._task.loss(self._forward(micro_batch), targets)
        return torch.stack([values.sum() for values in terms.values()]).sum()

    def train_seconds_per_token(self, micro_batches: Sequence[MicroBatch]) -> list[float]:
        """Forward and backward of each micro-batch; gradients add up as in training."""
        return self._timed(micro_batches, self._train)

    def _train(self, micro_batch: MicroBatch) -> None:
        start = time.perf_counter()
        loss = self.loss(micro_batch)
        self.forward_seconds += time.perf_counter() - start
        self._look_at_memory()
        loss.backward()
        self._look_at_memory()

    def _look_at_memory(self) -> None:
        self.high_water_bytes = max(self.high_water_bytes, resident_bytes(str(self._device)))

    def forward_seconds_per_token(self, micro_batches: Sequence[MicroBatch]) -> list[float]:
        """Forward of each micro-batch, without gradient."""
        with torch.no_grad():
            return self._timed(micro_batches, self.loss)

    def _timed(
        self, micro_batches: Sequence[MicroBatch], work: Callable[[MicroBatch], object]
    ) -> list[float]:
        seconds = []
        for micro_batch in micro_batches:
            synchronize(str(self._device))
            start = time.perf_counter()
            work(micro_batch)
            synchronize(str(self._device))
            seconds.append((time.perf_counter() - start) / micro_batch.computed_tokens)
        return seconds

    def activation_bytes(
        self,
        micro_batch: MicroBatch,
        module: nn.Module,
        kept: list[float] | None = None,
        timed: list[float] | None = None,
    ) -> float:
        """Peak bytes above the resting state, per computed token, of forward and backward.

        Args:
            micro_batch: whose size is typical.
            module: that is run.
            kept: receives the part that matrix products and attention give, per computed token.
            timed: on a CPU, asks for the backward pass, too, and receives the seconds per computed token of both:
                counting adds about a hundredth.
        """
        products = _Kept()
        if self._device.type == "cuda":
            before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            with products:
                loss = self.loss(micro_batch)
            loss.backward()
            found = torch.cuda.max_memory_allocated(self._device) - before
        else:
            start = time.perf_counter()
            with products:
                losses: list[Tensor] = []
                found = saved_bytes(lambda: losses.append(self.loss(micro_batch)), module)
            if timed is not None:
                self.forward_seconds += time.perf_counter() - start
                self._look_at_memory()
                losses[0].backward()
                self._look_at_memory()
                timed.append((time.perf_counter() - start) / micro_batch.computed_tokens)
        if kept is not None:
            kept.append(products.bytes / micro_batch.computed_tokens)
        return max(0, found - self.weight_copies_bytes) / micro_batch.computed_tokens


def saved_bytes(run: Callable[[], object], module: nn.Module) -> int:
    """Bytes that a forward pass keeps for its backward pass, and the largest temporaries of both.

    Resident memory of a process is too noisy to measure this on a CPU, so storages are counted: those that
    autograd saves, each once, parameters and buffers not, and twice the largest for the gradients in flight.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        # Not the tensor itself: an output that its own node keeps would be a cycle, and the graph would stay.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(sizes.values()) + 2 * max(sizes.values(), default=0)


def warm_up(forward: Any, task: Losses, micro_batch: MicroBatch) -> None:
    """Run once, forward and backward: what is compiled or allocated at first use is not the first update's time.

    Args:
        forward: runs the model; weights, gradients, modes and generators are as before afterwards.
        task: gives loss and denominators.
        micro_batch: of the size that the first update will have.
    """
    module: nn.Module = forward.module
    with untouched(module, forward.in_place):
        module.train()
        Bench(forward=forward, task=task, device=forward.device).train_seconds_per_token([micro_batch])


class _Kept(TorchDispatchMode):
    """Counts the bytes of all results of matrix products and attention."""

    bytes = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func in KEPT:
            outputs = result if isinstance(result, tuple) else (result,)
            self.bytes += sum(item.nbytes for item in outputs if isinstance(item, Tensor))
        return result


def spread(micro_batches: Sequence[MicroBatch], count: int = TIMED) -> list[MicroBatch]:
    """A few, evenly spaced: micro-batches come in order of length, and speed depends on it."""
    count = min(count, len(micro_batches))
    return [micro_batches[(2 * index + 1) * len(micro_batches) // (2 * count)] for index in range(count)]


def tensors_of(targets: Targets, device: torch.device) -> Targets:
    """The targets as tensors on the device."""
    # A copy: arrays of the token cache are memory-mapped and read-only, which torch does not take.
    return targets.map(lambda values: torch.from_numpy(np.array(values)).to(device))

"""Times a few real micro-batches before the run, so that the plan can predict instead of guess.

Nothing is left behind: no gradient, no changed weight or buffer, the generators where they were, every module
in the mode it was in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bigbatch.probe.hardware import peak_memory_bytes, resident_bytes, synchronize
from bigbatch.protocols import Forward, Task
from bigbatch.records import CalibrationFacts, MicroBatch, Targets

CPU_CANDIDATES = (512, 1024, 2048, 4096)
ACCELERATOR_CANDIDATES = (2048, 4096, 8192, 16_384, 32_768, 65_536)
_TIMED = 3
"""Micro-batches that are timed of each size."""
_ABOUT_AS_FAST = 1.03
"""Sizes within this factor of the fastest differ by less than a measurement repeated on a quiet machine."""
_CLEARLY_SLOWER = 1.05
"""Larger micro-batches are not tried once one was this much slower than the best."""
_THROW_AWAY_VALUES = 16_000_000
"""Parameters that the optimiser is timed on; more are scaled up, so that timing needs little memory."""


def calibrate(
    forward: Forward,
    task: Task,
    module: nn.Module,
    make_micro_batches: Callable[[int], Sequence[MicroBatch]],
    optimizer_factory: Callable[[nn.Module], Optimizer],
    *,
    candidates: Sequence[int] | None = None,
    budget_seconds: float = 8.0,
    memory_bytes: int | None = None,
) -> CalibrationFacts:
    """Find the fastest micro-batch and measure speed and memory with it.

    Args:
        forward: the path that training will take (packed or padded).
        task: gives the loss.
        module: the model behind `forward`, on its device.
        make_micro_batches: `micro_tokens` -> real micro-batches of that size, in order of length; a global
            batch cut as training will cut it is right. A few, evenly spaced, are timed.
        optimizer_factory: module -> the optimiser that training will use; given throw-away parameters.
        candidates: sizes to try, smallest first; by default `CPU_CANDIDATES` or `ACCELERATOR_CANDIDATES`.
        budget_seconds: no further size is tried when it would take longer than this in all.
        memory_bytes: no size is tried that would need more than this.

    Returns:
        Sizes are compared by their best micro-batch, since other work on the machine only ever slows down.
        The speed of the chosen size is then measured again, as a median: what to expect, not the best case.
    """
    device = next(module.parameters()).device
    name = str(device)
    sizes = candidates or (CPU_CANDIDATES if device.type == "cpu" else ACCELERATOR_CANDIDATES)
    resting = resident_bytes(name)
    bench = _Bench(forward=forward, task=task, device=device)
    with _untouched(module):
        module.train()
        first = _spread(make_micro_batches(sizes[0]))
        activation_bytes = bench.activation_bytes(first[0], module)
        tried = try_sizes(
            lambda size: min(bench.train_seconds_per_token(_spread(make_micro_batches(size)))),
            sizes,
            budget_seconds=budget_seconds,
            allowed=lambda size: (
                memory_bytes is None or resting + 2 * activation_bytes * size <= memory_bytes
            ),
        )
        best = smallest_of_the_fastest(tried)
        batches = _spread(make_micro_batches(best))
        largest = max(batches, key=lambda one: one.computed_tokens)
        activation_bytes = bench.activation_bytes(largest, module)
        train_seconds = median(bench.train_seconds_per_token(batches * 2))
        module.eval()
        forward_seconds = median(bench.forward_seconds_per_token(batches * 2))
    # Libraries load on first use and a heap keeps what it was given: what the run will rest on is the level
    # that real micro-batches reached, less the parts that the plan counts by itself.
    gradients = [parameter.nbytes for parameter in module.parameters() if parameter.requires_grad]
    activations = round(activation_bytes * largest.computed_tokens)
    resting = max(resting, bench.high_water_bytes - sum(gradients) - activations)
    if device.type == "cpu":
        # The largest gradient (word embeddings) exists twice while it is added to the one before.
        resting += max(gradients)
    return CalibrationFacts(
        seconds_per_token=train_seconds,
        seconds_per_update=_update_seconds(module, optimizer_factory, name),
        seconds_per_token_forward=forward_seconds,
        activation_bytes_per_token=activation_bytes,
        resting_bytes=resting,
        micro_tokens=best,
        tried=tried,
        # The kernel updates its high-water mark late: it can lie a little below what is resident now.
        peak_bytes=max(peak_memory_bytes(name), resting),
    )


def smallest_of_the_fastest(tried: Mapping[int, float]) -> int:
    """The size to use: among those that are about as fast as the fastest, the one that needs least memory.

    Args:
        tried: micro-batch tokens -> seconds per token.
    """
    fastest = min(tried.values())
    return min(size for size, seconds in tried.items() if seconds <= _ABOUT_AS_FAST * fastest)


def try_sizes(
    measure: Callable[[int], float],
    sizes: Sequence[int],
    *,
    budget_seconds: float,
    allowed: Callable[[int], bool] = lambda size: True,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Measure sizes from small to large until it does not pay any more.

    Args:
        measure: size -> seconds per token.
        sizes: smallest first; the first is measured in any case.
        budget_seconds: a size that would overrun it is not started.
        allowed: whether a size may be tried at all (memory).
        clock: seconds, for the budget.

    Returns:
        Seconds per token of every size that was measured.
    """
    start = clock()
    tried: dict[int, float] = {}
    last_seconds = 0.0
    for size in sizes:
        if tried:
            expected = last_seconds * size / max(tried)
            over = clock() - start + expected > budget_seconds
            if over or not allowed(size) or tried[max(tried)] > _CLEARLY_SLOWER * min(tried.values()):
                break
        begun = clock()
        try:
            tried[size] = measure(size)
        except torch.OutOfMemoryError:
            if not tried:
                raise
            break
        last_seconds = clock() - begun
    return tried


class _Bench:
    """Runs micro-batches and reads the clock."""

    def __init__(self, *, forward: Forward, task: Task, device: torch.device) -> None:
        self._forward = forward
        self._task = task
        self._device = device
        self.high_water_bytes = 0
        """Highest memory in use seen between forward and backward, and after them."""

    def loss(self, micro_batch: MicroBatch) -> Tensor:
        """Sum of all terms over the units; its scale does not matter for time and memory."""
        targets = _tensors(micro_batch.targets, self._device)
        terms = self._task.loss(self._forward(micro_batch), targets)
        return torch.stack([values.sum() for values in terms.values()]).sum()

    def train_seconds_per_token(self, micro_batches: Sequence[MicroBatch]) -> list[float]:
        """Forward and backward of each micro-batch; gradients add up as in training."""
        return self._timed(micro_batches, self._train)

    def _train(self, micro_batch: MicroBatch) -> None:
        loss = self.loss(micro_batch)
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

    def activation_bytes(self, micro_batch: MicroBatch, module: nn.Module) -> float:
        """Peak bytes above the resting state, per computed token, of forward and backward."""
        self.loss(micro_batch).backward()
        if self._device.type == "cuda":
            before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self.loss(micro_batch).backward()
            found = torch.cuda.max_memory_allocated(self._device) - before
        else:
            found = saved_bytes(lambda: self.loss(micro_batch), module)
        return found / micro_batch.computed_tokens


def saved_bytes(run: Callable[[], Tensor], module: nn.Module) -> int:
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


def _update_seconds(
    module: nn.Module, optimizer_factory: Callable[[nn.Module], Optimizer], device: str
) -> float:
    """Seconds of one clipped update of all trainable parameters, on throw-away ones of their shapes."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    chosen = _some(trainable, _THROW_AWAY_VALUES)
    stand_in = nn.ParameterList([nn.Parameter(torch.zeros_like(parameter)) for parameter in chosen])
    for parameter in stand_in:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = optimizer_factory(stand_in)
    seconds = []
    for _ in range(1 + _TIMED):
        synchronize(device)
        start = time.perf_counter()
        nn.utils.clip_grad_norm_(stand_in.parameters(), 1.0)
        optimizer.step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    share = sum(parameter.numel() for parameter in chosen) / sum(parameter.numel() for parameter in trainable)
    # Optimisers sit in reference cycles: without this their tensors would stay until the next collection.
    optimizer.state.clear()
    for parameter in stand_in:
        parameter.grad = None
        parameter.data = torch.empty(0)
    # The first one allocates the state: once a run, not once an update.
    return median(seconds[1:]) / share


def _some(parameters: Sequence[nn.Parameter], values: int) -> list[nn.Parameter]:
    """Parameters, in order, that together have at most so many values; the smallest if none fits."""
    chosen: list[nn.Parameter] = []
    total = 0
    for parameter in parameters:
        if total + parameter.numel() <= values:
            chosen.append(parameter)
            total += parameter.numel()
    return chosen or [min(parameters, key=lambda parameter: parameter.numel())]


def _spread(micro_batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """A few, evenly spaced: micro-batches come in order of length, and speed depends on it."""
    count = min(_TIMED, len(micro_batches))
    return [micro_batches[(2 * index + 1) * len(micro_batches) // (2 * count)] for index in range(count)]


def _tensors(targets: Targets, device: torch.device) -> Targets:
    # A copy: arrays of the token cache are memory-mapped and read-only, which torch does not take.
    return targets.map(lambda values: torch.from_numpy(np.array(values)).to(device))


@contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Put gradients, buffers, modes and generators back as they were."""
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    modes = [(part, part.training) for part in module.modules()]
    on_cuda = [buffer.device for buffer in module.parameters() if buffer.device.type == "cuda"][:1]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(devices=on_cuda):
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for part, training in modes:
            part.training = training

"""Times a few real micro-batches before the run, so that the plan can predict instead of guess.

Nothing is left behind: no gradient, no changed weight or buffer, the generators where they were, every module
in the mode it was in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bigbatch.facts import CalibrationFacts
from bigbatch.model.untouched import untouched
from bigbatch.plan.choices import ABOUT_AS_FAST
from bigbatch.probe.bench import TIMED, Bench, spread
from bigbatch.probe.hardware import peak_memory_bytes, resident_bytes, synchronize
from bigbatch.probe.stand_in import stand_in
from bigbatch.protocols import Forward, Losses
from bigbatch.samples import MicroBatch

CPU_CANDIDATES = (512, 1024, 2048, 4096)
ACCELERATOR_CANDIDATES = (2048, 4096, 8192, 16_384, 32_768, 65_536)
_EVALUATION_MULTIPLES = (1, 4)
_CPU_TRIAL_TOKENS = 2048
"""About so many tokens are timed of each size on a CPU: measuring must not take longer than what it is to save. An
accelerator computes them in a few milliseconds, so it is given `TIMED` micro-batches of every size."""
_COMPARED = 2
"""Timed passes of each way in `compare`, after one that warms up."""
_CLEARLY_SLOWER = 1.05
"""Larger micro-batches are not tried once one was this much slower than the best."""
_THROW_AWAY_VALUES = 16_000_000
_CPU_THROW_AWAY_VALUES = 4_000_000
"""Parameters that the optimiser is timed on; more are scaled up, so that timing needs little memory, and on a CPU
little time."""
_LEFT_IN_THE_HEAP = 1.2
"""Of a micro-batch's activations: micro-batches differ in size, and what one leaves free does not suit the next. The
heap of a CPU grew by 1.0 and by 1.4 times that within 50 updates of two runs."""
TRIAL_TOKENS = len(CPU_CANDIDATES) * _CPU_TRIAL_TOKENS + 6 * CPU_CANDIDATES[1]
"""About so many are computed forward and backward when a CPU's sizes are tried (`calibrate`)."""


def calibrate(
    forward: Forward,
    task: Losses,
    module: nn.Module,
    make_micro_batches: Callable[[int], Sequence[MicroBatch]],
    optimizer_factory: Callable[[nn.Module], Optimizer],
    *,
    candidates: Sequence[int] | None = None,
    evaluation_candidates: Sequence[int] | None = None,
    budget_seconds: float = 8.0,
    memory_bytes: int | None = None,
    in_place: Sequence[Tensor] = (),
    weight_copies_bytes: int = 0,
    say: Callable[[str], None] = lambda text: None,
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
        evaluation_candidates: sizes of a forward pass without gradient; by default multiples of the size that was
            found for training.
        budget_seconds: no further size is tried when it would take longer than this in all.
        memory_bytes: no size is tried that would need more than this.
        in_place: parameters whose gradients are added to a dense one that is there before.
        weight_copies_bytes: copies of the weights in a low number format: memory of a pass, not of its tokens.
        say: told of each size.

    Returns:
        Sizes are compared by their best micro-batch, since other work on the machine only ever slows down. The
        speed to expect is a median: of those of the chosen size, and of some more.
    """
    device = next(module.parameters()).device
    name = str(device)
    sizes = candidates or (CPU_CANDIDATES if device.type == "cpu" else ACCELERATOR_CANDIDATES)
    resting = resident_bytes(name)
    bench = Bench(forward=forward, task=task, device=device, weight_copies_bytes=weight_copies_bytes)
    with untouched(module, in_place):
        module.train()
        first = spread(make_micro_batches(sizes[0]), 1)[0]
        bench.train_seconds_per_token([first])  # warms up
        activation_bytes = bench.activation_bytes(first, module) if memory_bytes is not None else 0.0
        timed: dict[int, list[float]] = {}

        def train_seconds(size: int) -> float:
            say(f"calibrating: {size:,} tokens at once")
            timed[size] = bench.train_seconds_per_token(
                spread(make_micro_batches(size), _count(size, device))
            )
            return min(timed[size])

        tried = try_sizes(
            train_seconds,
            sizes,
            budget_seconds=budget_seconds,
            allowed=lambda size: (
                memory_bytes is None or resting + 2 * activation_bytes * size <= memory_bytes
            ),
        )
        best = smallest_of_the_fastest(tried)
        batches = make_micro_batches(best)
        largest = max(batches, key=lambda one: one.computed_tokens)
        timed[best] += bench.train_seconds_per_token(spread(batches, 3 - len(timed[best]) % 2))
        kept: list[float] = []
        activation_bytes = bench.activation_bytes(largest, module, kept)
        module.eval()
        multiples = _EVALUATION_MULTIPLES if len(sizes) > 1 else (1,)
        longer = evaluation_candidates or [size * best for size in multiples]
        update_tokens = sum(each.tokens for each in batches)
        forward_tried = try_sizes(
            lambda size: min(
                bench.forward_seconds_per_token(spread(make_micro_batches(size), _count(size, device)))
            ),
            [size for size in longer if size <= max(best, update_tokens)],
            budget_seconds=budget_seconds / 4,
            allowed=lambda size: memory_bytes is None or resting + activation_bytes * size <= memory_bytes,
        )
        longest = smallest_of_the_fastest(forward_tried)
    return CalibrationFacts(
        seconds_per_token=median(timed[best]),
        seconds_per_update=_update_seconds(module, optimizer_factory, name),
        seconds_per_token_forward=forward_tried[longest],
        activation_bytes_per_token=activation_bytes,
        micro_tokens=best,
        tried=tried,
        selective_bytes_per_token=kept[0],
        evaluation_micro_tokens=longest,
        **_memory(bench, module, in_place, resting, round(activation_bytes * largest.computed_tokens)),
    )


def calibrate_one(
    forward: Forward,
    task: Losses,
    module: nn.Module,
    make_micro_batches: Callable[[int], Sequence[MicroBatch]],
    optimizer_factory: Callable[[nn.Module], Optimizer],
    *,
    micro_tokens: int,
    evaluation_micro_tokens: int,
    in_place: Sequence[Tensor] = (),
    weight_copies_bytes: int = 0,
    more: Callable[[float, float], bool] = lambda seconds, seconds_per_token: False,
) -> CalibrationFacts:
    """Measure one size on a CPU, in little more than the time of one micro-batch.

    Args:
        forward, task, module, make_micro_batches, optimizer_factory, in_place, weight_copies_bytes: as of `calibrate`.
        micro_tokens: the size.
        evaluation_micro_tokens: size of evaluations, which is not measured: their speed is that of a forward pass here.
        more: (seconds, seconds per token) -> whether another micro-batch may be timed; there are up to three.
    """
    device = next(module.parameters()).device
    resting = resident_bytes(str(device))
    bench = Bench(forward=forward, task=task, device=device, weight_copies_bytes=weight_copies_bytes)
    kept: list[float] = []
    with untouched(module, in_place):
        module.train()
        batches = make_micro_batches(micro_tokens)
        largest = max(batches, key=lambda one: one.computed_tokens)
        pieces = spread(batches)
        pieces.insert(0, pieces.pop(len(pieces) // 2))  # the typical length first
        timed: list[float] = []
        # Counting the bytes of a pass warms up, too; where there is nothing else to time, it is what is timed.
        activation_bytes = bench.activation_bytes(largest, module, kept, timed if len(batches) == 1 else None)
        for piece in pieces if len(batches) > 1 else ():
            if timed and not more(timed[0] * piece.computed_tokens, timed[0]):
                break
            timed += bench.train_seconds_per_token([piece])
        computed = sum(piece.computed_tokens for piece in pieces[: len(timed)])
    return CalibrationFacts(
        seconds_per_token=median(timed),
        seconds_per_update=_update_seconds(module, optimizer_factory, str(device)),
        seconds_per_token_forward=bench.forward_seconds / computed,
        activation_bytes_per_token=activation_bytes,
        micro_tokens=micro_tokens,
        tried={micro_tokens: min(timed)},
        selective_bytes_per_token=kept[0],
        evaluation_micro_tokens=max(
            micro_tokens, min(evaluation_micro_tokens, sum(each.tokens for each in batches))
        ),
        **_memory(bench, module, in_place, resting, round(activation_bytes * largest.computed_tokens)),
    )


def _memory(
    bench: Bench, module: nn.Module, in_place: Sequence[Tensor], resting: int, activations: int
) -> dict[str, int]:
    """Bytes that the process rests on, and the highest that measuring has reached."""
    name = str(next(module.parameters()).device)
    # Libraries load on first use and a heap keeps what it was given: what the run will rest on is the level
    # that real micro-batches reached, less the parts that the plan counts by itself.
    gradients = [parameter.nbytes for parameter in module.parameters() if parameter.requires_grad]
    counted = sum(gradients) + activations + bench.weight_copies_bytes
    resting = max(resting, bench.high_water_bytes - counted)
    if name == "cpu":
        # The largest gradient (word embeddings) exists twice while it is added to the one before.
        resting += max(
            (item.nbytes for item in module.parameters() if item.requires_grad and item not in set(in_place)),
            default=0,
        )
    # The kernel updates its high-water mark late: it can lie a little below what is resident now.
    peak = max(peak_memory_bytes(name), resting)
    if name == "cpu":
        resting += round(_LEFT_IN_THE_HEAP * activations)
    return {"resting_bytes": resting, "peak_bytes": peak}


def _count(size: int, device: torch.device) -> int:
    """Micro-batches of this size that are timed."""
    return max(1, min(TIMED, _CPU_TRIAL_TOKENS // size)) if device.type == "cpu" else TIMED


def compared_tokens(device: str) -> int:
    """Of the micro-batch that ways to compute are compared on: enough to fill the device, and no more.

    Kernels of an accelerator differ by what they do with long rows of work, not by how fast they start; a CPU is busy
    with a few hundred tokens.
    """
    return 512 if device == "cpu" else 16_384


def compare(
    forwards: Mapping[str, Callable[[], Forward]],
    task: Losses,
    module: nn.Module,
    micro_batches: Sequence[MicroBatch],
) -> tuple[dict[str, float], dict[str, str]]:
    """Time several ways to run the same micro-batches, in turn, so that other work on the machine hits all of them.

    Args:
        forwards: name -> opens the forward; what has `close` is closed after use.
        task: gives the loss.
        module: behind all of them.
        micro_batches: real ones.

    Returns:
        Seconds per token, forward and backward, at best, of those that work; why the others do not.
    """
    device = next(module.parameters()).device
    tried: dict[str, float] = {}
    failed: dict[str, str] = {}
    with untouched(module):
        module.train()
        for _ in range(1 + _COMPARED):
            for name in [name for name in forwards if name not in failed]:
                forward: Any = forwards[name]()
                bench = Bench(forward=forward, task=task, device=device)
                try:
                    seconds = min(bench.train_seconds_per_token(micro_batches))
                    tried[name] = min(seconds, tried.get(name, seconds))
                except Exception as error:  # a kernel that this machine or this model does not have
                    failed[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                    tried.pop(name, None)
                finally:
                    forward.close()
    return tried, failed


def smallest_of_the_fastest(tried: Mapping[int, float]) -> int:
    """The size to use: among those that are about as fast as the fastest, the one that needs least memory.

    Args:
        tried: micro-batch tokens -> seconds per token.
    """
    fastest = min(tried.values())
    return min(size for size, seconds in tried.items() if seconds <= ABOUT_AS_FAST * fastest)


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


def _update_seconds(
    module: nn.Module, optimizer_factory: Callable[[nn.Module], Optimizer], device: str
) -> float:
    """Seconds of one clipped update of all trainable parameters, on throw-away ones of their shapes."""
    names = {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}
    trainable = list(names)
    chosen = _some(trainable, _CPU_THROW_AWAY_VALUES if device == "cpu" else _THROW_AWAY_VALUES)
    # Under their own names: what an optimiser does with a tensor may depend on where it sits.
    tried = stand_in({names[parameter]: torch.zeros_like(parameter) for parameter in chosen})
    for parameter in tried.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = optimizer_factory(tried)
    seconds = []
    for _ in range(1 + TIMED):
        synchronize(device)
        start = time.perf_counter()
        nn.utils.clip_grad_norm_(tried.parameters(), 1.0)
        optimizer.step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    share = sum(parameter.numel() for parameter in chosen) / sum(parameter.numel() for parameter in trainable)
    # Optimisers sit in reference cycles: without this their tensors would stay until the next collection.
    optimizer.state.clear()
    for parameter in tried.parameters():
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

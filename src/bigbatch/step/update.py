"""One update of the weights, on one screen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigbatch.errors import DoesNotFit
from bigbatch.optim.build import set_lr
from bigbatch.parallel.agree import alone, is_memory_error, summed, together
from bigbatch.precision.loss_scale import GradientOverflow, LossScale
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.protocols import Executor, Losses, World
from bigbatch.records import GlobalBatch, LossSums, MicroBatch, Update

if TYPE_CHECKING:
    from bigbatch.step.noise import NoiseMeter
    from bigbatch.step.replicas import Apart


@dataclass(frozen=True, kw_only=True)
class StepParts:
    """What an update is made of; built once by `build.build`."""

    task: Losses
    executor: Executor
    optimizer: torch.optim.Optimizer
    parameters: Sequence[Tensor]
    """Trainable parameters, tied ones once; this rank's parts of them."""
    world: World
    clip: float | None
    """Largest L2 norm of the whole gradient; None leaves it alone."""
    loss_scale: LossScale | None = None
    """fp16: what the executor multiplied the gradient by."""
    device: str = "cpu"
    """Where the model is; its memory is what `peak_memory_bytes` reports."""
    apart: Apart | None = None
    """Replicas that train apart (`step.apart`)."""
    noise: NoiseMeter | None = None
    """Of an update whose gradient noise is measured; it has watched the micro-batches."""


def apply_update(
    parts: StepParts,
    batch: GlobalBatch,
    micro_batches: Iterable[MicroBatch],
    *,
    lr: float,
    tokens_before: int,
) -> Update:
    """Move the weights by one global batch, unless its loss or gradient is not finite.

    Args:
        parts: model side of the update.
        batch: all samples of the update, on every rank; its targets give the denominators before any forward.
        micro_batches: this rank's part of the same samples, cut to what fits.
        lr: learning rate of this update.
        tokens_before: real tokens consumed by earlier updates.

    Returns:
        The record; `skipped` when nothing was changed because something was not finite, `empty` when nothing in the
        batch counts.

    Raises:
        OutOfMemory: a micro-batch did not fit; weights and optimiser are untouched.
        GradientOverflow: not finite at a loss scale that can still be halved; untouched as well.
        DoesNotFit: the optimiser's own state did not fit, which no smaller micro-batch cures.
    """
    started = time.perf_counter()
    world, optimizer = parts.world, parts.optimizer
    optimizer.zero_grad(set_to_none=True)
    denominators = alone(world, lambda: parts.task.denominators(batch.targets))
    if not any(denominators.values()):
        return nothing_learnt(parts, batch, denominators, lr=lr, tokens_before=tokens_before)
    mine = together(world, lambda: parts.executor.accumulate(batch.update, micro_batches, denominators))
    world.reduce_gradients(parts.parameters)
    sums, peak_bytes = summed(world, [*denominators], mine, peak_memory_bytes(parts.device))
    touched = [parameter for parameter in parts.parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in touched if parameter.grad is not None]
    if parts.loss_scale is not None:
        parts.loss_scale.unscale(gradients)
    norm = world.sum_of_squares(gradients, touched).sum().sqrt()
    grad_norm = float(norm)
    finite = math.isfinite(grad_norm) and math.isfinite(sums.loss)
    if not finite and is_overflow(parts.loss_scale, sums.loss):
        raise GradientOverflow
    if finite:
        if parts.noise is not None:
            parts.noise.read(1.0 if parts.loss_scale is None else parts.loss_scale.value)
        if parts.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parts.parameters, parts.clip, norm)
        set_lr(optimizer, lr)
        move(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return Update(
        step=batch.update,
        samples=batch.first_position + batch.samples,
        tokens=tokens_before + batch.tokens,
        batch_samples=batch.samples,
        batch_tokens=batch.tokens,
        loss=sums.loss,
        terms=told_terms(sums.terms, denominators),
        grad_norm=grad_norm,
        lr=lr,
        seconds=time.perf_counter() - started,
        wait_seconds=parts.executor.wait_seconds,
        padding_share=1 - sums.real_tokens / max(sums.computed_tokens, 1),
        peak_memory_bytes=peak_bytes,
        skipped=not finite,
    )


def nothing_learnt(
    parts: StepParts, batch: GlobalBatch, terms: Iterable[str], *, lr: float, tokens_before: int
) -> Update:
    """The record of a batch in which nothing counts. Every rank knows the whole batch, so all find it empty alike:
    none runs the model, and weights and optimiser stay as they are.
    """
    started = time.perf_counter()
    nothing = LossSums(terms={}, real_tokens=0, computed_tokens=0)
    together(parts.world, lambda: None)  # a rank that found something else has met trouble
    _, peak_bytes = summed(parts.world, [], nothing, peak_memory_bytes(parts.device))
    return Update(
        step=batch.update,
        samples=batch.first_position + batch.samples,
        tokens=tokens_before + batch.tokens,
        batch_samples=batch.samples,
        batch_tokens=batch.tokens,
        loss=None,
        terms=dict.fromkeys(terms),
        grad_norm=None,
        lr=lr,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_bytes,
        empty=True,
    )


def told_terms(terms: Mapping[str, float], denominators: Mapping[str, float]) -> dict[str, float | None]:
    """Loss of each term as a record tells it; None for one of which nothing counts in the batch."""
    return {term: terms[term] if count else None for term, count in denominators.items()}


def is_overflow(loss_scale: LossScale | None, loss: float) -> bool:
    """Whether a smaller loss scale may help: it cannot when the loss itself, which is not scaled, is not finite."""
    return loss_scale is not None and loss_scale.can_halve and math.isfinite(loss)


def move(optimizer: torch.optim.Optimizer) -> None:
    """Step. Some parameters may have moved when it runs out of memory, so this is not replayed."""
    try:
        optimizer.step()
    except Exception as error:
        if not is_memory_error(error):
            raise
        raise DoesNotFit(
            f"the optimiser ran out of memory ({str(error).partition(chr(10))[0]}); no smaller micro-batch helps: "
            "take an optimiser with less state (optimizer.name=sgd), a smaller model, or train fewer parameters "
            "(model.trainable); the newest checkpoint is intact"
        ) from error

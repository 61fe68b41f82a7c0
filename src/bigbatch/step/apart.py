"""One update of replicas that train apart: each on its own share of the global batch, with its own clipping.

All replicas are computed before any moves: when one cannot be (memory, a signal, a number that is not finite), none
has moved, and the update is done again or skipped by all. That costs a gradient of memory for each replica held.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from bigbatch.data.shares import replica_of
from bigbatch.optim.build import set_lr
from bigbatch.optim.lamb import local_sum_of_squares
from bigbatch.parallel.agree import alone, together
from bigbatch.precision.loss_scale import GradientOverflow
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.records import GlobalBatch, LossSums, MicroBatch, Update
from bigbatch.step.replicas import Apart, Replica
from bigbatch.step.update import StepParts, is_overflow, move, nothing_learnt, told_terms


@dataclass(frozen=True, kw_only=True)
class Passed:
    """Forward and backward of one replica."""

    sums: LossSums
    """Loss of its share."""
    norm: float
    """L2 norm of its gradient."""
    wait_seconds: float
    """For micro-batches to be cut."""


def apply_apart(
    parts: StepParts,
    batch: GlobalBatch,
    micro_batches: Iterable[MicroBatch],
    *,
    lr: float,
    tokens_before: int,
) -> Update:
    """Move every replica by its share of one global batch; they meet when it is time.

    Args:
        parts: model side of the update; `parts.apart` holds the replicas.
        batch: all samples of the update, over all replicas.
        micro_batches: those of the replicas held here, one replica behind the other (`data.shares`).
        lr: learning rate of this update.
        tokens_before: real tokens consumed by earlier updates.

    Returns:
        The record: `loss` over the whole batch; `grad_norm` is the root mean square over replicas.

    Raises:
        OutOfMemory: a micro-batch did not fit; no replica has moved.
        GradientOverflow: not finite at a loss scale that can still be halved; no replica has moved.
        DoesNotFit: an optimiser's own state did not fit.
    """
    started = time.perf_counter()
    apart = parts.apart
    assert apart is not None
    denominators = alone(
        parts.world, lambda: [parts.task.denominators(targets) for targets in apart.targets(batch)]
    )
    counted = {term: sum(own[term] for own in denominators) for term in denominators[0]}
    if not any(counted.values()):
        record = nothing_learnt(parts, batch, counted, lr=lr, tokens_before=tokens_before)
        apart.after_update(batch.update, record.seconds)
        return record
    mine = together(parts.world, lambda: _passed(parts, apart, batch.update, micro_batches, denominators))
    sums, grad_norm, peak_bytes = _everyone(parts, apart, mine, denominators)
    finite = math.isfinite(grad_norm) and math.isfinite(sums.loss)
    if not finite and is_overflow(parts.loss_scale, sums.loss):
        raise GradientOverflow
    if finite:
        for replica in apart.held:
            _move_replica(parts, apart, replica, lr)
    apart.after_update(batch.update, time.perf_counter() - started)
    return Update(
        step=batch.update,
        samples=batch.first_position + batch.samples,
        tokens=tokens_before + batch.tokens,
        batch_samples=batch.samples,
        batch_tokens=batch.tokens,
        loss=sums.loss,
        terms=told_terms(sums.terms, counted),
        grad_norm=grad_norm,
        lr=lr,
        seconds=time.perf_counter() - started,
        wait_seconds=sum(passed.wait_seconds for passed in mine.values()),
        padding_share=1 - sums.real_tokens / max(sums.computed_tokens, 1),
        peak_memory_bytes=peak_bytes,
        skipped=not finite,
    )


def _passed(
    parts: StepParts,
    apart: Apart,
    update: int,
    micro_batches: Iterable[MicroBatch],
    denominators: Sequence[Mapping[str, float]],
) -> dict[int, Passed]:
    """Forward and backward of all replicas held here; each keeps its gradient."""
    found: dict[int, Passed] = {}
    replicas = {replica.number: replica for replica in apart.held}
    for replica in apart.held:
        replica.gradients = None
    for number, pieces in groupby(micro_batches, replica_of):
        if not any(denominators[number].values()):
            continue  # nothing in its share counts: it stands still
        replica = replicas[number]
        apart.drop_gradients()
        with apart.as_replica(replica):
            sums = parts.executor.accumulate(update, pieces, denominators[number])
        replica.gradients = apart.take_gradients()
        present = [gradient for gradient in replica.gradients if gradient is not None]
        if parts.loss_scale is not None:
            parts.loss_scale.unscale(present)
        replica.norm = float(local_sum_of_squares(present).sum().sqrt())
        found[number] = Passed(sums=sums, norm=replica.norm, wait_seconds=parts.executor.wait_seconds)
    return found


def _everyone(
    parts: StepParts,
    apart: Apart,
    mine: Mapping[int, Passed],
    denominators: Sequence[Mapping[str, float]],
) -> tuple[LossSums, float, int]:
    """Loss of the whole batch, root mean square of the gradients' norms, memory of the largest rank: one exchange.

    A column for each number of each replica, filled by the rank that holds it: sums have the same bits everywhere.
    """
    terms = [*denominators[0]]
    columns = [_numbers(mine.get(number), terms, denominators[number]) for number in range(apart.replicas)]
    flat = [number for column in columns for number in column]
    rows = parts.world.exchange([float(peak_memory_bytes(parts.device)), *flat])
    width = 4 + len(terms)
    summed = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
    each = [summed[start : start + width] for start in range(0, len(summed), width)]
    trained, squares, real, computed, *losses = (sum(column) for column in zip(*each, strict=True))
    counted = {term: sum(own[term] for own in denominators) for term in terms}
    sums = LossSums(
        terms={
            term: loss / counted[term] if counted[term] else 0.0
            for term, loss in zip(terms, losses, strict=True)
        },
        real_tokens=int(real),
        computed_tokens=int(computed),
    )
    return sums, math.sqrt(squares / max(trained, 1)), int(max(row[0] for row in rows))


def _numbers(passed: Passed | None, terms: Sequence[str], denominators: Mapping[str, float]) -> list[float]:
    """What the others must know of a replica; zeros of one that is held elsewhere."""
    if passed is None:
        return [0.0] * (4 + len(terms))
    sums = passed.sums
    losses = [sums.terms[term] * denominators[term] for term in terms]
    return [1.0, passed.norm**2, float(sums.real_tokens), float(sums.computed_tokens), *losses]


def _move_replica(parts: StepParts, apart: Apart, replica: Replica, lr: float) -> None:
    """Clip and step one replica; without a gradient it stands still."""
    if replica.gradients is None:
        return
    with apart.as_replica(replica):
        apart.give_gradients(replica.gradients)
        replica.gradients = None
        if parts.clip is not None:
            norm = torch.tensor(replica.norm, dtype=torch.float64)
            torch.nn.utils.clip_grads_with_norm_(parts.parameters, parts.clip, norm)
        set_lr(replica.optimizer, lr)
        move(replica.optimizer)
        apart.drop_gradients()

"""Replicas that train apart: each learns from its own share of the global batch, with its own clipping.

All replicas are computed before any moves: when one cannot be (memory, a signal, a number that is not finite), none
has moved, and the update is done again or skipped by all. That costs a gradient of memory for each replica held.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn

from bigbatch.data.shares import replica_of
from bigbatch.optim.build import set_lr
from bigbatch.optim.lamb import local_sum_of_squares
from bigbatch.parallel.agree import alone, together
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.protocols import Cut, Executor, Losses, Moments, Rates, State, World
from bigbatch.records import Event, Update
from bigbatch.samples import GlobalBatch, LossSums, MicroBatch
from bigbatch.step.by_source import Sources
from bigbatch.step.loss_scale import GradientOverflow, LossScale
from bigbatch.step.replicas import Replica, Replicas
from bigbatch.step.update import counted, halved, moving, nothing_learnt, recorded, restore_scale, scale_facts


@dataclass(frozen=True, kw_only=True)
class Passed:
    """Forward and backward of one replica."""

    sums: LossSums
    """Loss of its share."""
    norm: float
    """L2 norm of its gradient."""


@dataclass(kw_only=True)
class Apart:
    """Every replica moves by its share of a batch; they meet when it is time (`protocols.Strategy`)."""

    task: Losses
    module: nn.Module
    executor: Executor
    replicas: Replicas
    parameters: Sequence[Tensor]
    """Trainable parameters, tied ones once."""
    world: World
    clip: float | None
    """Largest L2 norm of a replica's gradient; None leaves it alone."""
    scale: LossScale = field(default_factory=LossScale.none)
    """What the executor multiplied the gradient by."""
    sources: Sources = field(default_factory=Sources)
    """Note what each source of a mixture loses."""
    device: str = "cpu"
    """Where the model is; its memory is what `peak_memory_bytes` reports."""
    _events: list[Event] = field(default_factory=list, init=False)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Of the first replica held here; all are alike."""
        return self.replicas.held[0].optimizer

    def pieces(self, batch: GlobalBatch, cut: Cut) -> Iterable[MicroBatch]:
        """The micro-batches of the replicas held here, one replica behind the other (`data.shares`)."""
        return self.replicas.pieces(batch, cut)

    def update(self, batch: GlobalBatch, pieces: Iterable[MicroBatch], rates: Rates) -> list[Update]:
        """Move every replica by its share of one global batch; they meet when it is time.

        Args:
            batch: all samples of the update, over all replicas.
            pieces: those of the replicas held here, one replica behind the other.
            rates: of this update.

        Returns:
            The record: `loss` over the whole batch; `grad_norm` is the root mean square over replicas.

        Raises:
            OutOfMemory: a micro-batch did not fit; no replica has moved.
            GradientOverflow: not finite at a loss scale that was halved now; no replica has moved.
            DoesNotFit: an optimiser's own state did not fit.
        """
        started, world, replicas = time.perf_counter(), self.world, self.replicas
        denominators = alone(
            world, lambda: [self.task.denominators(targets) for targets in replicas.targets(batch)]
        )
        whole = {term: sum(own[term] for own in denominators) for term in denominators[0]}
        if not any(whole.values()):
            record = nothing_learnt(world, self.device, batch, whole, rates)
            replicas.after_update(batch.update, record.seconds)
            return [record]
        mine = together(world, lambda: self._passed(batch.update, pieces, denominators))
        sums, grad_norm, peak_bytes = _everyone(world, replicas.count, self.device, mine, denominators)
        finite = math.isfinite(grad_norm) and math.isfinite(sums.loss)
        if not finite and self.scale.may_help(sums.loss):
            self._events.append(halved(self.scale, batch.update))
            raise GradientOverflow
        if finite:
            for replica in replicas.held:
                self._move(replica, rates)
        replicas.after_update(batch.update, time.perf_counter() - started)
        record = recorded(
            batch,
            rates,
            started,
            sums,
            whole,
            grad_norm=grad_norm,
            finite=finite,
            peak_bytes=peak_bytes,
        )
        self._events += counted(self.scale, record)
        return [record]

    def _passed(
        self, update: int, pieces: Iterable[MicroBatch], denominators: Sequence[Mapping[str, float]]
    ) -> dict[int, Passed]:
        """Forward and backward of all replicas held here; each keeps its gradient."""
        found: dict[int, Passed] = {}
        replicas = {replica.number: replica for replica in self.replicas.held}
        for replica in self.replicas.held:
            replica.gradients = None
        for number, own in groupby(pieces, replica_of):
            if not any(denominators[number].values()):
                continue  # nothing in its share counts: it stands still
            replica = replicas[number]
            self.replicas.drop_gradients()
            with self.replicas.as_replica(replica):
                sums = self.executor.accumulate(update, own, denominators[number])
            replica.gradients = self.replicas.take_gradients()
            present = [gradient for gradient in replica.gradients if gradient is not None]
            self.scale.unscale(present)
            replica.norm = float(local_sum_of_squares(present).sum().sqrt())
            found[number] = Passed(sums=sums, norm=replica.norm)
        return found

    def _move(self, replica: Replica, rates: Rates) -> None:
        """Clip and step one replica; without a gradient it stands still."""
        if replica.gradients is None:
            return
        with self.replicas.as_replica(replica):
            self.replicas.give_gradients(replica.gradients)
            replica.gradients = None
            if self.clip is not None:
                norm = torch.tensor(replica.norm, dtype=torch.float64)
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
            set_lr(replica.optimizer, rates.lr)
            with moving():
                replica.optimizer.step()
            self.replicas.drop_gradients()

    def settle(self) -> None:
        """The module holds the mean of all replicas, which stay as they are. Every rank must call it."""
        self.replicas.settle()

    def resume(self) -> None:
        """The module is in training mode; each replica brings its own weights."""
        self.module.train()

    def state(self) -> State:
        """Averages, and weights where they differ, of the replicas held here; the rhythm, and the loss scale."""
        facts = {**scale_facts(self.scale), "sync": asdict(self.replicas.rhythm)}
        return State(tensors=self.replicas.state(), facts=facts, own=True)

    def restore(self, state: State, moments: Moments | None = None) -> None:
        """Put them back; a ramp with replicas is refused, so there are no moments to set."""
        assert moments is None
        self.replicas.restore(state.tensors, state.facts["sync"])
        restore_scale(self.scale, state.facts)

    def events(self) -> list[Event]:
        """Changes of the period and of the loss scale that nobody has been told yet."""
        found, self._events = [*self.replicas.news(), *self._events], []
        return found


def _everyone(
    world: World,
    replicas: int,
    device: str,
    mine: Mapping[int, Passed],
    denominators: Sequence[Mapping[str, float]],
) -> tuple[LossSums, float, int]:
    """Loss of the whole batch, root mean square of the gradients' norms, memory of the largest rank: one exchange.

    A column for each number of each replica, filled by the rank that holds it: sums have the same bits everywhere.
    """
    terms = [*denominators[0]]
    columns = [_numbers(mine.get(number), terms, denominators[number]) for number in range(replicas)]
    flat = [number for column in columns for number in column]
    rows = world.exchange([float(peak_memory_bytes(device)), *flat])
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
        wait_seconds=sum(passed.sums.wait_seconds for passed in mine.values()),
    )
    return sums, math.sqrt(squares / max(trained, 1)), int(max(row[0] for row in rows))


def _numbers(passed: Passed | None, terms: Sequence[str], denominators: Mapping[str, float]) -> list[float]:
    """What the others must know of a replica; zeros of one that is held elsewhere."""
    if passed is None:
        return [0.0] * (4 + len(terms))
    sums = passed.sums
    losses = [sums.terms[term] * denominators[term] for term in terms]
    return [1.0, passed.norm**2, float(sums.real_tokens), float(sums.computed_tokens), *losses]

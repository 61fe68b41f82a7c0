"""One model, one optimiser, all ranks together: one update of the weights on one screen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bigbatch.data.packs import micro_batches
from bigbatch.optim.build import set_lr
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.parallel.agree import alone, summed, together
from bigbatch.probe.hardware import peak_memory_bytes
from bigbatch.protocols import Cut, Executor, Losses, Moments, Rates, State, World
from bigbatch.records import Event, Update
from bigbatch.samples import GlobalBatch, MicroBatch
from bigbatch.step.by_source import Sources
from bigbatch.step.loss_scale import GradientOverflow, LossScale
from bigbatch.step.noise import Noise
from bigbatch.step.update import (
    counted,
    halved,
    moving,
    nothing_learnt,
    recorded,
    restore_scale,
    scale_facts,
    set_moments,
)


@dataclass(kw_only=True)
class Together:
    """Every sample of a batch moves the same weights (`protocols.Strategy`)."""

    task: Losses
    module: nn.Module
    executor: Executor
    optimizer: torch.optim.Optimizer
    parameters: Sequence[Tensor]
    """Trainable parameters, tied ones once; this rank's parts of them."""
    world: World
    clip: float | None
    """Largest L2 norm of the whole gradient; None leaves it alone."""
    scale: LossScale = field(default_factory=LossScale.none)
    """What the executor multiplied the gradient by."""
    noise: Noise = field(default_factory=Noise)
    """Measures the gradient noise of some updates, or of none."""
    sources: Sources = field(default_factory=Sources)
    """Note what each source of a mixture loses."""
    device: str = "cpu"
    """Where the model is; its memory is what `peak_memory_bytes` reports."""
    _events: list[Event] = field(default_factory=list, init=False)

    def pieces(self, batch: GlobalBatch, cut: Cut) -> Iterable[MicroBatch]:
        """This rank's micro-batches of a global batch."""
        measured = self.noise.pieces(batch, cut)
        if measured is not None:
            return measured
        return micro_batches(batch, micro_tokens=cut.micro_tokens, packing=cut.packing, part=self.world.part)

    def update(self, batch: GlobalBatch, pieces: Iterable[MicroBatch], rates: Rates) -> list[Update]:
        """Move the weights by one global batch, unless its loss or gradient is not finite.

        Args:
            batch: all samples of the update, on every rank; its targets give the denominators before any forward.
            pieces: this rank's part of the same samples, cut to what fits.
            rates: of this update.

        Returns:
            The record; `skipped` when nothing was changed because something was not finite, `empty` when nothing in
            the batch counts.

        Raises:
            OutOfMemory: a micro-batch did not fit; weights and optimiser are untouched.
            GradientOverflow: not finite at a loss scale that was halved now; untouched as well.
            DoesNotFit: the optimiser's own state did not fit, which no smaller micro-batch cures.
        """
        started, world = time.perf_counter(), self.world
        self.optimizer.zero_grad(set_to_none=True)
        set_moments(self.optimizer, rates.moments)
        denominators = alone(world, lambda: self.task.denominators(batch.targets))
        if not any(denominators.values()):
            return [nothing_learnt(world, self.device, batch, denominators, rates)]
        watched = self.noise.watched(batch, pieces)
        mine = together(world, lambda: self.executor.accumulate(batch.update, watched, denominators))
        world.reduce_gradients(self.parameters)
        sums, peak_bytes = summed(world, [*denominators], mine, peak_memory_bytes(self.device))
        touched = [parameter for parameter in self.parameters if parameter.grad is not None]
        gradients = [parameter.grad for parameter in touched if parameter.grad is not None]
        self.scale.unscale(gradients)
        norm = world.sum_of_squares(gradients, touched).sum().sqrt()
        grad_norm = float(norm)
        finite = math.isfinite(grad_norm) and math.isfinite(sums.loss)
        if not finite and self.scale.may_help(sums.loss):
            self._events.append(halved(self.scale, batch.update))
            raise GradientOverflow
        if finite:
            self.noise.read(self.scale.value)
            if self.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
            set_lr(self.optimizer, rates.lr)
            with moving():
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        record = recorded(
            batch,
            rates,
            started,
            sums,
            denominators,
            grad_norm=grad_norm,
            finite=finite,
            peak_bytes=peak_bytes,
        )
        self._events += counted(self.scale, record)
        return [record]

    def settle(self) -> None:
        """The module holds the average that an optimiser keeps, where one does."""
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """The module holds the weights that the next gradient is taken at, in training mode."""
        self.module.train()
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()  # type: ignore[attr-defined]

    def state(self) -> State:
        """The optimiser's averages, and the loss scale."""
        return State(tensors=optimizer_state(self.optimizer), facts=scale_facts(self.scale))

    def restore(self, state: State, moments: Moments | None = None) -> None:
        """Put them back. Averages are loaded as they are where betas are the same: those are set before."""
        set_moments(self.optimizer, moments)
        load_optimizer_state(self.optimizer, state.tensors)
        restore_scale(self.scale, state.facts)

    def events(self) -> list[Event]:
        """Changes of the loss scale that nobody has been told yet."""
        found, self._events = self._events, []
        return found

"""Replicas that this process computes in turn: each has weights, buffers and an optimiser of its own.

The module is one; its tensors point at a replica's memory while that replica is computed, and at home otherwise. Home
is what everybody else sees: after a meeting, or once `settle` was called, the mean of all replicas.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bigbatch.data.shares import micro_batches_apart, share_of
from bigbatch.errors import CheckpointError
from bigbatch.model.tensors import named_tensors
from bigbatch.optim.state import load_optimizer_state, optimizer_state
from bigbatch.parallel.outer import Outer
from bigbatch.parallel.periodic import Meeting
from bigbatch.protocols import Cut, World
from bigbatch.records import Event
from bigbatch.rules.sync import Decision, Measured, meets, next_period
from bigbatch.samples import GlobalBatch, MicroBatch, Targets

MODEL = "model/"


class SyncSettings(Protocol):
    """What this file reads of `recipe.sync`."""

    @property
    def period(self) -> int | str: ...
    @property
    def replicas(self) -> int: ...
    @property
    def outer(self) -> str: ...
    @property
    def outer_lr(self) -> float: ...
    @property
    def outer_momentum(self) -> float: ...


@dataclass(kw_only=True, eq=False)
class Replica:
    """One of the models that train apart."""

    number: int
    tensors: list[Tensor]
    """Trained parameters and buffers, in the order of `Replicas.names`."""
    optimizer: torch.optim.Optimizer
    gradients: list[Tensor | None] | None = None
    """Of the update in progress, in the order of the parameters; None: it had no samples."""
    norm: float = 0.0
    """L2 norm of them."""


@dataclass(kw_only=True)
class Rhythm:
    """When replicas meet; part of a checkpoint."""

    period: int = 1
    """Of the automatic rule: updates from the last meeting to the next."""
    met_at: int = 0
    """Update after which they met last."""
    meetings: int = 0
    seconds: float = 0.0
    """Of the updates since then, without meetings."""
    decided: list[dict[str, Any]] = field(default_factory=list)
    """Every change of the period, with what was measured."""


class Replicas:
    """The replicas of a run that are computed here, and their meetings."""

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[Tensor],
        world: World,
        sync: SyncSettings,
        new_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        last_update: int,
        shared_gradients: Sequence[Tensor] = (),
    ) -> None:
        """Every replica begins with the module's weights.

        Args:
            module: the model, on its device.
            parameters: trainable, tied ones once.
            world: the ranks among which replicas are dealt.
            sync: `recipe.sync`.
            new_optimizer: an optimiser over the module's parameters.
            last_update: of the run; replicas meet after it in any case.
            shared_gradients: parameters whose `.grad` is the same memory in every update.

        Raises:
            UsageError: more ranks than replicas.
        """
        self.meeting = Meeting(world, sync.replicas)
        self.count = sync.replicas
        """Of all ranks."""
        self.rhythm = Rhythm()
        self._period = sync.period if isinstance(sync.period, int) else None
        self._last_update = last_update
        self._shared = set(shared_gradients)
        trained = set(parameters)
        found, frozen = {}, {name for name, item in module.named_parameters() if not item.requires_grad}
        for name, tensor in named_tensors(module)[0].items():
            if tensor in trained or not (isinstance(tensor, nn.Parameter) or name in frozen):
                found[name] = tensor
        self.names = list(found)
        self._tensors = list(found.values())
        self._parameters = list(parameters)
        self._home = [tensor.data for tensor in self._tensors]
        self._trained = [number for number, tensor in enumerate(self._tensors) if tensor in trained]
        self.held = [self._begun(number, new_optimizer, module) for number in self.meeting.held]
        self.outer: Outer | None = None
        if sync.outer == "diloco":
            self.outer = Outer(
                [self.names[number] for number in self._trained],
                [self._home[number] for number in self._trained],
                lr=sync.outer_lr,
                momentum=sync.outer_momentum,
            )
        self._together = True
        """All replicas hold what home holds."""
        self._settled = True
        """Home holds the mean of all replicas."""
        self._news: list[Event] = []

    def _begun(self, number: int, new_optimizer: Any, module: nn.Module) -> Replica:
        return Replica(
            number=number,
            tensors=[tensor.detach().clone() for tensor in self._home],
            optimizer=new_optimizer(module),
        )

    # ------------------------------------------------------------ shares

    def targets(self, batch: GlobalBatch) -> list[Targets]:
        """What each replica, held here or not, learns of a batch: enough for its denominators."""
        numbers = range(self.count)
        return [share_of(batch, number, self.count).targets for number in numbers]

    def pieces(self, batch: GlobalBatch, cut: Cut) -> Iterator[MicroBatch]:
        """The micro-batches of the replicas held here, one replica behind the other."""
        return micro_batches_apart(
            batch,
            self.meeting.held,
            self.count,
            micro_tokens=cut.micro_tokens,
            packing=cut.packing,
        )

    # ------------------------------------------------------------ one replica at a time

    @contextmanager
    def as_replica(self, replica: Replica) -> Iterator[None]:
        """The module is this replica inside; nothing is copied."""
        for tensor, own in zip(self._tensors, replica.tensors, strict=True):
            tensor.data = own
        try:
            yield
        finally:
            for tensor, home in zip(self._tensors, self._home, strict=True):
                tensor.data = home

    def take_gradients(self) -> list[Tensor | None]:
        """The gradients that are there, for later; the next replica begins with none."""
        found = [
            parameter.grad.clone()
            if parameter in self._shared and parameter.grad is not None
            else parameter.grad
            for parameter in self._parameters
        ]
        self.drop_gradients()
        return found

    def give_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Put a replica's gradients back."""
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient

    def drop_gradients(self) -> None:
        """No parameter has a gradient."""
        for parameter in self._parameters:
            parameter.grad = None

    # ------------------------------------------------------------ meetings

    def after_update(self, update: int, seconds: float) -> None:
        """Meet, if it is time. Every rank must call it.

        Args:
            update: that was done.
            seconds: that it took.
        """
        rhythm = self.rhythm
        self._together = self._settled = False
        rhythm.seconds += seconds
        if not meets(update, self._last_update, self._period, rhythm.met_at, rhythm.period):
            return
        started = time.perf_counter()
        drift = self._meet()
        if self._period is None:
            updates = update - rhythm.met_at
            self._adapt(update, updates, drift, time.perf_counter() - started)
        rhythm.met_at, rhythm.seconds = update, 0.0
        rhythm.meetings += 1

    def _meet(self) -> float:
        """All replicas, and home, become what was agreed on; how far they were apart."""
        mean = self.meeting.mean([replica.tensors for replica in self.held])
        agreed = list(mean.tensors)
        if self.outer is not None:
            weights = self.outer.step([agreed[number] for number in self._trained])
            for number, weight in zip(self._trained, weights, strict=True):
                agreed[number] = weight
        for tensors in (self._home, *(replica.tensors for replica in self.held)):
            for tensor, value in zip(tensors, agreed, strict=True):
                tensor.copy_(value)
        self._together = self._settled = True
        return mean.drift

    def _adapt(self, update: int, updates: int, drift: float, seconds: float) -> None:
        """The automatic period, from what rank 0 measured."""
        found = self.meeting.world.share([drift, seconds, self.rhythm.seconds / max(updates, 1)])
        measured = Measured(drift=found[0], meeting_seconds=found[1], update_seconds=found[2])
        before = self.rhythm.period
        decision = next_period(before, measured)
        if decision.period != before:
            self.rhythm.period = decision.period
            self._say(update, before, decision, measured)

    def _say(self, update: int, before: int, decision: Decision, measured: Measured) -> None:
        # A checkpoint is strict JSON: what is no number is null there.
        numbers = {name: value if math.isfinite(value) else None for name, value in vars(measured).items()}
        details = {"period_before": before, "period": decision.period, **numbers}
        self.rhythm.decided.append({"update": update, **details})
        did = f"replicas meet every {decision.period} updates from here on; before: {before}"
        self._news.append(Event(step=update, event="sync_period", why=decision.why, did=did, details=details))

    def news(self) -> list[Event]:
        """Changes of the period that nobody has been told yet."""
        found, self._news = self._news, []
        return found

    def settle(self) -> None:
        """Home becomes the mean of all replicas, which stay as they are. Every rank must call it."""
        if self._settled:
            return
        mean = self.meeting.mean([replica.tensors for replica in self.held])
        for tensor, value in zip(self._home, mean.tensors, strict=True):
            tensor.copy_(value)
        self._settled = True

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Tensor]:
        """`replica-0003/<state>/<parameter>` of the replicas held here; the outer step's on rank 0.

        Weights of replicas (`replica-0003/model/<name>`) only where they differ from home.
        """
        mine: dict[str, Tensor] = {}
        for replica in self.held:
            kept = optimizer_state(replica.optimizer)
            if not self._together:
                kept.update(
                    {MODEL + name: tensor for name, tensor in zip(self.names, replica.tensors, strict=True)}
                )
            mine.update({_prefix(replica.number) + name: tensor for name, tensor in kept.items()})
        outer = {} if self.outer is None or self.meeting.world.rank else self.outer.state()
        return {**mine, **{f"outer/{name}": tensor for name, tensor in outer.items()}}

    def restore(self, tensors: Mapping[str, Tensor], rhythm: Mapping[str, Any]) -> None:
        """Put back what `state` and `rhythm` held; home has its weights already.

        Raises:
            CheckpointError: a replica's weights are incomplete.
        """
        self.rhythm = Rhythm(**rhythm)
        self._together = not any(name.startswith("replica-0000/" + MODEL) for name in tensors)
        self._settled = True
        for replica in self.held:
            own = _under(_prefix(replica.number), tensors)
            weights = _under(MODEL, own)
            if not self._together and weights.keys() != set(self.names):
                raise CheckpointError(f"the checkpoint does not hold the weights of replica {replica.number}")
            for name, tensor, home in zip(self.names, replica.tensors, self._home, strict=True):
                tensor.copy_(home if self._together else weights[name])
            states = {name: value for name, value in own.items() if not name.startswith(MODEL)}
            load_optimizer_state(replica.optimizer, states)
        if self.outer is not None:
            self.outer.restore(_under("outer/", tensors))


def _prefix(number: int) -> str:
    return f"replica-{number:04d}/"


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

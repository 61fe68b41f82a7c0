"""Micro-batches -> gradients. The one place where losses are summed and divided.

    gradient = d/dw  sum over terms, sum over all units of the global batch  loss[term, unit] / denominator[term]

Each micro-batch contributes its units' share of that sum, so how the batch was cut cannot matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from bigbatch.model.layout import to_device
from bigbatch.parallel.agree import memory_errors
from bigbatch.protocols import Forward, Losses, Rule
from bigbatch.samples import LossSums, MicroBatch
from bigbatch.step.loss_scale import LossScale
from bigbatch.step.masks import mask_seed, private_generator, seed_generator
from bigbatch.tasks.losses import shares_of


class Passes:
    """What the passes of every update have in common, whoever drives them."""

    def __init__(
        self,
        device: torch.device,
        seed: int,
        *,
        in_place: Sequence[Tensor] = (),
        span: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Keep it.

        Args:
            device: where outputs live.
            seed: `seed.dropout`.
            in_place: parameters whose gradients come as some rows each; these are added to one dense buffer.
            span: entered around all forward and backward passes of an update (tf32 is a switch of the device).
        """
        self.device = device
        self._seed = seed
        self._in_place = [(parameter, torch.zeros_like(parameter)) for parameter in in_place]
        self._span = span

    @contextmanager
    def of_update(self) -> Iterator[None]:
        """All passes of one update run inside; the caller's generators stay as they were."""
        for parameter, buffer in self._in_place:
            parameter.grad = buffer.zero_()
        with private_generator(self.device), memory_errors(), self._span():
            yield

    def seed(self, update: int, micro_batch: MicroBatch) -> Callable[[int], None]:
        """What gives the next pass over a micro-batch the masks of a stage."""
        return lambda stage: seed_generator(
            self.device, mask_seed(self._seed, update, micro_batch.index, stage)
        )


class Walk:
    """Micro-batches one behind the other: counted, and waited for."""

    def __init__(self, micro_batches: Iterable[MicroBatch]) -> None:
        self._source = iter(micro_batches)
        self._real_tokens = self._computed_tokens = 0
        self._wait_seconds = 0.0

    def __iter__(self) -> Iterator[MicroBatch]:
        while True:
            started = time.perf_counter()
            micro_batch = next(self._source, None)
            self._wait_seconds += time.perf_counter() - started
            if micro_batch is None:
                return
            self._real_tokens += micro_batch.tokens
            self._computed_tokens += micro_batch.computed_tokens
            yield micro_batch

    def sums(self, terms: Mapping[str, float]) -> LossSums:
        """What the walk left behind, with the loss of each term."""
        return LossSums(
            terms=terms,
            real_tokens=self._real_tokens,
            computed_tokens=self._computed_tokens,
            wait_seconds=self._wait_seconds,
        )


class Plain:
    """Once forward, once backward (`protocols.Rule`)."""

    def __init__(
        self,
        forward: Forward,
        task: Losses,
        device: torch.device,
        *,
        scale: LossScale | None = None,
        before_last: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what every micro-batch needs.

        Args:
            forward: runs a micro-batch through the model.
            task: gives one loss value per unit and term.
            device: where outputs live.
            scale: the gradient is multiplied by its value; whoever reads `.grad` divides (fp16).
            before_last: called before the last micro-batch's passes, after which gradients are complete.
        """
        self._forward = forward
        self._task = task
        self._to_device = partial(to_device, device=device)
        self._scale = scale or LossScale.none()
        self._before_last = before_last

    def __call__(
        self, micro_batch: MicroBatch, denominators: Mapping[str, float], seed: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Add the gradient to `.grad`; each term's share of the loss (fp64)."""
        if micro_batch.last:
            self._before_last()
        seed(0)
        targets = micro_batch.targets.map(self._to_device)
        shares = shares_of(self._task.loss(self._forward(micro_batch), targets), denominators)
        total = torch.stack(list(shares.values())).sum()
        self._scale.scaled(total).backward()
        return {term: share.detach().double() for term, share in shares.items()}


class OneByOne:
    """One micro-batch behind the other, by a rule (`protocols.Executor`)."""

    def __init__(self, rule: Rule, passes: Passes) -> None:
        """Keep what every update needs.

        Args:
            rule: forward and backward of a micro-batch.
            passes: what they have in common.
        """
        self._rule = rule
        self._passes = passes

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums:
        """Add the gradient of all micro-batches to `.grad` and return the loss that belongs to it.

        Args:
            update: 1-based update number; it seeds the dropout masks.
            micro_batches: pieces of the global batch (this rank's share).
            denominators: per term, over the whole global batch.

        Raises:
            OutOfMemory: a micro-batch did not fit; `.grad` then holds part of the sum.
        """
        totals: dict[str, Tensor] = {}
        walk = Walk(micro_batches)
        with self._passes.of_update():
            for micro_batch in walk:
                shares = self._rule(micro_batch, denominators, self._passes.seed(update, micro_batch))
                for term, share in shares.items():
                    totals[term] = totals[term] + share if term in totals else share
            # The only host synchronisation of the pass.
            return walk.sums({term: float(total) for term, total in totals.items()})

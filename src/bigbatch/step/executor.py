"""Micro-batches -> gradients. The one place where losses are summed and divided.

    gradient = d/dw  sum over terms, sum over all units of the global batch  loss[term, unit] / denominator[term]

Each micro-batch contributes its units' share of that sum, so how the batch was cut cannot matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bigbatch.model.layout import to_device
from bigbatch.parallel.agree import memory_errors
from bigbatch.protocols import Forward, Losses
from bigbatch.samples import LossSums, MicroBatch
from bigbatch.step.loss_scale import LossScale
from bigbatch.step.masks import mask_seed, private_generator, seed_generator
from bigbatch.tasks.losses import shares_of

Backward = Callable[[MicroBatch, Mapping[str, float]], dict[str, Tensor]]
"""Forward and backward of one micro-batch: adds to `.grad`, gives each term's share of the loss (fp64)."""
Rule = Callable[[Backward, MicroBatch, Mapping[str, float]], dict[str, Tensor]]
"""Does so in a way of its own, in several passes say (`step.adversarial`)."""


class PlainExecutor:
    """Forward and backward, one micro-batch behind the other (`protocols.Executor`)."""

    def __init__(
        self,
        *,
        forward: Forward,
        task: Losses,
        device: torch.device,
        seed: int,
        in_place: Sequence[Tensor] = (),
        scale: LossScale | None = None,
        span: Callable[[], AbstractContextManager[None]] = nullcontext,
        before_last: Callable[[], None] = lambda: None,
        rule: Rule | None = None,
    ) -> None:
        """Keep what every update needs.

        Args:
            forward: runs a micro-batch through the model.
            task: gives one loss value per unit and term.
            device: where outputs live.
            seed: `seed.dropout`.
            in_place: parameters whose gradients come as some rows each; these are added to one dense buffer.
            scale: the gradient is multiplied by its value; whoever reads `.grad` divides (fp16).
            span: entered around all forward and backward passes of an update (tf32 is a switch of the device).
            before_last: called before the last micro-batch's backward, after which gradients are complete.
            rule: forward and backward of a micro-batch; None: once, as they are.
        """
        self._scale = scale or LossScale.none()
        self._span = span
        self._before_last = before_last
        self._passes: Backward = self._backward if rule is None else partial(rule, self._backward)
        self._forward = forward
        self._task = task
        self._device = device
        self._seed = seed
        self._in_place = [(parameter, torch.zeros_like(parameter)) for parameter in in_place]
        self.wait_seconds = 0.0
        """Time of the last pass spent waiting for micro-batches to be cut."""

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
        real_tokens = computed_tokens = 0
        self.wait_seconds = 0.0
        for parameter, buffer in self._in_place:
            parameter.grad = buffer.zero_()
        with private_generator(self._device), memory_errors(), self._span():
            for micro_batch in self._timed(micro_batches):
                if micro_batch.last:
                    self._before_last()
                seed_generator(self._device, mask_seed(self._seed, update, micro_batch.index))
                for term, share in self._passes(micro_batch, denominators).items():
                    totals[term] = totals[term] + share if term in totals else share
                real_tokens += micro_batch.tokens
                computed_tokens += micro_batch.computed_tokens
            # The only host synchronisation of the pass.
            terms = {term: float(total) for term, total in totals.items()}
        return LossSums(terms=terms, real_tokens=real_tokens, computed_tokens=computed_tokens)

    def _backward(self, micro_batch: MicroBatch, denominators: Mapping[str, float]) -> dict[str, Tensor]:
        targets = micro_batch.targets.map(self._to_device)
        shares = shares_of(self._task.loss(self._forward(micro_batch), targets), denominators)
        total = torch.stack(list(shares.values())).sum()
        self._scale.scaled(total).backward()
        return {term: share.detach().double() for term, share in shares.items()}

    def _to_device(self, values: np.ndarray) -> Tensor:
        return to_device(values, self._device)

    def _timed(self, micro_batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        source = iter(micro_batches)
        while True:
            started = time.perf_counter()
            micro_batch = next(source, None)
            self.wait_seconds += time.perf_counter() - started
            if micro_batch is None:
                return
            yield micro_batch

"""Reads the gradient of each random part of a batch while it is accumulated, and keeps sums of squares alone.

Where part i has added c_i = w_i g_i to the gradient, two sums over parts and elements are enough
(`rules.noise_scale.estimate`): |c_i|^2 / w_i, and the square of the whole gradient. Kept elementwise, the first also
gives what Adam sees: elements are divided by what it divides by. It takes two gradients of memory, for one update.

Embeddings are left out of what Adam sees: rows of rare tokens have had hardly any gradient, so Adam divides them by
almost nothing, and a handful of rows would be all that is seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bigbatch.data.random_parts import random_part_of
from bigbatch.protocols import Cut, World
from bigbatch.records import Update
from bigbatch.rules.noise_scale import ADAM, WHOLE, Estimate, estimate
from bigbatch.samples import GlobalBatch, MicroBatch
from bigbatch.step.groups import EMBEDDINGS


class Remembers(Protocol):
    """What keeps the averages of measurements between updates (`store.progress.Progress`)."""

    noise: dict[str, Any]


class Noise:
    """Which updates are measured: of this one, none (`build.noise.NoiseScale` measures some)."""

    def pieces(self, batch: GlobalBatch, cut: Cut) -> Iterable[MicroBatch] | None:
        """This rank's micro-batches of an update that is measured; None where it is not."""
        return None

    def watched(self, batch: GlobalBatch, pieces: Iterable[MicroBatch]) -> Iterable[MicroBatch]:
        """The same micro-batches, watched where the update is measured."""
        return pieces

    def read(self, loss_scale: float) -> None:
        """The gradient is complete, unscaled and not yet clipped."""

    def noted(self, record: Update, progress: Remembers) -> Update:
        """The record with what is known of the noise after this update; `progress` remembers it."""
        return record


class NoiseMeter:
    """Measures the noise of one update's gradient; the gradient itself is not touched."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        groups: Sequence[str],
        world: World,
        optimizer: torch.optim.Optimizer,
        *,
        shared: bool = False,
    ) -> None:
        """Nothing is measured yet.

        Args:
            parameters: this rank's parts of the trainable ones.
            groups: of each parameter.
            world: the ranks.
            optimizer: of which Adam's second moments are read, if it has such.
            shared: whether ranks sum their gradients in every pass, so that all compute each random part together.
        """
        self._parameters = list(parameters)
        self._groups = list(groups)
        self._world = world
        self._optimizer = optimizer
        self._shared = shared
        self._sizes: list[int] = []
        self._before: list[Tensor | None] = []
        self._squares: list[Tensor | None] = []
        self.seconds = 0.0
        """Time that the latest measurement took."""
        self.found: dict[str, Estimate] = {}
        """What the latest update showed: `whole`, `adam` and each group; empty when it showed nothing."""

    def watched(self, micro_batches: Iterable[MicroBatch], sizes: list[int]) -> Iterator[MicroBatch]:
        """The micro-batches as they are; after the last one of each random part its gradient is read.

        Args:
            micro_batches: this rank's, part behind part; asking for the next one means that backward is done.
            sizes: samples of each random part of the batch, on all ranks together.
        """
        self._sizes, self.found, self.seconds = sizes, {}, 0.0
        self._before = [None] * len(self._parameters)
        self._squares = [None] * len(self._parameters)
        running: int | None = None
        for micro_batch in micro_batches:
            part = random_part_of(micro_batch)
            if running is not None and part != running:
                self._close(running)
            running = part
            yield micro_batch
        if running is not None:
            self._close(running)

    def read(self, loss_scale: float = 1.0) -> None:
        """Finish the measurement: every rank, once `.grad` is the whole gradient, unscaled and not yet clipped.

        Args:
            loss_scale: what the gradient was multiplied by while it was accumulated.
        """
        started = time.perf_counter()
        names = [WHOLE, *dict.fromkeys(self._groups)]
        rows = self._sums(loss_scale)
        sums = {name: [0.0, 0.0] for name in [*names, ADAM]}
        for group, (weighted, square, adam_weighted, adam_square) in zip(self._groups, rows, strict=True):
            seen = (0.0, 0.0) if group == EMBEDDINGS else (adam_weighted, adam_square)
            for name, more in ((WHOLE, (weighted, square)), (group, (weighted, square)),
                               (ADAM, seen)):  # fmt: skip
                sums[name] = [sums[name][0] + more[0], sums[name][1] + more[1]]
        everyone = self._world.exchange([number for pair in sums.values() for number in pair])
        for index, name in enumerate(sums):
            weighted = sum(row[2 * index] for row in everyone)
            # Ranks that hold the whole gradient hold the same one.
            square = sum(row[2 * index + 1] for row in (everyone if self._shared else everyone[:1]))
            if weighted > 0 and math.isfinite(weighted) and math.isfinite(square):
                self.found[name] = estimate(weighted, square, len(self._sizes), sum(self._sizes))
        self._before = self._squares = []
        self.seconds += time.perf_counter() - started

    def _close(self, part: int) -> None:
        """Take what this part has added to the gradient, squared, by its share of the batch."""
        started = time.perf_counter()
        share = self._sizes[part] / sum(self._sizes)
        for index, gradient in enumerate(self._world.gradients_so_far(self._parameters)):
            if gradient is None:
                continue
            before, squares = self._before[index], self._squares[index]
            if before is None or squares is None:
                self._before[index] = gradient.clone()
                self._squares[index] = (gradient * gradient).div_(share)
            else:
                before.sub_(gradient)
                squares.addcmul_(before, before, value=1 / share)
                before.copy_(gradient)
        self.seconds += time.perf_counter() - started

    def _sums(self, loss_scale: float) -> list[list[float]]:
        """Of each parameter: both sums, and both in Adam's units (NaN without); zeros where another rank counts."""
        settings = {own: group for group in self._optimizer.param_groups for own in group["params"]}
        rows = []
        for parameter, squares in zip(self._parameters, self._squares, strict=True):
            gradient = parameter.grad
            if gradient is None or (self._shared and not self._world.owns(parameter)):
                rows.append(torch.zeros(4, dtype=torch.float64, device=parameter.device))
                continue
            whole = gradient * gradient
            parts = torch.zeros_like(whole) if squares is None else squares.div_(loss_scale**2)
            rate = self._adam_square(parameter, settings.get(parameter, {}))
            pair = [parts.sum(dtype=torch.float64), whole.sum(dtype=torch.float64)]
            if rate is None:
                seen = [torch.full_like(pair[0], math.nan)] * 2
            else:
                seen = [parts.mul_(rate).sum(dtype=torch.float64), whole.mul_(rate).sum(dtype=torch.float64)]
            rows.append(torch.stack([*pair, *seen]))
        # The only host synchronisation.
        return torch.stack(rows).tolist()

    def _adam_square(self, parameter: Tensor, group: dict[str, object]) -> Tensor | None:
        """1 / (sqrt(v_hat) + eps)^2 before this update; 0 for elements that never had a gradient, None without v."""
        state = self._optimizer.state.get(parameter, {})
        moment, steps = state.get("exp_avg_sq"), state.get("step")
        betas, eps = group.get("betas"), group.get("eps")
        if not isinstance(moment, Tensor) or moment.shape != parameter.shape or steps is None:
            return None
        if not isinstance(betas, (tuple, list)) or not isinstance(eps, (int, float)):
            return None
        debias = 1 - betas[1] ** steps
        roots = moment.to(parameter.dtype).div(debias).sqrt_()
        return (roots + eps).square_().reciprocal_().masked_fill_(roots == 0, 0.0)

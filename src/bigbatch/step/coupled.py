"""Losses that need all outputs of a batch: exact however the batch is cut, in the memory of one micro-batch.

::

    1. outputs of every micro-batch, without a graph               e = f(w)
    2. loss and its gradient, on the outputs of the whole batch    g = dL/de
    3. every micro-batch again, with the same dropout masks        dL/dw = sum of  g_i de_i/dw

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". With `cached=False` the
first pass keeps its graph and there is no third: a third less work, and the activations of the whole batch. Differs
from the paper: units are compared in their order in the batch, so that cut and ranks change nothing.

Example, in a recipe: `task: match` and `gradient: cached`.

Shapes: U units of the batch, C outputs per unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bigbatch.model.layout import to_device
from bigbatch.parallel.agree import together
from bigbatch.protocols import Forward, Losses, World
from bigbatch.samples import LossSums, MicroBatch, Targets
from bigbatch.step.executor import Passes, Walk
from bigbatch.step.loss_scale import LossScale
from bigbatch.tasks.losses import shares_of


@dataclass(frozen=True, kw_only=True)
class _FirstPass:
    """What a rank has before it sees the outputs of the others."""

    pieces: list[MicroBatch]
    outputs: list[Tensor]
    """Of each piece, fillers included."""
    real: list[np.ndarray]
    """For each piece, which of its units are no fillers."""
    mine_UC: Tensor
    """Outputs of all real units."""
    values: np.ndarray
    """Their target values."""
    extras: Mapping[str, np.ndarray]
    """Their further numbers."""


class Coupled:
    """All of a batch at once, for a loss that couples its samples (`Task.couples`; `protocols.Executor`)."""

    def __init__(
        self,
        forward: Forward,
        task: Losses,
        passes: Passes,
        world: World,
        *,
        cached: bool,
        scale: LossScale,
        before_last: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what every update needs.

        Args:
            forward: runs a micro-batch through the model.
            task: gives the loss of the outputs of a whole batch.
            passes: what they have in common.
            world: ranks show each other their outputs, once an update.
            cached: two passes instead of one that keeps the activations of the batch.
            scale: the gradient is multiplied by its value; whoever reads `.grad` divides (fp16).
            before_last: called before the last micro-batch's backward, after which gradients are complete.
        """
        self._forward = forward
        self._task = task
        self._passes = passes
        self._device = passes.device
        self._world = world
        self._cached = cached
        self._scale = scale
        self._before_last = before_last

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums:
        """As `OneByOne.accumulate`. The last column of a unit's target values is its place in the batch; units are
        compared in that order, so that the loss does not depend on the cut.

        Args:
            update: its number: dropout masks follow from it.
            micro_batches: this rank's.
            denominators: term -> what its sum over the whole batch is divided by.
        """
        walk = Walk(micro_batches)
        with self._passes.of_update():
            # Before they show each other anything: a rank that cannot would keep the others waiting.
            first = together(self._world, lambda: self._first_pass(update, walk))
            gradients, terms = self._gradients(first, denominators)
            pieces, outputs = first.pieces, first.outputs
            for number, (piece, gradient_UC) in enumerate(zip(pieces, gradients, strict=True)):
                if piece.last:
                    self._before_last()
                again = self._outputs(update, piece, graph=True) if self._cached else outputs[number]
                torch.autograd.backward(again, gradient_UC.to(again.dtype))
                outputs[number] = again.detach()  # its graph goes
        return walk.sums(terms)

    def _first_pass(self, update: int, walk: Walk) -> _FirstPass:
        pieces = list(walk)
        outputs = [self._outputs(update, piece, graph=not self._cached) for piece in pieces]
        real = [piece.sample_ids_B[piece.unit_sample_U] >= 0 for piece in pieces]
        return _FirstPass(
            pieces=pieces,
            outputs=outputs,
            real=real,
            mine_UC=_joined(
                [each.detach()[torch.from_numpy(kept)] for each, kept in zip(outputs, real, strict=True)]
            ),
            values=_rows_of([piece.targets.values for piece in pieces], real),
            extras={
                name: _rows_of([piece.targets.extras[name] for piece in pieces], real)
                for name in sorted(pieces[0].targets.extras if pieces else ())
            },
        )

    def _outputs(self, update: int, piece: MicroBatch, *, graph: bool) -> Tensor:
        self._passes.seed(update, piece)(0)
        with torch.set_grad_enabled(graph):
            return self._forward(piece)

    def _gradients(
        self, first: _FirstPass, denominators: Mapping[str, float]
    ) -> tuple[list[Tensor], dict[str, float]]:
        """Of the loss by each piece's outputs, and the loss of the whole batch: on the first rank, 0 on the others."""
        everyone_UC, all_values, extras = self._everyone(first.mine_UC, first.values, first.extras)
        order = np.argsort(all_values[:, -1], kind="stable")
        leaf_UC = everyone_UC[torch.from_numpy(order).to(everyone_UC.device)].requires_grad_()
        targets = Targets(
            values=all_values[order],
            weights=np.ones(len(order), np.float32),
            extras={name: numbers[order] for name, numbers in extras.items()},
        ).map(partial(to_device, device=self._device))
        with torch.enable_grad():
            shares = shares_of(self._task.loss(leaf_UC, targets), denominators)
            total = torch.stack(list(shares.values())).sum()
            self._scale.scaled(total).backward()
        assert leaf_UC.grad is not None
        found = []
        for piece, each, kept in zip(first.pieces, first.outputs, first.real, strict=True):
            gradient_UC = torch.zeros_like(each, dtype=leaf_UC.dtype)
            places = torch.from_numpy(np.asarray(piece.targets.values)[kept][:, -1]).to(self._device)
            gradient_UC[torch.from_numpy(kept).to(self._device)] = leaf_UC.grad[places]
            found.append(gradient_UC)
        counts = self._world.rank == 0
        return found, {term: float(share.detach()) if counts else 0.0 for term, share in shares.items()}

    def _everyone(
        self, mine_UC: Tensor, values: np.ndarray, extras: Mapping[str, np.ndarray]
    ) -> tuple[Tensor, np.ndarray, dict[str, np.ndarray]]:
        """Outputs, target values and further numbers of the units of all ranks."""
        if self._world.size == 1:
            return mine_UC, values, dict(extras)
        # One behind the other: a rank that fails in between would meet the others at another exchange.
        outputs = self._world.gather_rows(mine_UC.cpu().numpy())
        found = np.concatenate(self._world.gather_rows(values))
        further = {
            name: np.concatenate(self._world.gather_rows(own.reshape(len(own), -1))).reshape(
                -1, *own.shape[1:]
            )
            for name, own in extras.items()
        }
        return torch.from_numpy(np.concatenate(outputs)).to(self._device), found, further


def _rows_of(parts: Sequence[np.ndarray], kept: Sequence[np.ndarray]) -> np.ndarray:
    """Of all micro-batches, the rows that are kept."""
    return np.concatenate([np.asarray(part)[rows] for part, rows in zip(parts, kept, strict=True)])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """In at least fp32."""
    found_UC = torch.cat(list(parts))
    return found_UC if found_UC.dtype == torch.float64 else found_UC.float()

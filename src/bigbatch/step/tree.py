"""Gradients added in the order of a tree over micro-batches: the same bits on 1, 2, 4, … ranks.

Each micro-batch's gradient is a leaf. A rank holds an aligned block of leaves, so its sum is a node of the tree; the
world joins the nodes of all ranks by the same rule (`rules.tree`). It costs log2(micro-batches) gradients of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from bigbatch.parallel.agree import memory_errors
from bigbatch.rules.tree import TreeSum
from bigbatch.samples import LossSums, MicroBatch
from bigbatch.step.executor import PlainExecutor
from bigbatch.step.masks import mask_seed, private_generator, seed_generator

Leaf = tuple[list[Tensor | None], dict[str, float]]
"""Gradients in the order of the parameters, and the loss of each term."""


class TreeExecutor(PlainExecutor):
    """`PlainExecutor` with sums in the order of a tree."""

    def __init__(self, *, parameters: Sequence[Tensor], **plain: object) -> None:
        """As `PlainExecutor`; `parameters` are those whose gradients are wanted."""
        super().__init__(**plain)  # type: ignore[arg-type]
        self._parameters = list(parameters)

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums:
        """As `PlainExecutor.accumulate`; micro-batches come in ascending order of `index`.

        Args:
            update: its number: dropout masks follow from it.
            micro_batches: this rank's.
            denominators: term -> what its sum over the whole batch is divided by.
        """
        tree: TreeSum[Leaf] = TreeSum(_added)
        real_tokens = computed_tokens = 0
        self.wait_seconds = 0.0
        with private_generator(self._device), memory_errors(), self._span():
            for micro_batch in self._timed(micro_batches):
                seed_generator(self._device, mask_seed(self._seed, update, micro_batch.index))
                shares = self._passes(micro_batch, denominators)
                terms = {term: float(share) for term, share in shares.items()}
                tree.add(micro_batch.index, (self._taken(), terms))
                real_tokens += micro_batch.tokens
                computed_tokens += micro_batch.computed_tokens
        total = tree.total()
        if total is None:
            return LossSums(terms={}, real_tokens=0, computed_tokens=0)
        for parameter, gradient in zip(self._parameters, total[0], strict=True):
            parameter.grad = gradient
        return LossSums(terms=total[1], real_tokens=real_tokens, computed_tokens=computed_tokens)

    def _taken(self) -> list[Tensor | None]:
        """The gradients of one micro-batch; the next one begins with none."""
        found = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return found


def _added(earlier: Leaf, later: Leaf) -> Leaf:
    gradients = [_plus(one, other) for one, other in zip(earlier[0], later[0], strict=True)]
    return gradients, {term: earlier[1][term] + later[1][term] for term in earlier[1]}


def _plus(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one.add_(other)

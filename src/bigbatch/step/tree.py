"""Gradients added in the order of a tree over micro-batches: the same bits on 1, 2, 4, … ranks.

Each micro-batch's gradient is a leaf. A rank holds an aligned block of leaves, so its sum is a node of the tree; the
world joins the nodes of all ranks by the same rule (`rules.tree`). It costs log2(micro-batches) gradients of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from bigbatch.protocols import Rule
from bigbatch.rules.tree import TreeSum
from bigbatch.samples import LossSums, MicroBatch
from bigbatch.step.executor import Passes, Walk

Leaf = tuple[list[Tensor | None], dict[str, float]]
"""Gradients in the order of the parameters, and the loss of each term."""


class Tree:
    """Micro-batches by a rule, their gradients in the order of a tree (`protocols.Executor`)."""

    def __init__(self, rule: Rule, passes: Passes, parameters: Sequence[Tensor]) -> None:
        """Keep what every update needs.

        Args:
            rule: forward and backward of a micro-batch.
            passes: what they have in common.
            parameters: whose gradients are wanted.
        """
        self._rule = rule
        self._passes = passes
        self._parameters = list(parameters)

    def accumulate(
        self, update: int, micro_batches: Iterable[MicroBatch], denominators: Mapping[str, float]
    ) -> LossSums:
        """As `OneByOne.accumulate`; micro-batches come in ascending order of `index`.

        Args:
            update: its number: dropout masks follow from it.
            micro_batches: this rank's.
            denominators: term -> what its sum over the whole batch is divided by.
        """
        tree: TreeSum[Leaf] = TreeSum(_added)
        walk = Walk(micro_batches)
        with self._passes.of_update():
            for micro_batch in walk:
                shares = self._rule(micro_batch, denominators, self._passes.seed(update, micro_batch))
                terms = {term: float(share) for term, share in shares.items()}
                tree.add(micro_batch.index, (self._taken(), terms))
        gradients, terms = tree.total() or ([None] * len(self._parameters), {})
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return walk.sums(terms)

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

"""Adversarial training on embedded tokens, sample by sample.

::

    g_i = d loss_i / d e_i                              of sample i alone, by its embedded tokens e_i
    loss = (1 - share) loss(e) + share loss(e + r)      r_i = epsilon g_i / |g_i|,  |g_i| over all tokens of sample i

Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification". A sample's move
depends on that sample alone, so the sum over samples does not depend on the cut. The usual implementations take |g|
over the whole embedding matrix and micro-batch, whose result does. Differs from the paper: embeddings are not
normalised first, and `share` says how much either loss counts.

Example, in a recipe: `gradient: {name: fgm, epsilon: 1.0, share: 0.5}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from bigbatch.protocols import Rule
from bigbatch.samples import MicroBatch
from bigbatch.step.nudge import Nudge


class FastGradient:
    """Two forward and backward passes of each micro-batch, with the same dropout masks (`protocols.Rule`)."""

    def __init__(
        self,
        rule: Rule,
        nudge: Nudge,
        *,
        epsilon: float,
        share: float,
        before_last: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what every micro-batch needs.

        Args:
            rule: one forward and backward pass; it tells nobody that gradients are complete.
            nudge: moves the embedded tokens.
            epsilon: L2 length of a sample's move.
            share: of the loss at the moved tokens, between 0 and 1.
            before_last: called before the last backward pass of an update, after which gradients are complete.
        """
        self._rule = rule
        self._nudge = nudge
        self._epsilon = epsilon
        self._share = share
        self._before_last = before_last

    def __call__(
        self, micro_batch: MicroBatch, denominators: Mapping[str, float], seed: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Add the gradient of both losses to `.grad`; the loss that it tells is that of the tokens as they are."""
        with self._nudge.watching():
            shares = self._rule(micro_batch, _part(denominators, 1 - self._share), seed)
        self._nudge.towards_loss(micro_batch, self._epsilon)
        if micro_batch.last:
            self._before_last()
        with self._nudge.moving():
            self._rule(micro_batch, _part(denominators, self._share), seed)
        return {term: share / (1 - self._share) for term, share in shares.items()}


def _part(denominators: Mapping[str, float], part: float) -> dict[str, float]:
    """With which a loss counts in this part."""
    return {term: count / part for term, count in denominators.items()}

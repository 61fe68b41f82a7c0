"""A number format is compared with fp32 on a few real samples, and with what the plain path does in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

# The same measure and the same care for the module as the probe of packing, in the next file.
from bigbatch.probe.exactness import Outcome, norm_of, outcome_of, ratio_of, undisturbed
from bigbatch.protocols import Forward
from bigbatch.samples import MicroBatch

_EXACT = 1e-6
"""Errors below this are those of fp32 itself: 1.5 times nothing is no bound."""


@dataclass(frozen=True, kw_only=True)
class FormatErrors:
    """Errors against the fp32 plain path; infinite where something was not finite."""

    ours: float
    plain: float
    """Of the same figure: of logits and gradient the one in which ours is worse in proportion."""


def error_of(
    forward: Forward,
    reference: Forward,
    micro_batches: Sequence[MicroBatch],
    *,
    span: Callable[[], AbstractContextManager[None]],
) -> float:
    """||a - b|| / ||b|| of the whole gradient of a fixed random combination of the logits.

    Args:
        forward: in the format.
        reference: in fp32.
        micro_batches: a few real ones.
        span: of the format's `Casting`.
    """
    return _gap(forward, _run(reference, micro_batches), micro_batches, span)[1]


def format_errors(
    ours: Forward,
    plain: Forward,
    reference: Forward,
    micro_batches: Sequence[MicroBatch],
    *,
    span: Callable[[], AbstractContextManager[None]],
) -> FormatErrors:
    """Compare our path in a format with the plain path in the same format, both against the plain path in fp32.

    Args:
        ours: packed or padded, under a policy.
        plain: padded, under torch's own autocast.
        reference: padded, fp32.
        micro_batches: a few real ones; each is run in all three ways.
        span: of the format's `Casting`.

    Returns:
        ||a - b|| / ||b|| of the logits or of the gradient. Norms, not the largest logit's error: of a few samples
        the largest is chance, and would refuse one healthy model in twenty.
    """
    truth = _run(reference, micro_batches)
    mine, theirs = (_gap(forward, truth, micro_batches, span) for forward in (ours, plain))
    pairs = list(zip(mine, theirs, strict=True))
    pairs = [(_finite(own), max(_finite(other), _EXACT)) for own, other in pairs]
    # Where the plain path breaks, it sets no bound that ours would not keep.
    own, other = max(pairs, key=lambda pair: pair[0] if math.isinf(pair[1]) else pair[0] / pair[1])
    return FormatErrors(ours=own, plain=other)


def _run(forward: Forward, micro_batches: Sequence[MicroBatch]) -> Outcome:
    module: nn.Module = forward.module  # type: ignore[attr-defined]
    with undisturbed(module, gradient=True):
        return outcome_of(forward, module, micro_batches, gradient=True)


def _gap(
    forward: Forward,
    truth: Outcome,
    micro_batches: Sequence[MicroBatch],
    span: Callable[[], AbstractContextManager[None]],
) -> tuple[float, float]:
    """Relative errors of logits and gradient."""
    with span():
        found = _run(forward, micro_batches)
    off = [mine - exact for mine, exact in zip(found.gradient, truth.gradient, strict=True)]
    return (
        ratio_of(norm_of([found.logits_UC - truth.logits_UC]), norm_of([truth.logits_UC])),
        ratio_of(norm_of(off), norm_of(truth.gradient)),
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf

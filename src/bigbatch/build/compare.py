"""A way to run the model is compared with the plain one on real samples before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bigbatch.build.runners import open_runner
from bigbatch.data.batches import Batches, beginnings
from bigbatch.data.packs import micro_batches
from bigbatch.facts import ProbeFacts
from bigbatch.graph.casting import PlainAutocast
from bigbatch.model.logits import comparable
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.precision import PLAIN_RATIO, is_low
from bigbatch.probe.exactness import probe_packing
from bigbatch.probe.precision import FormatErrors, format_errors
from bigbatch.samples import MicroBatch
from bigbatch.tasks.ready import Ready

PROBE_SAMPLES = 8
"""The longest, the shortest and some between: a fault of a path shows in any pack of several."""


def compared(ready: Ready, how: ForwardPlan, samples: list[MicroBatch]) -> ProbeFacts:
    """This way of running the model, held against the padded one; in a low format, against what that may cost.

    Args:
        ready: the model and its task; its weights and gradients are left as they were.
        how: the way that is tried.
        samples: micro-batches of real samples, as `probe_samples` gives them.
    """
    if is_low(how.precision):
        return _within_format(ready, how, samples)
    forward = open_runner(ready, how)
    plain = open_runner(ready, ForwardPlan())
    try:
        return probe_packing(comparable(forward), comparable(plain), samples)
    finally:
        plain.close()
        forward.close()


def errors_of(ready: Ready, how: ForwardPlan, samples: Sequence[MicroBatch]) -> FormatErrors:
    """A way in a low format, and the plain path in the same format, both against the plain path in fp32.

    Args:
        ready: the model and its task.
        how: the way that is tried, with its format.
        samples: micro-batches of real samples.
    """
    forward, plain = open_runner(ready, how), open_runner(ready, ForwardPlan())
    try:
        reference = comparable(plain)
        lowered = PlainAutocast(reference, how.precision)
        return format_errors(comparable(forward), lowered, reference, samples, span=forward.span)
    finally:
        plain.close()
        forward.close()


def _within_format(ready: Ready, how: ForwardPlan, samples: Sequence[MicroBatch]) -> ProbeFacts:
    """Whether the error against fp32 is at most 1.5 times the plain path's (docs/guarantees.md)."""
    errors, count = errors_of(ready, how, samples), sum(len(batch.lengths_B) for batch in samples)
    told = f"error against fp32 {errors.ours:.1e} on {count} real samples, the plain path's is {errors.plain:.1e}"
    return ProbeFacts(
        packed_ok=errors.ours <= PLAIN_RATIO * errors.plain, reason=told, error=errors.ours, samples=count
    )


PROBE_TOKENS = 4096
"""Of a sample of a model with a pattern: where it is longer, its beginning is compared."""


def probe_samples(
    batches: Batches, count: int = PROBE_SAMPLES, most_tokens: int | None = None
) -> list[MicroBatch]:
    """The longest, the shortest and other real samples that something can be learnt from, packed.

    Args:
        batches: of the training split.
        count: how many samples.
        most_tokens: of a sample, whose end is left out where it is longer; None: any number.
    """
    table, rows = batches.table, batches.at_hand
    counted = rows[np.flatnonzero(table.take(rows).counted_units)]
    if not len(counted):  # a task of the user's own may count something else than weights
        counted = rows
    by_length = counted[np.argsort(table.lengths_B[counted], kind="stable")]
    spread = np.linspace(0, len(by_length) - 1, min(count, len(by_length))).astype(np.int64)
    some = batches.some(np.sort(by_length[spread]))
    longest = int(table.lengths_B.max())
    if most_tokens is not None and longest > most_tokens:
        longest = most_tokens
        short = beginnings(some.table.load(), most_tokens)
        some = replace(some, table=short, lengths_B=short.lengths_B, targets=short.targets)
    return list(micro_batches(some, micro_tokens=max(512, longest), packing="packed"))

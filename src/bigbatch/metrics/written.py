"""The figures of texts that a model writes, by name."""

from __future__ import annotations

from collections.abc import Mapping

from bigbatch.metrics.bleu import WrittenMetric
from bigbatch.metrics.rouge import Rouge

COUNTED, MEANS = ("bleu", "chrf"), ("rouge_l", "rouge_lsum")
"""By sacrebleu; by `metrics.rouge`."""


def written_metrics() -> Mapping[str, WrittenMetric]:
    """By name."""
    counted = {name: WrittenMetric(name=name) for name in COUNTED}
    return {**counted, **{name: Rouge(name=name) for name in MEANS}}

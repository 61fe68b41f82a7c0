"""A loss, a metric, a stop rule and a new column role of your own, in one file."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from bigbatch.protocols import Role
from bigbatch.records import Record, Stop
from bigbatch.samples import Predictions, Targets
from bigbatch.tasks.classify import Classify

COST_OF_MISSING = np.array([5.0, 1.0, 1.0])  # negative, neutral, positive: an angry customer costs most


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """One value per unit: cross-entropy, less of it where the model is already sure."""
    losses_U = F.cross_entropy(logits, targets, reduction="none")
    return (1 - (-losses_U).exp()) ** gamma * losses_U


def cost(predictions: Predictions, targets: Targets) -> float:
    """What the mistakes cost, per tweet."""
    return float(np.mean(COST_OF_MISSING[targets.values] * (predictions.values != targets.values)))


cost.larger_is_better = False  # for `best`, early stopping and gates; true where nothing is said


def stop_when_good(record: Record) -> Stop | None:
    """Nine tweets in ten are enough."""
    return Stop("good enough") if record.kind == "eval" and record["accuracy"] > 0.9 else None


@dataclass(frozen=True, kw_only=True)
class SureClassify(Classify):
    """Classification where a row counts as much as its annotators agreed."""

    @property
    def roles(self):
        return {**super().roles, "confidence": Role(meaning="share of the annotators' votes", kind="number")}

    def finish(self, row, sample):
        return replace(sample, weights=sample.weights * np.float32(row["confidence"]))

"""What tasks share whose units are classes: weights, denominators, weighted losses, probabilities.

Shapes: U units, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bigbatch.records import Targets, TokenTable
from bigbatch.tasks.losses import UnitLoss, class_weights, positive_weights

if TYPE_CHECKING:
    from torch import Tensor

SET_BY_THE_RUN = {"option": False}
"""Field metadata: not an option under `task:`; the run fills it in with `dataclasses.replace`."""


def weights_of_classes(
    setting: str | Mapping[str, float], names: Sequence[str], train: TokenTable
) -> tuple[float, ...] | None:
    """Weights of the C classes from the training table's units, of labels where they apply (`multi`: zeros and ones);
    None for `none`.

    Raises:
        RecipeError: a weight for a label that does not exist.
    """
    known = np.asarray(train.values)[np.asarray(train.weights) > 0]
    if np.ndim(train.values) > 1:
        return positive_weights(setting, names, known)
    return class_weights(setting, names, known)


def with_class_weights(targets: Targets, weights_C: Sequence[float] | None) -> Targets:
    """The targets (numpy) with class weights multiplied into the weights of their units."""
    if weights_C is None:
        return targets
    classes_U = np.maximum(targets.values, 0)
    weights_U = targets.weights * np.asarray(weights_C, np.float64)[classes_U]
    return replace(targets, weights=weights_U.astype(np.float32))


def sum_of_weights(targets: Targets) -> float:
    """The denominator: sum of the weights, fp64, of prepared targets (numpy)."""
    return float(np.sum(targets.weights, dtype=np.float64))


def weighted_losses(loss: UnitLoss, outputs: Tensor, targets: Targets) -> Tensor:
    """(U,) loss of each unit times its weight. A unit of weight 0 adds exactly nothing, even where its loss is not
    finite.
    """
    import torch

    losses_U = loss(outputs, targets)
    weights_U = targets.weights.to(losses_U.dtype)
    return torch.where(weights_U == 0, 0.0, losses_U * weights_U)


def fp64(outputs: Any) -> np.ndarray:
    """Outputs, a tensor on any device or an array, as fp64 numpy."""
    if not isinstance(outputs, np.ndarray):
        outputs = outputs.detach().cpu().double().numpy()
    return outputs.astype(np.float64)


def softmax(scores_UC: np.ndarray) -> np.ndarray:
    """Probabilities (U, C) of fp64 logits."""
    with np.errstate(invalid="ignore"):  # infinite logits of a diverged model give NaN
        exponentials_UC = np.exp(scores_UC - scores_UC.max(-1, keepdims=True))
    return exponentials_UC / exponentials_UC.sum(-1, keepdims=True)

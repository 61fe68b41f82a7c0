"""Single units that a model got wrong, the surest first."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bigbatch.samples import Predictions, Targets

EXAMPLES = 20
"""Kept of a split."""


class Wrong(NamedTuple):
    """One of them."""

    badness: float
    unit: int
    label: int | float
    predicted: int | float
    probability: float | None


def wrong_units(predictions: Predictions, targets: Targets, first_unit: int) -> list[Wrong]:
    """The worst wrong units of a chunk; multi-label has none.

    Args:
        predictions: of U units.
        targets: theirs.
        first_unit: number of the first of them in the split.
    """
    weighed_U = np.asarray(targets.weights) > 0
    shares = predictions.probabilities
    if predictions.kind == "single" and shares is not None:
        badness_U = shares.max(-1)
        wrong_U = weighed_U & (predictions.values != targets.values)
    elif predictions.kind == "regression" and predictions.values.ndim == 1:
        badness_U = np.abs(predictions.values - targets.values)
        wrong_U = weighed_U & (badness_U > 0)
    else:
        return []
    units = np.flatnonzero(wrong_U & np.isfinite(badness_U))
    units = units[np.argsort(-badness_U[units], kind="stable")][:EXAMPLES]
    return [
        Wrong(
            badness=float(badness_U[unit]),
            unit=first_unit + int(unit),
            label=targets.values[unit].item(),
            predicted=predictions.values[unit].item(),
            probability=None if shares is None else float(badness_U[unit]),
        )
        for unit in units
    ]

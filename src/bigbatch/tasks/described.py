"""Predictions as plain data, where a task has no words of its own for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bigbatch.protocols import Json
from bigbatch.samples import Predictions
from bigbatch.tasks.losses import Kind


def described(predictions: Predictions, names: Sequence[str]) -> Iterator[dict[str, Json]]:
    """Each unit's prediction; classes without names are called by their number.

    Yields:
        `{"label", "probability", "probabilities": {name: p}}`; of several labels `{"labels", "probabilities"}`; of
        numbers `{"value"}`. What is not finite is None.
    """
    names = tuple(names) or tuple(map(str, range(predictions.scores.shape[1])))
    for unit, value in enumerate(predictions.values):
        if predictions.probabilities is None:
            numbers = [finite(item) for item in np.atleast_1d(value)]
            one = predictions.values.ndim == 1
            yield {"value": numbers[0] if one else dict(zip(names, numbers, strict=True))}
            continue
        shares = [finite(share) for share in predictions.probabilities[unit]]
        probabilities = dict(zip(names, shares, strict=True))
        if predictions.kind == "multi":
            applying = [name for name, applies in zip(names, value, strict=True) if applies]
            yield {"labels": applying, "probabilities": probabilities}
        else:
            yield {"label": names[value], "probability": shares[value], "probabilities": probabilities}


def prediction_of_nothing(kind: Kind, names: Sequence[str]) -> dict[str, Json]:
    """The same keys for a row that has no tokens."""
    unknown = dict.fromkeys(names)
    if kind == "regression":
        return {"value": unknown if len(names) > 1 else None}
    if kind == "multi":
        return {"labels": [], "probabilities": unknown}
    return {"label": None, "probability": None, "probabilities": unknown}


def finite(number: Any) -> float | None:
    """As JSON can have it."""
    return float(number) if math.isfinite(number) else None

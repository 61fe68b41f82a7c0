"""A linear model of sparse rows, fitted whole: logistic regression (one class, or each label by itself) or ridge.

::

    minimise  1/N sum_n loss(x_n W + b, y_n) + strength / (2 N) |W|^2     by L-BFGS, b not penalised

Shapes: N rows, F features, C outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from bigbatch.run.baseline.lbfgs import steps
from bigbatch.run.baseline.sparse import Product, Sparse, flipped

Loss = Literal["single", "multi", "regression"]
STRENGTH: dict[Loss, float] = {"single": 0.1, "multi": 0.1, "regression": 1.0}
"""Of the penalty: scikit-learn's C = 10, with which short texts of many classes do best, and its ridge's alpha = 1."""
_MOST_STEPS = 40
_CALM = 1e-4
"""Relative gain of five steps at which it is done."""


Rows = Sparse | np.ndarray
"""(N, F), float32 where they are dense."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """A fitted model."""

    weights_FC: Tensor
    bias_C: Tensor
    steps: int
    """Steps that were made."""
    done: bool
    """Whether it had converged; else time was up."""

    def __call__(self, rows: Rows) -> np.ndarray:
        """Outputs (N, C) float64."""
        with torch.no_grad():
            return (_product(rows)(self.weights_FC) + self.bias_C).double().numpy()


def _product(rows: Rows) -> Callable[[Tensor], Tensor]:
    """The rows times a matrix (F, C)."""
    return Product(rows) if isinstance(rows, Sparse) else torch.from_numpy(rows).matmul


def fit(rows: Rows, targets: np.ndarray, loss: Loss, *, outputs: int, seconds: float) -> Linear:
    """The model of these rows.

    Args:
        rows: (N, F).
        targets: (N,) int64 classes, (N, C) zeros and ones, or (N, C) numbers.
        loss: of one row.
        outputs: C.
        seconds: after which no further step is made.
    """
    forward = _product(rows)
    backward = _product(flipped(rows) if isinstance(rows, Sparse) else rows.T)
    width = rows.width if isinstance(rows, Sparse) else rows.shape[1]
    count, strength = len(rows), STRENGTH[loss]
    start = torch.zeros(width + 1, outputs, dtype=torch.float32)
    start[-1] = _first_bias(targets, loss, outputs)
    of_outputs = _gradient(targets, loss)

    def slope_at(parameters: Tensor) -> tuple[float, Tensor]:
        weights_FC = parameters[:-1]
        value, gradient_NC = of_outputs(forward(weights_FC) + parameters[-1])
        slope = torch.empty_like(parameters)
        torch.add(backward(gradient_NC), weights_FC, alpha=strength, out=slope[:-1])
        slope[-1] = gradient_NC.sum(0)
        penalty = strength / 2 * float(weights_FC.square().sum())
        return (float(value) + penalty) / count, slope.div_(count)

    began, before, found, made, done = time.monotonic(), float("inf"), start, 0, True
    with torch.no_grad():
        for value, place in steps(slope_at, start):
            made, found = made + 1, place
            if made == _MOST_STEPS:
                break
            if made % 5 == 0:
                if before - value <= _CALM * abs(value):
                    break
                before = value
            if time.monotonic() - began > seconds:
                done = False
                break
    return Linear(weights_FC=found[:-1], bias_C=found[-1], steps=made, done=done)


def _first_bias(targets: np.ndarray, loss: Loss, outputs: int) -> Tensor:
    """Where the constant model stands."""
    if loss == "single":
        shares_C = (np.bincount(targets, minlength=outputs) + 0.5) / (len(targets) + 0.5 * outputs)
        return torch.from_numpy(np.log(shares_C)).float()
    mean_C = targets.mean(0)
    if loss == "multi":
        mean_C = (targets.sum(0) + 0.5) / (len(targets) + 1)
        mean_C = np.log(mean_C / (1 - mean_C))
    return torch.from_numpy(mean_C).float()


def _gradient(targets: np.ndarray, loss: Loss) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Outputs (N, C) -> their loss (), and its gradient (N, C)."""
    if loss == "single":
        rows_N, classes_N = torch.arange(len(targets)), torch.from_numpy(targets)

        def single(outputs_NC: Tensor) -> tuple[Tensor, Tensor]:
            shares_NC = outputs_NC.log_softmax(-1)
            value = -shares_NC[rows_N, classes_N].sum()
            shares_NC = shares_NC.exp_()
            shares_NC[rows_N, classes_N] -= 1
            return value, shares_NC

        return single
    wanted_NC = torch.from_numpy(np.ascontiguousarray(targets, np.float32))
    if loss == "multi":
        return lambda outputs_NC: (
            (softplus(outputs_NC) - wanted_NC * outputs_NC).sum(),
            outputs_NC.sigmoid() - wanted_NC,
        )

    def squares(outputs_NC: Tensor) -> tuple[Tensor, Tensor]:
        errors_NC = outputs_NC - wanted_NC
        return errors_NC.square().sum() / 2, errors_NC

    return squares

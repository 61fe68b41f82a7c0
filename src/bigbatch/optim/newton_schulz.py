"""The nearest orthogonal matrix, about: singular values are driven towards 1 by products alone."""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""a, b, c of Jordan et al.: steepest at 0, so that five steps are enough; singular values end between .7 and 1.2."""
STEPS = 5


def orthogonalised(matrices_BMN: Tensor, steps: int = STEPS, dtype: torch.dtype | None = None) -> Tensor:
    """U V^T, about, of each matrix U S V^T.

    ::

        X = G / |G|        steps times: A = X X^T;  X = a X + (b A + c A A) X

    A singular value s becomes a s + b s^3 + c s^5 in each step, and directions stay. The whole matrix is needed: parts
    of it have other singular values.

    Args:
        matrices_BMN: (matrices, rows, columns).
        steps: of the iteration.
        dtype: of the products; None: of the matrices. bf16 is as good for training, and quicker where hardware has it.

    Returns:
        As the input in shape and dtype; zero where a matrix is zero.
    """
    a, b, c = COEFFICIENTS
    wide = matrices_BMN if matrices_BMN.shape[1] <= matrices_BMN.shape[2] else matrices_BMN.mT
    lengths = wide.flatten(1).norm(dim=1).clamp_min(torch.finfo(wide.dtype).tiny)
    turned = (wide / lengths[:, None, None]).to(dtype or wide.dtype)
    for _ in range(steps):
        square = turned @ turned.mT
        polynomial = torch.baddbmm(square, square, square, beta=b, alpha=c)
        turned = torch.baddbmm(turned, polynomial, turned, beta=a)
    turned = turned.to(matrices_BMN.dtype)
    return turned if wide is matrices_BMN else turned.mT

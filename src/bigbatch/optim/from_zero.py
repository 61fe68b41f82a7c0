"""Matrices that begin at zero, such as every B of LoRA: what their length says about their steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

SHORT = 0.01
"""Root mean square of a matrix's values; transformers begin with 0.02."""
_MARK = "from_zero"
"""State of a parameter that was zero at its first gradient."""


class FromZero:
    """Which matrices are not adapted yet.

    LAMB and LARS step as far as a matrix is long. One that is zero says nothing, so its first step is taken as it is
    (ratio 1); then it is as long as that one step, and would go on at lr of the rate: hundreds of updates to get away
    from zero. It is left alone until it is about as long as a matrix that begins at random.
    """

    def __init__(self, values_of: Callable[[Tensor], int]) -> None:
        """Nothing is known yet.

        Args:
            values_of: how many values the whole of a parameter has.
        """
        self._values_of = values_of
        self._seen: set[Tensor] = set()

    def waiting(
        self, parameters: Sequence[Tensor], states: Mapping[Tensor, dict[str, Tensor]], squares: Tensor
    ) -> Tensor | None:
        """Whether each is still too short (len(parameters),); None: none of them began at zero.

        Args:
            parameters: adapted ones.
            states: the optimiser's; those of parameters that are zero are marked, for checkpoints.
            squares: squared L2 norm of each whole parameter.
        """
        if not self._seen.issuperset(parameters):  # the first update alone waits for the numbers
            for parameter, square in zip(parameters, squares.tolist(), strict=True):
                if square == 0 and parameter not in self._seen:
                    states[parameter][_MARK] = torch.ones(())
            self._seen.update(parameters)
        marked = [_MARK in states.get(parameter, {}) for parameter in parameters]
        if not any(marked):
            return None
        bounds = [
            SHORT**2 * self._values_of(parameter) if mark else 0.0
            for parameter, mark in zip(parameters, marked, strict=True)
        ]
        return squares < torch.tensor(bounds, dtype=squares.dtype).to(squares.device, non_blocking=True)

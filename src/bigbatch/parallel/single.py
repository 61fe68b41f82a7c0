"""One process is the whole world: nothing to reduce, nothing to wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class SingleWorld:
    """`protocols.World` of one process, without torch.distributed."""

    rank = 0
    size = 1

    def sum_counts(self, counts: Mapping[str, float]) -> dict[str, float]:
        """The counts themselves."""
        return dict(counts)

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Nothing: the gradients are already those of the whole batch."""

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        """Squared L2 norm of each tensor (len(tensors),), in its own dtype."""
        norms = torch._foreach_norm(list(tensors))  # pyright: ignore[reportPrivateImportUsage]
        return torch.stack(norms).square()

    def whole(self, matrix: Tensor) -> Tensor:
        """The matrix itself."""
        return matrix

    def barrier(self) -> None:
        """Nobody to wait for."""

"""What every world does whose ranks hold the whole model: nothing is a part of anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bigbatch.optim.lamb import local_sum_of_squares


class Undivided:
    """The part of `protocols.World` that is about parts of tensors."""

    divides = False

    def prepare(self, module: nn.Module, anatomy: Any) -> None:
        """Nothing: the model stays as it is."""

    def trainable(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of every trainable parameter, tied ones once."""
        return ((name, item) for name, item in module.named_parameters() if item.requires_grad)

    def sum_of_squares(self, tensors: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
        """Squared L2 norm of each tensor (len(tensors),), in its own dtype."""
        return local_sum_of_squares(tensors)

    def whole(self, matrix: Tensor) -> Tensor:
        """The matrix itself."""
        return matrix

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors themselves."""
        return dict(tensors)

    def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor:
        """The state itself."""
        return part

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """All of it."""
        return whole

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Copy the values, in place."""
        tensor.copy_(whole)

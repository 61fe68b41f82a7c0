"""What every world does whose ranks hold the whole model: nothing is a part of anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from bigbatch.optim.lamb import local_sum_of_squares


class Undivided:
    """The part of `protocols.World` that is about parts of tensors."""

    divides = False
    counts = True

    def prepare(self, module: nn.Module, anatomy: object) -> None:
        """Nothing: the model stays as it is."""

    def trainable(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor of every trainable parameter, tied ones once."""
        return ((name, item) for name, item in module.named_parameters() if item.requires_grad)

    def sum_of_squares(self, tensors: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
        """Squared L2 norm of each tensor (len(tensors),), in its own dtype."""
        return local_sum_of_squares(tensors)

    def gradients_so_far(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """`.grad` of each."""
        return [parameter.grad for parameter in parameters]

    def whole(self, matrix: Tensor) -> Tensor:
        """The matrix itself."""
        return matrix

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors themselves."""
        return dict(tensors)

    def place_of(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(whole shape, index of the first element here, shape here): everything is here."""
        return tuple(tensor.shape), (0,) * tensor.ndim, tuple(tensor.shape)

    def owns(self, tensor: Tensor) -> bool:
        """Every rank has its own."""
        return True

    def local(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor:
        """The state itself."""
        return part

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """All of it."""
        return whole

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Copy the values, in place."""
        tensor.copy_(whole)

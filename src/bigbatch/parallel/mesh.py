"""Ranks arranged in a mesh: copies of the model (replicate), shared parameters (shard), shared products (tensor).

Parameters become DTensors; what computes with them is torch's FSDP2 and tensor parallel layers. The optimiser, clipping
and checkpoints see plain tensors: the part of each parameter that this rank holds. Sums over whole tensors are made
here, and each rank adds only what no other rank adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from bigbatch.errors import UsageError
from bigbatch.model.anatomy import Anatomy
from bigbatch.model.quantised import quantised_layers
from bigbatch.optim.lamb import local_sum_of_squares
from bigbatch.parallel.axes import AxisGroups, is_group_error
from bigbatch.parallel.group import GroupWorld, peer_errors
from bigbatch.parallel.shard import forget_groups, forget_pass, share_parameters
from bigbatch.parallel.tensor import share_products
from bigbatch.places import Part
from bigbatch.protocols import World

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


AXES = ("replicate", "shard", "tensor")


@dataclass(frozen=True, kw_only=True)
class MeshShape:
    """How many ranks along each axis; the last axis changes fastest."""

    replicate: int = 1
    shard: int = 1
    tensor: int = 1

    @property
    def size(self) -> int:
        return self.replicate * self.shard * self.tensor

    def __str__(self) -> str:
        return f"replicate {self.replicate} x shard {self.shard} x tensor {self.tensor}"


class MeshWorld(GroupWorld):
    """`protocols.World` of ranks in a mesh."""

    divides = True

    def __init__(
        self, shape: MeshShape, device: str, *, group: ProcessGroup | None = None, ours: bool = False
    ) -> None:
        """Arrange the ranks.

        Args:
            shape: its product is the number of ranks.
            device: `cpu`, `cuda:0`, …: its type is the mesh's.
            group: for words and counts.
            ours: whether closing closes the default group.

        Raises:
            UsageError: the product is another number.
        """
        super().__init__(group, ours=ours)
        if shape.size != self.size:
            raise UsageError(f"plan.mesh: {shape} needs {shape.size} ranks, found {self.size}")
        self.shape = shape
        self._axes = AxisGroups(AXES, (shape.replicate, shape.shard, shape.tensor), device)
        self.mesh: DeviceMesh = self._axes.mesh
        self._module: nn.Module | None = None
        data_ranks = shape.replicate * shape.shard
        self.part = Part(rank=self.rank // shape.tensor, size=data_ranks, even=shape.shard > 1)
        self.counts = self.rank % shape.tensor == 0
        self._held: dict[Tensor, Tensor] = {}
        """Local tensor of each trainable parameter -> the parameter."""

    # ------------------------------------------------------------ the model

    def prepare(self, module: nn.Module, anatomy: Anatomy) -> None:
        """Share the model's products and parameters; from now on its parameters are parts.

        Raises:
            UsageError: this model cannot be shared in this way, with the reason.
        """
        if self.shape.size > self.shape.replicate and any(True for _ in quantised_layers(module)):
            raise UsageError(
                "plan.mesh: a base in 8 or 4 bits is not divided: its codes lie in blocks that cross rows, so no "
                "part of them is a part of a weight. Take plan.mesh.replicate, or model.adapter.base: fp32"
            )
        if self.shape.tensor > 1:
            share_products(anatomy, self.mesh["tensor"])
        if self.shape.shard > 1:
            axes = ("replicate", "shard") if self.shape.replicate > 1 else ("shard",)
            share_parameters(module, anatomy, self.mesh[axes])
        _bring(module, self.mesh.device_type)
        self._module = module

    def trainable(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Name and local part of every trainable parameter, tied ones once; the optimiser moves these in place."""
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            held = parameter
            if isinstance(parameter, DTensor):
                held = nn.Parameter(parameter.to_local().detach())
            self._held[held] = parameter
            yield name, held

    # ------------------------------------------------------------ gradients

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give the local tensors their gradients, summed over the ranks that compute other samples."""
        for held in parameters:
            parameter = self._held.get(held)
            if isinstance(parameter, DTensor):
                held.grad = _local(parameter.grad)
                parameter.grad = None
        if self.shape.shard > 1:
            return  # FSDP has summed them over shard and replicate already, while backward ran
        with peer_errors():
            self._sum_over_copies(parameters)

    def gradients_so_far(self, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """This rank's part of each; of parameters that FSDP shares, summed over the ranks already."""
        return [_local(self._held.get(held, held).grad) for held in parameters]

    def _sum_over_copies(self, parameters: Sequence[Tensor]) -> None:
        """Without sharding, copies of the same part add up; None stays where no rank has a gradient."""
        if self.shape.replicate == 1:
            return
        group = self.mesh["replicate"].get_group()
        rows = self.exchange([float(held.grad is not None) for held in parameters])
        for held, present in zip(parameters, zip(*rows, strict=True), strict=True):
            if any(present):
                held.grad = torch.zeros_like(held) if held.grad is None else held.grad
                dist.all_reduce(held.grad, group=group)

    def leave(self) -> None:
        """Close the groups of all axes: whoever is, or comes, inside a collective of this pass fails there."""
        if self._module is not None:
            forget_groups(self._module)
        self._axes.close()

    def was_let_out(self, trouble: BaseException) -> bool:
        """Whether it is what a closed group says."""
        return super().was_let_out(trouble) or is_group_error(trouble)

    def renew(self) -> None:
        """Open the groups again, and forget what the pass has left in the model."""
        self.leave()
        self._axes.open()
        if self._module is not None:
            forget_pass(self._module)

    def close(self) -> None:
        """Leave the group."""
        self._axes.end()
        super().close()

    def last_backward(self) -> None:
        """FSDP sends what each backward pass gives."""

    # ------------------------------------------------------------ sums over whole tensors

    def sum_of_squares(self, tensors: Sequence[Tensor], of: Sequence[Tensor] | None = None) -> Tensor:
        """Squared L2 norm of each whole tensor (len(tensors),).

        A rank adds its part's squares only where it is the first along every axis that holds copies.

        Args:
            tensors: local parts.
            of: the local parameter that each belongs to; None: the tensors are such parameters themselves.
        """
        owners = tensors if of is None else of
        squares = local_sum_of_squares(tensors).double()
        counted = [float(self.owns(owner)) for owner in owners]
        squares = squares * torch.tensor(counted, dtype=squares.dtype, device=squares.device)
        with peer_errors():
            dist.all_reduce(squares)
        return squares.to(tensors[0].dtype)

    def owns(self, tensor: Tensor) -> bool:
        """Whether this rank speaks for its part: it is the first of those that hold the same one."""
        tensor = self._held.get(tensor, tensor)
        place = self.mesh.get_coordinate()
        assert place is not None
        coordinate = dict(zip(AXES, place, strict=True))
        if not isinstance(tensor, DTensor):
            return not any(coordinate.values())
        split = {
            name
            for name, placement in zip(
                tensor.device_mesh.mesh_dim_names or (), tensor.placements, strict=True
            )
            if not isinstance(placement, Replicate)
        }
        return not any(coordinate[axis] for axis in AXES if axis not in split)

    def whole(self, matrix: Tensor) -> Tensor:
        """The whole of a parameter's local part."""
        parameter = self._held.get(matrix, matrix)
        return parameter.full_tensor() if isinstance(parameter, DTensor) else matrix

    # ------------------------------------------------------------ for checkpoints

    def region(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape of this rank's part of a module's tensor, and the index of its first element in every dimension."""
        if not isinstance(tensor, DTensor):
            return tuple(tensor.shape), (0,) * tensor.ndim
        shape, offset = compute_local_shape_and_global_offset(
            tensor.shape, tensor.device_mesh, tensor.placements
        )
        return tuple(shape), tuple(offset)

    def place_of(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(whole shape, index of the first element here, shape here) of a module's tensor or trained parameter."""
        owner = self._held.get(tensor, tensor)
        shape, offset = self.region(owner)
        return tuple(owner.shape), offset, shape

    def local(self, tensor: Tensor) -> Tensor:
        """What this rank holds of a module's tensor: its own memory, not a copy."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors, on every rank."""
        return {name: _whole(tensor) for name, tensor in tensors.items()}

    def gathered_like(self, part: Tensor, parameter: Tensor) -> Tensor:
        """The whole of a state that is laid out as its parameter: the optimiser's, on every rank."""
        owner = self._held.get(parameter, parameter)
        if not isinstance(owner, DTensor) or part.shape != owner.to_local().shape or part.ndim == 0:
            return part
        like = DTensor.from_local(
            part,
            owner.device_mesh,
            owner.placements,
            run_check=False,
            shape=owner.shape,
            stride=owner.stride(),
        )
        return like.full_tensor()

    def fill(self, tensor: Tensor, whole: Tensor) -> None:
        """Put a whole tensor's values into a module's own one, in place."""
        target = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        target.copy_(self.part_of(whole, tensor))

    def part_of(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """This rank's part of a whole tensor that is laid out as a parameter."""
        owner = self._held.get(parameter, parameter)
        shape, offset = self.region(owner)
        return whole[tuple(slice(first, first + size) for first, size in zip(offset, shape, strict=True))]


def _bring(module: nn.Module, device_type: str) -> None:
    """Move what no rank shares (buffers, and all outside the divided products) to where the parts are."""
    device = torch.device(device_type, torch.cuda.current_device()) if device_type == "cuda" else device_type
    for tensor in (*module.parameters(), *module.buffers()):
        if not isinstance(tensor, DTensor) and tensor.device.type != device_type:
            tensor.data = tensor.data.to(device)


def _local(gradient: Tensor | None) -> Tensor | None:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def meshed(world: World, shape: MeshShape, device: str) -> World:
    """The same ranks, arranged in a mesh; copies of the whole model alone need none.

    Args:
        world: all ranks.
        shape: how many along each axis.
        device: `cpu`, `cuda:0`, …

    Raises:
        UsageError: the shape needs another number of ranks.
    """
    if shape.size != world.size:
        raise UsageError(f"plan.mesh: {shape} needs {shape.size} ranks, found {world.size}")
    if shape.replicate == world.size or not isinstance(world, GroupWorld):
        return world
    return MeshWorld(shape, device, group=world.group, ours=world.ours)

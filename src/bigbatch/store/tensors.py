"""What of a run's tensors this rank writes into a checkpoint, and what it needs of one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.errors import CheckpointError
from bigbatch.model.tensors import saved_tensors
from bigbatch.protocols import State, World
from bigbatch.store.checkpoints import CheckpointState, Wanted
from bigbatch.store.slices import Piece, Region, dealt

MODEL = "model/"
"""Prefix of the model's own tensors in a checkpoint; optimiser states have the state's name instead."""


SCORES = "scores/"
"""Prefix of the scores of rows in a checkpoint (`run.choice`)."""


def to_write(
    module: nn.Module, state: State, world: World
) -> tuple[dict[str, Tensor], dict[str, Piece], dict[str, str]]:
    """What this rank writes: whole tensors, parts of tensors, aliases. All ranks together write everything once.

    Args:
        module: whole, or this rank's part of it.
        state: what the way to train holds beside it.
        world: the ranks.

    Raises:
        CheckpointError: the optimiser keeps a state whose parts cannot be put together.
    """
    like, same = saved_tensors(module)
    model = {MODEL + name: tensor for name, tensor in like.items()}
    aliases = {MODEL + name: MODEL + stored for name, stored in same.items()}
    if state.own:
        return {**dealt(model, world.rank, world.size), **state.tensors}, {}, aliases
    tensors = {**model, **state.tensors}
    if not world.divides:  # every rank holds all of it
        return dealt(tensors, world.rank, world.size), {}, aliases
    whole: dict[str, Tensor] = {}
    pieces: dict[str, Piece] = {}
    for name, tensor in tensors.items():
        parameter = like[name.partition("/")[2]]
        shape, offset, here = world.place_of(parameter)
        local = world.local(tensor)
        if tuple(local.shape) == here and local.ndim:
            if world.owns(parameter):
                pieces[name] = Piece(shape=shape, offset=offset, local=local)
        elif local.numel() > 1 and shape != here:
            raise CheckpointError(
                f"optimiser state {name} is laid out otherwise than its parameter, which is divided over ranks: "
                "this optimiser cannot be checkpointed with plan.mesh"
            )
        elif world.rank == 0:  # a count, say: the same everywhere
            whole[name] = local
    return whole, pieces, aliases


def to_read(module: nn.Module, world: World, *, weights_only: bool = False) -> Wanted:
    """What this rank needs: its own part of each tensor.

    Args:
        module: whole, or this rank's part of it.
        world: the ranks.
        weights_only: whether states of the optimiser stay unread.

    Returns:
        A function of a stored tensor's name and whole shape: the region that this rank reads; None: nothing of it.
    """
    held = saved_tensors(module)[0]

    def wanted(name: str, shape: tuple[int, ...]) -> Region | None:
        if weights_only and not name.startswith(MODEL):
            return None
        # A state is laid out as its parameter, whose name it ends with.
        like = held.get(name.partition("/")[2])
        if like is not None and world.divides:
            whole, offset, here = world.place_of(like)
            if whole == shape and shape:
                return offset, here
        # Also of what this model does not have: the one who puts it back says so.
        return (0,) * len(shape), shape

    return wanted


def scores_to_write(scores: Mapping[str, np.ndarray], world: World) -> dict[str, Tensor]:
    """The scores of rows that this rank writes; every rank has them all."""
    return {SCORES + name: torch.from_numpy(each) for name, each in scores.items()} if world.rank == 0 else {}


def scores_read(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The scores of rows among a checkpoint's tensors.

    Raises:
        CheckpointError: they are no list of numbers.
    """
    found = {name.removeprefix(SCORES): tensor for name, tensor in tensors.items() if name.startswith(SCORES)}
    for name, tensor in found.items():
        if tensor.ndim != 1 or tensor.dtype != torch.float64:
            raise CheckpointError(
                f"{SCORES}{name[:100]} is {tensor.dtype} of shape {tuple(tensor.shape)}; expected one float64 a row"
            )
    return {name: tensor.numpy() for name, tensor in found.items()}


def load_weights(module: nn.Module, found: CheckpointState, world: World | None = None) -> None:
    """Copy a checkpoint's model tensors into the module, in place.

    Args:
        module: whole, or this rank's part of it.
        found: what `to_read` asks for.
        world: None: the module is whole.

    Raises:
        CheckpointError: names or shapes differ.
    """
    own, _ = saved_tensors(module)
    stored = {
        name.removeprefix(MODEL): value for name, value in found.tensors.items() if name.startswith(MODEL)
    }
    if stored.keys() != own.keys():
        differing = sorted(stored.keys() ^ own.keys())
        raise CheckpointError(f"the checkpoint is of another model: {', '.join(differing[:5])} differ")
    with torch.no_grad():
        for name, tensor in own.items():
            target = tensor if world is None else world.local(tensor)
            if target.shape != stored[name].shape:
                raise CheckpointError(
                    f"the checkpoint is of another model: {name} has shape {tuple(stored[name].shape)}, "
                    f"expected {tuple(target.shape)}"
                )
            target.copy_(stored[name])

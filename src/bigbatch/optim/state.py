"""Optimiser state as a flat dictionary of tensors, `<state>/<parameter name>`: what checkpoints hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from bigbatch.errors import CheckpointError
from bigbatch.optim.debias import set_betas
from bigbatch.optim.groups import names_of

_NUMBER = "number:"
"""Prefix of a state that the optimiser keeps as a Python number; torch's own keep tensors."""
_BETAS = ("beta1", "beta2")
_GROUP = "group:"
"""Prefix of what a whole group has (an optimiser's `group_state`); stored under the name of its first parameter."""


def optimizer_state(optimizer: Optimizer, names: Mapping[Tensor, str] | None = None) -> dict[str, Tensor]:
    """The state of every parameter that has one, such as `exp_avg/bert.pooler.dense.weight` and `step/…`.

    Args:
        optimizer: any torch optimiser.
        names: parameter -> name; by default from the groups (`names`, see `decay_groups`).

    Returns:
        The optimiser's own tensors, not copies: write them before the next update.
    """
    found: dict[str, Tensor] = {}
    flat = getattr(optimizer, "flat_state", None)  # states that are several tensors, such as codes and scales
    for parameter, name in _named(optimizer, names).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            parts = flat(key, value) if flat is not None and isinstance(value, Tensor) else None
            if parts is not None:
                found.update({f"{part}/{name}": tensor for part, tensor in parts.items()})
            elif isinstance(value, Tensor):
                found[f"{key}/{name}"] = value
            elif isinstance(value, (bool, int, float)):
                dtype = torch.float64 if isinstance(value, float) else torch.int64
                found[f"{_NUMBER}{key}/{name}"] = torch.tensor(value, dtype=dtype)
            elif value is not None:
                raise CheckpointError(
                    f"{type(optimizer).__name__} keeps {key} of {name} as {type(value).__name__}; "
                    "expected a tensor or a number: this optimiser cannot be checkpointed"
                )
    # Before its first step a group has nothing to say.
    return {**found, **_group_state(optimizer, names)} if found else found


def _group_state(optimizer: Optimizer, names: Mapping[Tensor, str] | None) -> dict[str, Tensor]:
    """What steps change in the groups themselves, fp64: it holds every number that a group has. And the betas that
    averages were made with.
    """
    named = _named(optimizer, names)
    found: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        numbers = {key: (group[key], torch.float64) for key in getattr(optimizer, "group_state", ())}
        if len(group.get("betas", ())) == len(_BETAS):
            numbers |= {key: (beta, torch.float32) for key, beta in zip(_BETAS, group["betas"], strict=True)}
        for key, (number, dtype) in numbers.items():
            name = f"{_GROUP}{key}/{named[group['params'][0]]}"
            found[name] = torch.tensor(float(number), dtype=dtype)
    return found


def load_optimizer_state(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], names: Mapping[Tensor, str] | None = None
) -> None:
    """Put back what `optimizer_state` returned, bit for bit; learning rates and other group settings stay.

    Args:
        optimizer: freshly built over the same parameters; averages made with other betas than its own are carried over.
        tensors: `<state>/<parameter name>` -> tensor; copied. Parameters that are not named lose their state.
        names: parameter -> name, as in `optimizer_state`.

    Raises:
        CheckpointError: a name that the optimiser does not have, or a tensor of another shape.
    """
    named = _named(optimizer, names)
    by_name = {name: parameter for parameter, name in named.items()}
    states: dict[Tensor, dict[str, Tensor | float]] = {}
    of_groups: dict[Tensor, dict[str, float]] = {}
    for entry, value in tensors.items():
        key, _, name = entry.partition("/")
        parameter = by_name.get(name)
        if parameter is None:
            raise CheckpointError(f"optimiser state {entry} belongs to no trainable parameter of this model")
        # A part of a state (`exp_avg.scale`) has a shape of its own.
        if "." not in key and value.ndim == parameter.ndim and value.shape != parameter.shape:
            shapes = f"{tuple(value.shape)}; this model's is {tuple(parameter.shape)}"
            raise CheckpointError(f"optimiser state {entry} has shape {shapes}")
        if key.startswith(_GROUP):
            of_groups.setdefault(parameter, {})[key.removeprefix(_GROUP)] = value.item()
        elif key.startswith(_NUMBER):
            states.setdefault(parameter, {})[key.removeprefix(_NUMBER)] = value.item()
        else:
            states.setdefault(parameter, {})[key] = value.detach().clone()
    whole = getattr(optimizer, "whole_state", None)
    if whole is not None:
        states = {parameter: whole(parameter, parts) for parameter, parts in states.items()}
    _load(optimizer, states)
    for group in optimizer.param_groups:
        numbers = of_groups.get(group["params"][0], {})
        betas = tuple(numbers.pop(key) for key in _BETAS if key in numbers)
        for key, number in numbers.items():
            group[key] = type(group[key])(number)
        wanted = group.get("betas", ())
        # Betas of a checkpoint are fp32; the group's own, if they are the same.
        if len(betas) == len(_BETAS) == len(wanted) and torch.tensor(wanted).tolist() != list(betas):
            group["betas"] = betas
            set_betas(group, optimizer.state, wanted)


def _load(optimizer: Optimizer, states: Mapping[Tensor, Mapping[str, Tensor | float]]) -> None:
    """Through torch's own loader, which knows where fused and capturable steps must live."""
    blank = optimizer.state_dict()
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    indices = [index for group in blank["param_groups"] for index in group["params"]]
    blank["state"] = {
        index: states[parameter]
        for index, parameter in zip(indices, order, strict=True)
        if parameter in states
    }
    optimizer.load_state_dict(blank)


def _named(optimizer: Optimizer, names: Mapping[Tensor, str] | None) -> Mapping[Tensor, str]:
    return names_of(optimizer.param_groups) if names is None else names

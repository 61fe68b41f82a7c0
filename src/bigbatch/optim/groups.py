"""Which parameters an optimiser gets, and which of them decay."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn


def decay_groups(
    module: nn.Module,
    weight_decay: float = 0.0,
    *,
    rename: Callable[[str], str] = str,
    trainable: Iterable[tuple[str, Tensor]] | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into those that decay and those that do not.

    Matrices (linear layers, convolutions, embeddings) decay; parameters with fewer than two dimensions
    (biases, the scales and shifts of norms) do not, and LAMB leaves their step length alone. A tied parameter
    is in its group once, under its first name; a frozen one in none. Groups and their parameters are in the
    order of `module.named_parameters()`; an empty group is left out.

    Args:
        module: the model.
        weight_decay: of the first group.
        rename: parameter name -> name in checkpoints (strips the prefixes of wrappers).
        trainable: name and tensor of what is trained, where that is not the module's own: parts of its parameters.

    Returns:
        Parameter groups for a torch optimiser, with three keys of ours: `names` (checkpoint name of each
        parameter), `adapt` (whether LAMB rescales the step by |w| / |u|) and `lr_scale` (see `set_lr`).
    """
    if trainable is None:
        trainable = ((name, item) for name, item in module.named_parameters() if item.requires_grad)
    named = [(rename(name), parameter) for name, parameter in trainable]
    decays = [(name, parameter) for name, parameter in named if parameter.ndim >= 2]
    rest = [(name, parameter) for name, parameter in named if parameter.ndim < 2]
    groups = [_group(decays, weight_decay, adapt=True), _group(rest, 0.0, adapt=False)]
    return [group for group in groups if group["params"]]


def _group(named: list[tuple[str, Tensor]], weight_decay: float, *, adapt: bool) -> dict[str, Any]:
    return {
        "params": [parameter for _, parameter in named],
        "names": [name for name, _ in named],
        "weight_decay": weight_decay,
        "adapt": adapt,
        "lr_scale": 1.0,
    }


def names_of(groups: list[dict[str, Any]]) -> dict[Tensor, str]:
    """Checkpoint name of every parameter, in the order of the groups (`optimizer.param_groups` will do)."""
    return {
        parameter: name
        for group in groups
        for parameter, name in zip(group["params"], group["names"], strict=True)
    }

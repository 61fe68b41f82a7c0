"""Tensors under a model's names, without the model: what an optimiser needs to be tried."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def stand_in(named: Mapping[str, Tensor]) -> nn.Module:
    """A module without a forward whose parameters have these dotted names and hold these very tensors.

    Example:
        >>> import torch
        >>> found = stand_in({"encoder.layer.0.weight": torch.zeros(2), "head.bias": torch.ones(1)})
        >>> [name for name, _ in found.named_parameters()]
        ['encoder.layer.0.weight', 'head.bias']
    """
    root = nn.Module()
    for name, tensor in named.items():
        *path, last = name.split(".")
        owner = root
        for step in path:
            if step not in owner._modules:
                owner.add_module(step, nn.Module())
            owner = owner.get_submodule(step)
        owner.register_parameter(last, nn.Parameter(tensor))
    return root

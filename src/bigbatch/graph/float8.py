"""fp8 through torchao: products of the blocks' linear layers in 8 bits, with a scale for each tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bigbatch.graph.policy import Policy

_CAPABILITY = (8, 9)
"""Ada and Hopper: the first GPUs with fp8 tensor cores."""
_MULTIPLE = 16
"""The kernels need both sides of a weight to be a multiple of it."""


def float8_obstacle(device: torch.device) -> str:
    """Why fp8 cannot be used; empty when it can."""
    if device.type != "cuda":
        return f"fp8 needs an NVIDIA GPU of compute capability 8.9; the device is {device.type}"
    found = torch.cuda.get_device_capability(device)
    if found < _CAPABILITY:
        return f"fp8 needs an NVIDIA GPU of compute capability 8.9; this one has {found[0]}.{found[1]}"
    try:
        import torchao.float8  # type: ignore[import-not-found] # noqa: F401
    except ImportError as error:
        return f"fp8 needs torchao ({error}); pip install 'bigbatch[torchao]'"
    return ""


class Float8Layers:
    """torchao's twins of the linear layers that a policy allows; they share the parameters, and stand in for a pass.

    Outside of a pass the model is what it was: weights are saved, exported and computed with in fp32.
    """

    def __init__(self, module: nn.Module, policy: Policy, *, emulate: bool = False) -> None:
        """Build the twins.

        Args:
            module: the model.
            policy: layers that are not low have none.
            emulate: compute with rounded numbers where there is no hardware: for tests.
        """
        from torchao.float8 import (  # type: ignore[import-not-found]
            Float8LinearConfig,
            convert_to_float8_training,
        )

        before = dict(module.named_modules())
        names = [name for name, part in before.items() if _fits(part) and policy.get(part, False)]
        # The gradient of a weight sums over the tokens of a pack, of which there is any number: padded to a multiple.
        config: Any = Float8LinearConfig(emulate=emulate, pad_inner_dim=True)
        convert_to_float8_training(module, config=config, module_filter_fn=lambda _, name: name in names)
        self._twins = []
        for name in names:
            parent, _, child = name.rpartition(".")
            owner = module.get_submodule(parent)
            self._twins.append((owner, child, before[name], getattr(owner, child)))
        self.swap_out()

    def __len__(self) -> int:
        return len(self._twins)

    def swap_in(self) -> None:
        """Let the twins stand in."""
        for owner, child, layer, twin in self._twins:
            if "forward" not in vars(layer):  # an output layer that hands its input through (`model.logits`)
                setattr(owner, child, twin)

    def swap_out(self) -> None:
        """Put the layers themselves back."""
        for owner, child, layer, _ in self._twins:
            setattr(owner, child, layer)


def _fits(part: nn.Module) -> bool:
    return type(part) is nn.Linear and part.in_features % _MULTIPLE == part.out_features % _MULTIPLE == 0

"""fp8 through torchao: products of the blocks' linear layers in 8 bits, with a scale for each tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bigbatch.precision.policy import Policy

_CAPABILITY = (8, 9)
"""Ada and Hopper: the first GPUs with fp8 tensor cores."""
_MULTIPLE = 16
"""The kernels need both sides of a matrix to be a multiple of it."""


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


def convert_to_float8(module: nn.Module, policy: Policy, *, emulate: bool = False) -> int:
    """Exchange the linear layers that the policy allows for torchao's; names and parameters stay.

    Args:
        module: the model; changed in place.
        policy: layers that are not low stay what they are.
        emulate: compute with rounded fp32 numbers where there is no hardware: for tests.

    Returns:
        How many layers were exchanged.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training  # type: ignore[import-not-found]

    chosen: list[str] = []

    def wanted(part: nn.Module, name: str) -> bool:
        fits = isinstance(part, nn.Linear) and not {
            part.in_features % _MULTIPLE,
            part.out_features % _MULTIPLE,
        } - {0}
        if fits and policy.get(part, False):
            chosen.append(name)
            return True
        return False

    config: Any = Float8LinearConfig(emulate=emulate)
    convert_to_float8_training(module, config=config, module_filter_fn=wanted)
    return len(chosen)

"""The one buffer that optimisers with momentum keep of a parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def velocity_of(state: dict[str, Any], parameter: Tensor) -> Tensor:
    """The momentum of a parameter, zero at its first gradient.

    Args:
        state: `optimizer.state[parameter]`, which is filled.
        parameter: whose it is.
    """
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state["momentum_buffer"]

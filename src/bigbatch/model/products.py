"""Matrix products of linear layers by oneDNN instead of torch's usual library, while nobody wants a gradient.

Both come with torch, and torch gives fp32 products on CPUs to MKL, which leaves wide vectors of other makers'
processors unused: on an AMD EPYC with AVX-512, oneDNN is 1.7 to 2.4 times as fast. Same sums in another order, so the
same numbers but for rounding. Which is quicker here is measured (`probe.products`), never assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""(input (..., in), weight (out, in), bias (out,)) -> (..., out)."""


def has_onednn() -> bool:
    """Whether this torch has the product: builds for some machines have not."""
    try:
        return torch.backends.mkldnn.is_available() and callable(torch.ops.mkldnn._linear_pointwise)
    except (AttributeError, RuntimeError):
        return False


def onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear`; by oneDNN for fp32 on a CPU, without a gradient."""
    plain = (
        inputs.dtype is weight.dtype is torch.float32
        and inputs.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
    if not plain:
        return functional.linear(inputs, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def plain_layers(module: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Layers whose product can be exchanged, with their weights (out, in): fp32 on a CPU, and nobody's subclass."""
    for layer in module.modules():
        if type(layer) not in (nn.Linear, Conv1D) or "forward" in vars(layer):
            continue
        weight: Any = layer.weight
        if weight.device.type == "cpu" and weight.dtype is torch.float32 and type(weight.data) is Tensor:
            yield layer, weight if isinstance(layer, nn.Linear) else weight.t()


def by_onednn(module: nn.Module, but: nn.Module | None = None) -> Callable[[], None]:
    """Have the module's linear layers multiply by oneDNN.

    Args:
        module: changed until the returned function is called; its parameters stay where they are.
        but: a layer to leave alone.

    Returns:
        What undoes it.
    """
    layers: list[Any] = [layer for layer, _ in plain_layers(module) if layer is not but]
    for layer in layers:
        layer.forward = partial(_forward, layer)

    def undo() -> None:
        for layer in layers:
            del layer.forward

    return undo


def _forward(layer: Any, inputs: Tensor) -> Tensor:
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()
    return onednn_linear(inputs, weight, layer.bias)

"""Matrix products of linear layers, and of their gradients, by oneDNN instead of torch's usual library.

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
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from bigbatch.caches import FEW_ARE_KEPT

Product = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""(input (..., in), weight (out, in), bias (out,)) -> (..., out)."""


def has_onednn() -> bool:
    """Whether this torch has the product (builds for some machines have not) and keeps its memory bounded.

    Not where torch was loaded before bigbatch: see `bigbatch.caches`.
    """
    if not FEW_ARE_KEPT:
        return False
    try:
        return torch.backends.mkldnn.is_available() and callable(torch.ops.mkldnn._linear_pointwise)
    except (AttributeError, RuntimeError):
        return False


def onednn_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear`; by oneDNN for fp32 on a CPU, and so are the products of its gradient.

    Args:
        inputs: (..., in).
        weight: (out, in).
        bias: (out,), or None.

    Returns:
        (..., out). Gradients of the first order only.
    """
    plain = (
        inputs.dtype is weight.dtype is torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() > 0  # it has no product over no rows
        and type(weight) in (Tensor, nn.Parameter)  # not one that ranks have divided
        and not torch.is_autocast_enabled("cpu")
    )
    if not plain:
        return functional.linear(inputs, weight, bias)
    if torch.is_grad_enabled():
        return _Linear.apply(inputs, weight, bias)  # type: ignore[no-any-return]
    return _product(inputs, weight, bias)


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """inputs (..., in), weight (out, in), bias (out,) or None -> (..., out)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs, of_weight, of_bias = ctx.needs_input_grad
        grad_UO, inputs_UI = grad.reshape(-1, weight.shape[0]), inputs.reshape(-1, weight.shape[1])
        return (
            _product(grad, weight.t()) if of_inputs else None,
            _product(grad_UO.t(), inputs_UI.t()) if of_weight else None,
            grad_UO.sum(0) if of_bias else None,
        )


def plain_layers(module: nn.Module) -> Iterator[tuple[nn.Module, Tensor]]:
    """Layers whose product can be exchanged, with their weights (out, in): fp32 on a CPU, and nobody's subclass."""
    for layer in _linear_layers(module):
        weight: Any = layer.weight
        if weight.device.type == "cpu" and weight.dtype is torch.float32 and type(weight.data) is Tensor:
            yield layer, weight if isinstance(layer, nn.Linear) else weight.t()


def _linear_layers(module: nn.Module) -> Iterator[Any]:
    """Whose forward is torch's or transformers' own."""
    for layer in module.modules():
        if type(layer) in (nn.Linear, Conv1D) and "forward" not in vars(layer):
            yield layer


def by_onednn(module: nn.Module, but: nn.Module | None = None) -> Callable[[], None]:
    """Have the module's linear layers multiply by oneDNN.

    Args:
        module: changed until the returned function is called; its parameters stay where they are.
        but: a layer to leave alone.

    Returns:
        What undoes it.
    """
    # Weights that ranks divide are whole, and plain, when their layer runs; what is not is torch's.
    layers = [layer for layer in _linear_layers(module) if layer is not but]
    for layer in layers:
        layer.forward = partial(_forward, layer)

    def undo() -> None:
        for layer in layers:
            del layer.forward

    return undo


def _forward(layer: Any, inputs: Tensor) -> Tensor:
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()
    return onednn_linear(inputs, weight, layer.bias)

"""Which library multiplies matrices faster on this machine, tried on a layer of the model."""

from __future__ import annotations

import time
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn import functional

from bigbatch.model.products import Product, has_onednn, onednn_linear, plain_layers
from bigbatch.plan.ways import ONEDNN_WORTH

_OPERATIONS = 5e8
"""Of one product that is tried: 2 to 5 ms on a core."""
_MOST_ROWS, _FEWEST_ROWS = 1024, 32
_FEWEST_WEIGHTS = 2**14
"""Products of smaller layers take no time that could be saved."""
_ROUNDS = 5
_ROUNDING = 1e-5


def onednn_is_quicker(module: nn.Module) -> bool:
    """Whether oneDNN multiplies clearly faster here (`onednn_speed`)."""
    return onednn_speed(module) > ONEDNN_WORTH


def onednn_speed(module: nn.Module) -> float:
    """How many times as fast oneDNN gives the same products of the module's most frequent layer. About 40 ms.

    0 where it gives others, where there is no such layer, or none that takes time.

    Time of this thread, the better of a few tries in turns: other processes do not choose.
    """
    weight = _frequent(module) if has_onednn() else None
    if weight is None or weight.numel() < _FEWEST_WEIGHTS:
        return 0.0
    rows = min(_MOST_ROWS, max(_FEWEST_ROWS, int(_OPERATIONS / 2 / weight.numel())))
    inputs = torch.randn(rows, weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        usual, other = functional.linear(inputs, weight), onednn_linear(inputs, weight)
        if not bool((usual - other).abs().max() <= _ROUNDING * usual.abs().max()):
            return 0.0
        tries = [
            (_seconds(functional.linear, inputs, weight), _seconds(onednn_linear, inputs, weight))
            for _ in range(_ROUNDS)
        ]
    usual_seconds, other_seconds = map(min, zip(*tries, strict=True))
    return usual_seconds / max(other_seconds, 1e-12)


def _frequent(module: nn.Module) -> Tensor | None:
    """The weight whose shape most layers have; the larger of several."""
    weights = {weight.shape: weight for _, weight in plain_layers(module)}
    counts = Counter(weight.shape for _, weight in plain_layers(module))
    return max(weights.values(), key=lambda each: (counts[each.shape], each.numel()), default=None)


def _seconds(product: Product, inputs: Tensor, weight: Tensor) -> float:
    started = time.thread_time()
    product(inputs, weight, None)
    return time.thread_time() - started

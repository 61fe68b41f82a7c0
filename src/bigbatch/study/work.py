"""Useful work, counted once for everybody: what the model as transformers wrote it does for the real tokens.

    FLOPs of a forward pass over one sample of n tokens = constant + linear n + quadratic pairs

holds exactly for every Transformer: products with weights grow with n, attention's two products with the pairs of
tokens, a pooled head with neither. torch's own counter gives the value at three lengths, on the meta device and for
n^2 pairs, and the three coefficients follow. Pairs that count are those that are seen: of causal models, and by the
pattern that the configuration names (`model.attention`); a sample's tokens are all that it reads, memory among them.
Training counts three times a forward pass (forward, gradient of the inputs, gradient of the weights). Padding,
recomputation and what a contestant leaves out do not count: the numerator is the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bigbatch.model.patterns import Pattern, told_by
from bigbatch.model.unseen import is_causal
from bigbatch.study.jobs import Kind

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


_LENGTHS = (8, 16, 32)
_TOKENS_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class Work:
    """Useful FLOPs."""

    constant: float
    """Forward FLOPs of a sample, whatever its length."""
    linear: float
    """Forward FLOPs of a token."""
    quadratic: float
    """Forward FLOPs of a pair of tokens of one sample."""
    train_flops: float
    """Of all counted updates: three forward passes over their real tokens."""


def counted_work(model: Path, lengths_B: np.ndarray, kind: Kind = "classify") -> Work:
    """Useful FLOPs of training on these samples.

    Args:
        model: folder with the configuration of a model with a head.
        lengths_B: real tokens of each sample.
        kind: which head it has.
    """
    constant, linear, quadratic = coefficients(model, kind)
    forward = (
        len(lengths_B) * constant + linear * float(lengths_B.sum()) + quadratic * seen_pairs(model, lengths_B)
    )
    return Work(constant=constant, linear=linear, quadratic=quadratic, train_flops=3 * float(forward))


def seen_pairs(model: Path, lengths_B: np.ndarray) -> int:
    """Pairs of a query and a key that it sees, of all samples.

    Args:
        model: folder with a configuration.
        lengths_B: real tokens of each sample.
    """
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(model)
    with torch.device("meta"):
        causal = is_causal(AutoModel.from_config(config))
    pattern = told_by(config, str(model)) or Pattern(window=max(1, int(lengths_B.max(initial=1))))
    lengths, counts = np.unique(lengths_B, return_counts=True)
    return sum(
        int(count) * pattern.pairs(int(length), causal) for length, count in zip(lengths, counts, strict=True)
    )


def coefficients(model: Path, kind: Kind) -> tuple[float, float, float]:
    """(constant, linear, quadratic) of the forward FLOPs of one sample of n tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    # Plain matrix products are all counted; fused attention kernels on some devices are not.
    config = AutoConfig.from_pretrained(model, attn_implementation="eager")
    auto = AutoModelForCausalLM if kind == "clm" else AutoModelForSequenceClassification
    try:
        counts = _counts(auto, config, "meta")
    except (RuntimeError, NotImplementedError):  # the model looks at values, which meta tensors do not have
        counts = _counts(auto, config, "cpu")
    powers = np.vander(np.array(_LENGTHS, dtype=np.float64), 3, increasing=True)
    constant, linear, quadratic = np.linalg.solve(powers, np.array(counts))
    return float(constant), float(linear), float(quadratic)


def _counts(auto: type[_BaseAutoModelClass], config: PretrainedConfig, device: str) -> list[float]:
    """Forward FLOPs at each of `_LENGTHS`, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device(device):
        module = auto.from_config(config).eval()
    counts = []
    for length in _LENGTHS:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(input_ids=torch.ones(1, length, dtype=torch.long, device=device))
        counts.append(float(counter.get_total_flops()))
    return counts


def matrix_shapes(module: nn.Module, largest: int = 4) -> tuple[tuple[int, int, int], ...]:
    """(tokens, inputs, outputs) of the model's largest linear layers, each shape once.

    Args:
        module: the model.
        largest: how many shapes.
    """
    shapes = {
        (part.in_features, part.out_features) for part in module.modules() if isinstance(part, nn.Linear)
    }
    chosen = sorted(shapes, key=lambda shape: (-shape[0] * shape[1], shape))[:largest]
    return tuple((_TOKENS_AT_ONCE, inputs, outputs) for inputs, outputs in chosen)

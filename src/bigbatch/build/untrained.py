"""Whether anything has trained a model: the same sign as `model.kinds` reads from its files."""

from __future__ import annotations

from torch import nn


def is_untrained(module: nn.Module) -> bool:
    """Whether every bias and every scale of a norm is one number again and again, as in a model that was just made.

    Training moves them at once. A new head on a trained body does not hide the body's.
    """
    flat = [item.detach() for item in module.parameters() if item.ndim == 1 and item.numel() > 1]
    return bool(flat) and all(bool((item == item[0]).all()) for item in flat)

"""Whether anything has trained a model: the same sign as `model.kinds` reads from its files."""

from __future__ import annotations

from torch import nn

from bigbatch.model.quantised import quantised_layers


def is_untrained(module: nn.Module) -> bool:
    """Whether every bias and every scale of a norm is one number again and again, as in a model that was just made.

    Training moves them at once. A new head on a trained body does not hide the body's, nor do adapters, or the tables
    of a base in few bits, a body that nothing has trained.
    """
    codes = {id(item) for _, layer in quantised_layers(module) for item in layer.parameters()}
    codes -= {id(layer.bias) for _, layer in quantised_layers(module)}
    own = [item for name, item in module.named_parameters() if "lora_" not in name and id(item) not in codes]
    flat = [item.detach() for item in own if item.ndim == 1 and item.numel() > 1]
    return bool(flat) and all(bool((item == item[0]).all()) for item in flat)

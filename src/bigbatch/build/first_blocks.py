"""A model with its first blocks only: what one block costs, where the whole model does not fit on one device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from bigbatch.model.anatomy import Anatomy, anatomy

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""How configurations call the number of blocks; a forward that counts by it must not look for more than there are."""


def distinct_blocks(parts: Anatomy) -> int:
    """Blocks that have parameters of their own: one in ALBERT, however often it is applied."""
    return len(dict.fromkeys(application.module for application in parts.blocks))


@contextmanager
def first_blocks(module: nn.Module, parts: Anatomy, count: int) -> Iterator[Anatomy]:
    """Inside, the model's forward applies its first `count` blocks alone; the others stay where they are.

    Args:
        module: the model.
        parts: its anatomy, whole.
        count: blocks that are kept, at least one.

    Yields:
        The anatomy of what is left.
    """
    blocks = {application.module for application in parts.blocks}
    config: Any = getattr(parts.outer, "config", None)
    counts = {name: getattr(config, name) for name in _COUNTS if isinstance(getattr(config, name, None), int)}
    lists: list[tuple[nn.Module, str, nn.ModuleList]] = []
    for owner in module.modules():
        for name, child in owner.named_children():
            if isinstance(child, nn.ModuleList) and len(child) > count and blocks & set(child):
                lists.append((owner, name, child))
    try:
        for owner, name, child in lists:
            setattr(owner, name, child[:count])
        for name in counts:
            setattr(config, name, count)
        yield anatomy(module)
    finally:
        for owner, name, child in lists:
            setattr(owner, name, child)
        for name, value in counts.items():
            setattr(config, name, value)

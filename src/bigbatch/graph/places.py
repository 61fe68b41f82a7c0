"""Where in the model a piece of work belongs, in words: `block 3`, `embeddings`, `classifier`, `loss`."""

from __future__ import annotations

from torch import nn

from bigbatch.graph.trace import Call
from bigbatch.model.anatomy import Anatomy

AROUND = "around the blocks"
"""Work of the model's own code outside its parts: masks, positions, picking tokens."""
ACCUMULATION = "gradients"
"""Adding to `.grad`."""


class Places:
    """Names for calls."""

    def __init__(self, module: nn.Module, anatomy: Anatomy) -> None:
        names = {part: name for name, part in module.named_modules()}
        self._blocks = [names[block] for block in {one.module: None for one in anatomy.blocks}]
        self._base = names.get(anatomy.base, "")
        self._outer = names.get(anatomy.outer, "")

    def part(self, call: Call | None) -> str:
        """The part that a call belongs to."""
        if call is None:
            return ACCUMULATION
        if not call.kind:
            return call.name
        if call.block is not None:
            return f"block {call.block + 1}"
        if any(_within(block, call.name) for block in self._blocks):
            return AROUND
        return self._below(call.name).partition(".")[0] or AROUND

    def inside(self, call: Call | None) -> str:
        """The call's name inside its part; empty for the part itself."""
        if call is None or not call.kind:
            return ""
        for block in self._blocks:
            if _within(call.name, block):
                return call.name[len(block) + 1 :]
        if self.part(call) == AROUND:
            return call.name
        return self._below(call.name).partition(".")[2]

    def of_parameter(self, name: str) -> str:
        """The part of a parameter, such as `pooler`; a block's by its module's name, `encoder.layer.3`."""
        owner = name.rpartition(".")[0]
        block = next((one for one in self._blocks if _within(owner, one)), None)
        below = self._below(owner if block is None else block)
        return (below if block is not None else below.partition(".")[0]) or name

    def _below(self, name: str) -> str:
        """The name without the path to base or head."""
        for owner in (self._base, self._outer):
            if owner and _within(name, owner):
                return name[len(owner) + 1 :]
        return name


def _within(name: str, owner: str) -> bool:
    """Whether the module of this name is `owner` or lies in it."""
    return not owner or name == owner or name.startswith(owner + ".")

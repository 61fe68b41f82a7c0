"""Where each parameter sits: embeddings, which block, or head. By name, so that parts and copies know too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from bigbatch.model.anatomy import Anatomy


@dataclass(frozen=True, kw_only=True)
class Depths:
    """Depths of a model's parameters."""

    depths: Mapping[str, int]
    """Checkpoint name -> 0: embeddings (and what hangs outside every part), 1 … L: blocks, L + 1: head."""
    head: int
    """L + 1."""

    def in_block(self, name: str) -> bool:
        """Whether a parameter belongs to a block. What the model does not know counts as inside."""
        return name not in self.depths or 0 < self.depths[name] < self.head

    def below_head(self, name: str) -> int:
        """Steps from the head down to the parameter: 0 for the head, 1 for the last block, L + 1 for embeddings."""
        return self.head - self.depths.get(name, self.head)


def depths_of(module: nn.Module, anatomy: Anatomy, rename: Callable[[str], str] = str) -> Depths:
    """Depth of every parameter of a model.

    A block that is applied several times counts as its last application. An output layer that is tied to the
    embeddings is an embedding. The final norm belongs to the head.

    Args:
        module: the model, as its parameters will be named.
        anatomy: of the same module.
        rename: parameter name -> name in checkpoints.
    """
    head = len(anatomy.blocks) + 1
    after = [part for part in (anatomy.final_norm, anatomy.output_layer) if part is not None]
    depths = {parameter: head for part in (*anatomy.head, *after) for parameter in part.parameters()}
    for number, application in enumerate(anatomy.blocks, start=1):
        depths.update((parameter, number) for parameter in application.module.parameters())
    for part in anatomy.embeddings:
        depths.update((parameter, 0) for parameter in part.parameters())
    return Depths(
        depths={rename(name): depths.get(parameter, 0) for name, parameter in module.named_parameters()},
        head=head,
    )

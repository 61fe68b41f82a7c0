"""How a micro-batch runs through the model: the choices of a plan that change the computation but not its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from bigbatch.facts import Choice
from bigbatch.recipe.words import Attention, Compile, Precision, Products, Recompute
from bigbatch.samples import Packing

LastBlock = Literal["all tokens", "read tokens"]
EmbeddingGradients = Literal["whole", "rows"]
DropoutMasks = Literal["torch", "quick"]


@dataclass(frozen=True, kw_only=True)
class ForwardPlan:
    """One way to run the model. The defaults are the plain way, which is also what plans of earlier versions mean."""

    packing: Packing = "padded"
    """Samples one behind the other without padding, or padded to the longest of the micro-batch."""
    attention: Attention = "sdpa"
    """What computes attention over a pack; the padded path leaves it to the model."""
    last_block: LastBlock = "all tokens"
    """For which tokens the last block is computed in full."""
    embedding_gradients: EmbeddingGradients = "whole"
    """Whether a micro-batch's gradient of the word embeddings has all rows, or those of its tokens."""
    dropout_masks: DropoutMasks = "torch"
    """How random masks are drawn."""
    recompute: Recompute = "none"
    """What the backward pass computes again instead of keeping it."""
    recomputed_blocks: int = 0
    """How many blocks, spread evenly, recompute."""
    compile: Compile = "off"
    """What is compiled."""
    products: Products = "torch"
    """Which of torch's libraries multiplies the matrices of linear layers on a CPU."""
    precision: Precision = "fp32"
    """Number format of forward and backward."""
    keep_fp32: tuple[str, ...] = ()
    """Patterns of modules that are computed in fp32 although their role would allow the format."""
    allow_low: tuple[str, ...] = ()
    """Patterns of modules that may use the format although their role is fp32."""

    @staticmethod
    def of(choices: Mapping[str, Choice]) -> ForwardPlan:
        """The way that a plan's choices describe; what they do not name is done the plain way."""
        named: dict[str, Any] = {
            entry.name: choices[entry.name].value for entry in fields(ForwardPlan) if entry.name in choices
        }
        patterns = {name: tuple(named.get(name, ())) for name in ("keep_fp32", "allow_low")}
        return ForwardPlan(**{**named, **patterns})

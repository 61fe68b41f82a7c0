"""Tokens in front of a piece that are read without gradient, as Transformer-XL keeps them (Dai et al. 2019).

There each update keeps the states of the segment before, computed with the weights of that time; batches must follow
the text, lane by lane, and a resume needs what was kept. Here the tokens in front are read anew, with the weights of
now: any order of pieces, any split and any resume give the same, for the cost of reading them. Two things differ in
what is learnt: nothing is stale, and a piece reaches back by `memory` tokens, not by as many in every block. As in the
paper no gradient goes into what is remembered; ours does not go into the weights that make its keys and values either.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy, headed_model

IN_CONFIG = "bigbatch_memory"
"""Key of config.json."""
REMEMBERED = "remembered_tokens"
"""Name of the keyword argument that carries which tokens are remembered: (B, L) bool."""


def set_memory(module: nn.Module, tokens: int | None) -> bool:
    """Write `model.memory` into a model's configuration, None leaves it as it is; whether there is one now."""
    config = headed_model(module).config
    if tokens is not None and (tokens or hasattr(config, IN_CONFIG)):
        setattr(config, IN_CONFIG, tokens)
    return bool(getattr(config, IN_CONFIG, 0))


def memory_of(parts: Anatomy, piece_tokens: int) -> int:
    """How many tokens a model is to read in front of a piece.

    Args:
        parts: of the model.
        piece_tokens: of a piece.

    Raises:
        ModelError: this model cannot, or not so many.
    """
    config = parts.outer.config
    found = getattr(config, IN_CONFIG, 0)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ModelError(f"config.json: {IN_CONFIG}: found {found!r:.40}; expected a whole number from 0")
    if not found:
        return 0
    if not getattr(parts.base, "_supports_attention_backend", False):
        raise ModelError(
            "model.memory: this model computes attention by itself, where no gradient can be cut off"
        )
    if parts.learned_positions or getattr(config, "rope_parameters", None) is None:
        raise ModelError(
            "model.memory: this model has no rotary positions: what lies further back has none that it learnt, or a "
            "distance that is not its own; Llama, Qwen, Mistral and GPT-NeoX have them"
        )
    limit = parts.max_positions
    if limit is not None and found + piece_tokens > limit:
        raise ModelError(
            f"model.memory: {found} and pieces of {piece_tokens} (data.max_length) are more than the model's {limit} "
            f"positions; model.config.max_position_embeddings: {found + piece_tokens} computes more"
        )
    return found


def beside_memory(parts: Anatomy, most_tokens: int) -> int:
    """Tokens of a piece where nobody says: so many that its memory has positions, too.

    Args:
        parts: of the model.
        most_tokens: of a piece, at most.
    """
    found, limit = getattr(parts.outer.config, IN_CONFIG, 0), parts.max_positions
    if not isinstance(found, int) or limit is None or not 0 <= found <= limit - 2:
        return most_tokens
    return min(most_tokens, limit - found)


def without_gradient(key: Tensor, value: Tensor, remembered: object) -> tuple[Tensor, Tensor]:
    """Keys and values, those of remembered tokens cut off from the gradient.

    Args:
        key: (B, heads, L, W).
        value: (B, heads, L, W).
        remembered: (B, L) bool, or None: none are.
    """
    if not isinstance(remembered, Tensor):
        return key, value
    cut = remembered[:, None, :, None]
    return torch.where(cut, key.detach(), key), torch.where(cut, value.detach(), value)

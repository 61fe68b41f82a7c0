"""A model that is given a pattern of attention: whether it can have one, and that it does what it says.

Nothing is believed: the model runs with a window of one token, in which no token may know of another.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import evaluating, has_two_stacks, headed_model, trial_ids
from bigbatch.model.attention import IMPLEMENTATION, CannotPack, register
from bigbatch.model.patterns import IN_CONFIG, Pattern, hand_down, told_by
from bigbatch.model.unseen import follows_interface
from bigbatch.model.vision import reads_images
from bigbatch.recipe.attention import AttentionSpec


def narrow(module: nn.Module, asked: AttentionSpec | None, where: str) -> list[str]:
    """Let a model's tokens see what the recipe says, or what its configuration says; its configuration says it then.

    Args:
        module: a model with a head; changed in place.
        asked: `model.attention`; None: as the configuration says.
        where: what the model is called, for messages.

    Returns:
        What was found, for people.

    Raises:
        ModelError: this model cannot; with the reason.
    """
    outer = cast(PreTrainedModel, headed_model(module))
    told = told_by(outer.config, where)
    pattern = told if asked is None else Pattern.of(asked)
    if pattern is None:
        hand_down(outer.base_model, None)
        if hasattr(outer.config, IN_CONFIG):
            delattr(outer.config, IN_CONFIG)
        return [] if told is None else [f"trained with {told} before, full attention now: model.attention"]
    reason = _obstacle(outer) or _trial(outer)
    if reason:
        raise ModelError(f"model.attention: {where} cannot have {pattern}: {reason}")
    hand_down(outer.base_model, pattern)
    if asked is not None:
        setattr(outer.config, IN_CONFIG, asked.model_dump(by_alias=True, exclude_none=True))
    if told is not None and asked is None:
        return [f"{pattern}, as its folder says; model.attention names another"]
    return [] if told in (None, pattern) else [f"trained with {told} before, {pattern} now: model.attention"]


def _obstacle(outer: PreTrainedModel) -> str:
    """Why the structure alone forbids it; empty when it does not."""
    config = outer.config
    if has_two_stacks(outer):
        return "an encoder and a decoder; patterns are built for models of one stack"
    if reads_images(outer):
        return "it looks at images; patterns are of tokens in a row"
    if not follows_interface(outer):
        return "it computes attention by itself, where transformers cannot exchange it"
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in kinds or (window is not None and not kinds):
        return f"its tokens see a window already (sliding_window {window}), which is a part of what it is"
    if not kinds <= {"full_attention"}:
        return f"its blocks mix tokens by {', '.join(sorted(kinds))}"
    return ""


def _trial(outer: PreTrainedModel) -> str:
    """Why a run with a window of one token says no; empty when it does not."""
    base, before = outer.base_model, outer.config._attn_implementation or "sdpa"
    register()
    try:
        outer.set_attn_implementation(IMPLEMENTATION)
        hand_down(base, Pattern(window=1))
        with evaluating(outer):
            alike = _states(base, None)
            others = [_states(base, place) for place in (0, 2)]
    except (CannotPack, TypeError, ValueError) as error:
        outer.set_attn_implementation(before)
        return f"{error}".partition("\n")[0]
    finally:
        hand_down(base, None)
    # The middle token, with another one in front of it and behind it.
    if all(torch.equal(found[0, 1], alike[0, 1]) for found in others):
        return ""
    outer.set_attn_implementation(before)
    return "its layers do not hand what they are given down to their attention, or mix tokens in another way, too"


def _states(base: nn.Module, changed: int | None) -> torch.Tensor:
    """(1, 3, D) states of three tokens, of which one is another."""
    ids_1L = trial_ids(base)
    if changed is not None:
        embedding = cast(PreTrainedModel, base).get_input_embeddings()
        padding = {getattr(embedding, "padding_idx", None), getattr(base.config, "pad_token_id", None)}
        used = {int(ids_1L[0, 0]), *padding}
        ids_1L[0, changed] = next(token for token in range(4) if token not in used)
    return base(input_ids=ids_1L, attention_mask=torch.ones_like(ids_1L)).last_hidden_state

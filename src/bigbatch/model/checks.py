"""Model against tokenizer and lengths: pad token, vocabulary, positions."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import Anatomy, anatomy, headed_model

_NO_LIMIT = 1_000_000
"""Tokenizers without a limit report an astronomically large `model_max_length`."""
_FALLBACK_TOKENS = 512


def pad_id(module: nn.Module, tokenizer: Any) -> int | None:
    """The id to pad with: the model's, else the tokenizer's; None when neither has one.

    Models that read the last token look for the first id of their own configuration, so that one comes first.
    """
    config: Any = headed_model(module).config
    found = getattr(config, "pad_token_id", None)
    return found if found is not None else getattr(tokenizer, "pad_token_id", None)


def told_apart(module: nn.Module, tokenizer: Any) -> Any:
    """The tokenizer with a padding that is no end mark, which the model's configuration has, too; as it is where it has
    such, or there is no other mark. transformers looks for the last token that is no padding: where every text ends
    with the padding's id, it finds the token in front of the end.
    """
    config: Any = headed_model(module).config
    ends = {getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)} - {None}
    if pad_id(module, tokenizer) not in ends:
        return tokenizer
    marks = [getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "unk")]
    others = [mark for mark in (*marks, *tokenizer.all_special_ids) if mark is not None and mark not in ends]
    if not others:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(others[0])
    config.pad_token_id = others[0]
    return tokenizer


def check_model(
    module: nn.Module,
    tokenizer: Any,
    max_length: int | None,
    padded: bool,
    parts: Anatomy | None = None,
) -> int:
    """Check that the model can take what the tokenizer makes; returns the `max_length` to use, in tokens.

    A model without a pad token is given the tokenizer's (its `config.pad_token_id` is set): models that
    read the last token refuse batches otherwise.

    Args:
        module: the model.
        tokenizer: its tokenizer.
        max_length: from the recipe; None takes the smaller limit of tokenizer and model.
        padded: whether samples may be padded.
        parts: the model's, where they are known already.

    Raises:
        ModelError: naming the key to change.
    """
    parts = parts or anatomy(module)
    config: Any = parts.outer.config
    rows = parts.outer.get_input_embeddings().num_embeddings  # pyright: ignore
    if len(tokenizer) > rows:
        raise ModelError(
            f"model.tokenizer: found {len(tokenizer)} tokens, but the model's embedding has {rows} rows; "
            "expected the tokenizer that the model was trained with"
        )
    pad = pad_id(module, tokenizer)
    if pad is None and (padded or parts.pools == "last"):
        raise ModelError(
            "neither the model nor its tokenizer has a pad token; name one with model.config.pad_token_id "
            f"(often the end-of-text id{_end(tokenizer)})"
        )
    if pad is not None and not 0 <= pad < rows:
        raise ModelError(f"model.config.pad_token_id: found {pad}; expected an id from 0 to {rows - 1}")
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad
    computed = parts.max_positions is not None and not parts.learned_positions
    return _length(parts.max_positions, parts.position_offset, tokenizer, max_length, computed)


def _end(tokenizer: Any) -> str:
    end = getattr(tokenizer, "eos_token_id", None)
    return "" if end is None else f", here {end}"


def check_stacks(config: Any, where: str, *, two: bool) -> None:
    """Refuse an encoder-decoder where one stack of blocks is needed, and one stack where two are.

    Args:
        config: the model's.
        where: its place, for the message.
        two: whether an encoder and a decoder are needed, as by task seq2seq.

    Raises:
        ModelError: what was found and what is expected.
    """
    stacks = bool(getattr(config, "is_encoder_decoder", False)) and not getattr(config, "num_queries", 0)
    if stacks == two:  # a detector's two stacks are one: both see the same image
        return
    kind = getattr(config, "model_type", "model of an unknown type")
    if two:
        raise ModelError(
            f"{where}: found a {kind}, which is no encoder-decoder; task seq2seq needs one such as T5, BART or Marian"
        )
    raise ModelError(
        f"{where}: found an encoder-decoder ({kind}), which task seq2seq trains; this task needs an encoder such as "
        "BERT, or a decoder such as GPT-2"
    )


def _length(
    positions: int | None, offset: int, tokenizer: Any, max_length: int | None, computed: bool
) -> int:
    if max_length is None:
        told = getattr(tokenizer, "model_max_length", None)
        if told is not None and (not isinstance(told, (int, float)) or told < 0):
            raise ModelError(
                f"tokenizer_config.json: model_max_length: found {told!r:.40}; expected a number of tokens"
            )
        limits = [int(limit) for limit in (positions, told) if limit and limit < _NO_LIMIT]
        return min(limits, default=_FALLBACK_TOKENS)
    if positions is not None and max_length > positions:
        # A table ends; what is computed goes on, with places that the weights have not seen.
        more = f"; model.config.max_position_embeddings: {max_length} computes more" if computed else ""
        why = f" ({positions + offset} less {offset} that its padding takes)" if offset else ""
        raise ModelError(
            f"data.max_length: found {max_length}; "
            f"the model has positions for at most {positions} tokens{why}{more}"
        )
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise ModelError(
            f"data.max_length: found {max_length}; "
            f"the tokenizer adds {special} special tokens, which leaves no room for text"
        )
    return max_length

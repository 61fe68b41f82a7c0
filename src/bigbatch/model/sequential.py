"""Models over items: a stock architecture whose vocabulary is the items, and a tokenizer that knows each by its name.

A folder of such a model is an ordinary one: transformers opens config.json, model.safetensors and tokenizer.json. A
decoder (GPT-2) with tied embeddings is SASRec but for details (Kang and McAuley 2018), an encoder (BERT) of which items
are hidden is BERT4Rec (Sun et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from bigbatch.errors import ModelError
from bigbatch.model.new_head import seeded
from bigbatch.model.source import quiet
from bigbatch.protocols import Tokenizer as Tokens

SPECIAL = ("<pad>", "<unk>", "<mask>")
"""Ids 0 to 2; the items are behind them."""
UNKNOWN = SPECIAL.index("<unk>")
POSITIONS = 50
"""Items of a history that a new model sees, unless `data.max_length` says otherwise."""
Direction = Literal["causal", "masked"]
_BLOCKS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
_USUAL: Mapping[str, Mapping[str, int]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2}, "llama": _BLOCKS, "bert": _BLOCKS,
}  # fmt: skip
"""Architecture -> sizes of the papers."""
_DROPOUTS: Mapping[str, Sequence[str]] = {
    "gpt2": ("embd_pdrop", "resid_pdrop", "attn_pdrop"),
    "llama": ("attention_dropout",),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}
_DROPOUT = 0.2
_ARCHITECTURES: Mapping[Direction, str] = {"causal": "gpt2", "masked": "bert"}


def item_tokenizer(items: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer to which each item's name is one token, whatever is in it.

    Args:
        items: distinct names.

    Raises:
        ModelError: an item is called as one of `SPECIAL`.
    """
    taken = next((name for name in SPECIAL if name in items), None)
    if taken is not None:
        raise ModelError(f"an item is called {taken!r}, which means something else to the model; rename it")
    ids = {name: number for number, name in enumerate([*SPECIAL, *items])}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[1])),
        pad_token=SPECIAL[0],
        unk_token=SPECIAL[1],
        mask_token=SPECIAL[2],
        clean_up_tokenization_spaces=False,
    )


def names_of(tokenizer: Tokens, ids: Sequence[int]) -> list[str]:
    """The items of these ids."""
    found = cast(PreTrainedTokenizerFast, tokenizer).convert_ids_to_tokens(list(ids))
    return [found] if isinstance(found, str) else found


def ids_of(tokenizer: Tokens, items: Sequence[str]) -> list[int]:
    """The ids of these items, `UNKNOWN` of those that the model does not know."""
    found = cast(PreTrainedTokenizerFast, tokenizer).convert_tokens_to_ids(list(items))
    return [found] if isinstance(found, int) else found


def sequential_model(
    rows: int,
    direction: Direction,
    settings: Mapping[str, object],
    *,
    positions: int | None,
    dropout: float | None,
    seed: int,
) -> PreTrainedModel:
    """A new model over items, its weights drawn.

    Args:
        rows: of the embedding: items and `SPECIAL`.
        direction: `causal`: each item is predicted from those before it; `masked`: from those around it.
        settings: `model.config`; `model_type` names another architecture of transformers.
        positions: items that it sees; None: `POSITIONS`.
        dropout: every dropout probability; None: 0.2.
        seed: of the weights.

    Raises:
        ModelError: an unknown architecture, or settings that it does not take.
    """
    name = str(settings.get("model_type", _ARCHITECTURES[direction]))
    usual = dict(_USUAL.get(name, {}))
    drops = dict.fromkeys(_DROPOUTS.get(name, ()), _DROPOUT if dropout is None else dropout)
    length = {"n_positions" if name == "gpt2" else "max_position_embeddings": positions or POSITIONS}
    marks = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": True}
    asked = {key: value for key, value in settings.items() if key != "model_type"}
    try:
        known = AutoConfig.for_model(name)
        wrong = sorted(key for key in asked if not hasattr(known, key))
        if wrong:
            raise ModelError(f"model.config.{wrong[0]}: {name} has no such setting")
        config = AutoConfig.for_model(
            name, **{**usual, **drops, **length, **marks, "vocab_size": rows, **asked}
        )
        auto = AutoModelForCausalLM if direction == "causal" else AutoModelForMaskedLM
        with quiet(), seeded(seed):
            return auto.from_config(config, trust_remote_code=False).float().eval()
    except (ValueError, TypeError) as error:
        raise ModelError(f"model.config: a {name} over items cannot be made: {error}") from error

"""Tiny random models, tokenizers and micro-batches that tests of every room share. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from bigbatch.model.adapters import layers_of, put_in
from bigbatch.model.anatomy import anatomy
from bigbatch.recipe.adapters import AdapterSpec
from bigbatch.samples import MicroBatch, Packing, Table, offsets_of, starts_of

VOCABULARY = 100
"""Token ids of every tiny model; 0 is the padding id except where the family fixes another one."""

_BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
_ROBERTA = {**_BERT, "pad_token_id": 1, "max_position_embeddings": 66, "type_vocab_size": 1}
_DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "attention_dropout": 0.0,
    "pad_token_id": 0,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _BERT),
    "roberta": ("Roberta", _ROBERTA),
    "xlm-r": ("XLMRoberta", _ROBERTA),
    "electra": ("Electra", {**_BERT, "embedding_size": 16}),
    "albert": ("Albert", {**_BERT, "embedding_size": 16, "num_hidden_layers": 3}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "seq_classif_dropout": 0.0,
            "pad_token_id": 0,
        },
    ),
    "deberta-v3": (
        "DebertaV2",
        {
            **_BERT,
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 8,
            "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": 32,
            "pooler_dropout": 0.0,
        },
    ),
    "mpnet": ("MPNet", {**_ROBERTA}),
    "modernbert": (
        "ModernBert",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "local_attention": 8,
            "global_attn_every_n_layers": 3,
            "classifier_pooling": "cls",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
    "gpt2": (
        "GPT2",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "llama": ("Llama", _DECODER),
    "mistral": ("Mistral", {**_DECODER, "sliding_window": 4}),
    "qwen2": ("Qwen2", _DECODER),
    "qwen3": ("Qwen3", {**_DECODER, "head_dim": 8}),
}
FAMILIES = tuple(_FAMILIES)
PACKABLE = tuple(family for family in FAMILIES if family not in ("deberta-v3", "mpnet"))
"""Families whose attention goes through transformers' attention interface."""
LAST_TOKEN = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
"""Families whose head reads the last token."""


HEADS = {
    "sequence": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "masked": "ForMaskedLM",
    "causal": "ForCausalLM",
    "span": "ForQuestionAnswering",
}
"""Kind of head -> what transformers' classes for it end in."""
_CAUSAL = {"gpt2": "GPT2LMHeadModel", "bert": "BertLMHeadModel"}
"""Classes with another name; BERT is a decoder only with `is_decoder=True`."""


def tiny_class(family: str, head: str) -> Any:
    """transformers' class of a family with a kind of head; None where there is none."""
    name = _FAMILIES[family][0] + HEADS[head]
    return getattr(transformers, _CAUSAL.get(family, name) if head == "causal" else name, None)


def tiny(
    family: str = "bert", *, head: str = "sequence", seed: int = 0, dropout: float = 0.0, **config: Any
) -> Any:
    """A random model of the family with a head: hidden 32, 2 or 3 blocks, 100 token ids, eval mode.

    Args:
        family: one of `FAMILIES`.
        head: `sequence`, `tokens`, `masked` or `causal`.
        seed: of the weights; the global generator is left as it was.
        dropout: value of every dropout field of the configuration.
        config: fields of the configuration; `num_labels` is 3 unless given.
    """
    name, fields = _FAMILIES[family]
    # Weights of 0.02 leave attention nearly uniform: a wrong mask or position would hardly show.
    fields = {
        "initializer_range": 0.2,
        **({} if "id2label" in config else {"num_labels": 2 if head == "span" else 3}),
        **fields,
    }
    settings = getattr(transformers, f"{name}Config")(**{**fields, **config})
    for key, value in settings.to_dict().items():
        if ("dropout" in key or "pdrop" in key) and (value is None or isinstance(value, float)):
            setattr(settings, key, config.get(key, dropout))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tiny_class(family, head)(settings).eval()


_PAIR = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 0, "decoder_start_token_id": 2, "init_std": 0.2,
}  # fmt: skip
_T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_PAIRS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bart": ("Bart", "ForConditionalGeneration", _PAIR),
    "mbart": ("MBart", "ForConditionalGeneration", _PAIR),
    "marian": ("Marian", "MTModel", {**_PAIR, "eos_token_id": 0, "decoder_start_token_id": 1}),
    "m2m100": ("M2M100", "ForConditionalGeneration", _PAIR),
    "t5": ("T5", "ForConditionalGeneration", _T5),
    "mt5": ("MT5", "ForConditionalGeneration", {**_T5, "tie_word_embeddings": False}),
}
PAIRS = tuple(_PAIRS)
"""Families of an encoder and a decoder."""


def with_adapters(module: Any, *, seed: int = 3, **settings: Any) -> Any:
    """The module with adapters whose B is not zero, so that gradients reach A."""
    put_in(module, layers_of(AdapterSpec(**settings), anatomy(module)), seed=seed)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, item in module.named_parameters():
            if "lora_B" in name:
                item.copy_(torch.randn(item.shape, generator=draw) * 0.2)
    return module


def tiny_pair(family: str = "bart", *, seed: int = 0, dropout: float = 0.0, **config: Any) -> Any:
    """A random encoder-decoder: hidden 32, 2 blocks and 3, 100 token ids, eval mode.

    Args:
        family: one of `PAIRS`.
        seed: of the weights; the global generator is left as it was.
        dropout: value of every dropout field of the configuration.
        config: fields of the configuration.
    """
    name, suffix, fields = _PAIRS[family]
    settings = getattr(transformers, f"{name}Config")(**{**fields, **config})
    for key, value in settings.to_dict().items():
        if "dropout" in key and isinstance(value, float):
            setattr(settings, key, config.get(key, dropout))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = getattr(transformers, name + suffix)(settings).eval()
        if hasattr(module, "final_logits_bias"):  # 0 in new models, not in trained ones
            module.final_logits_bias.normal_(std=0.5)
    return module


# fmt: off
WORDS = (
    "the", "a", "flight", "was", "great", "late", "bad", "good", "delayed", "thanks", "crew", "lost", "my",
    "bag", "never", "again", "love", "service", "wait", "hours", "not", "very", "on", "time", "and", "no",
    "help", "best", "worst", "seat", "ok", "fine", "today", "plane", "gate", "staff", "rude", "kind", "food",
    "cold",
)
# fmt: on


def tiny_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> Any:
    """Write a fast WordPiece tokenizer with [PAD] [UNK] [CLS] [SEP] [MASK] and `words`; return it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    entries = dict.fromkeys([*special, *words])
    vocabulary = {token: index for index, token in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    return fast


def tiny_folder(
    path: Path,
    family: str = "bert",
    *,
    head: str = "sequence",
    words: Sequence[str] = WORDS,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A folder (config.json, model.safetensors, tokenizer files) that opens offline; returns `path`."""
    tokenizer = tiny_tokenizer(path, words)
    # Some families' tokenizer classes add a token or two of their own when they open the folder.
    fields = {"vocab_size": len(tokenizer) + 4, "pad_token_id": tokenizer.pad_token_id, **config}
    tiny(family, head=head, seed=seed, **fields).save_pretrained(path)
    return path


def tiny_batch(
    lengths: Sequence[int] = (5, 9, 3, 9, 7),
    *,
    pools: str = "first",
    packing: Packing = "packed",
    segments: bool = False,
    seed: int = 0,
) -> MicroBatch:
    """A micro-batch of random ids (3 … 99, never a special one) with class targets 0 … 2, one unit a sample.

    With `pools="tokens"` a sample has up to three units: its last token, the first, the last once more.
    """
    generator = np.random.default_rng(seed)
    lengths_B = np.asarray(lengths, dtype=np.int64)
    ends_B = lengths_B.cumsum()
    starts_B = ends_B - lengths_B
    ids_T = generator.integers(3, VOCABULARY, int(ends_B[-1]))
    segments_T = None
    if segments:
        segments_T = np.concatenate([np.arange(length) >= length // 2 for length in lengths]).astype(np.int64)
    reads_U = starts_B if pools == "first" else ends_B - 1
    unit_sample_U = np.arange(len(lengths))
    if pools == "tokens":
        each = [[end - 1, start, end - 1][: end - start] for start, end in zip(starts_B, ends_B, strict=True)]
        reads_U = np.concatenate(each).astype(np.int64)
        unit_sample_U = np.repeat(unit_sample_U, list(map(len, each)))
    units = len(reads_U)
    return micro_batch_of(
        ids_T=ids_T,
        lengths_B=lengths_B,
        segments_T=segments_T,
        reads_U=reads_U,
        unit_sample_U=unit_sample_U,
        values=generator.integers(0, 3, units),
        packing=packing,
        capacity_tokens=int(ends_B[-1]),
    )


def micro_batch_of(
    *,
    ids_T: np.ndarray,
    lengths_B: np.ndarray,
    reads_U: np.ndarray,
    unit_sample_U: np.ndarray,
    values: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    segments_T: np.ndarray | None = None,
    extras: dict[str, np.ndarray] | None = None,
    **more: Any,
) -> MicroBatch:
    """A micro-batch by hand: `reads_U` are places in `ids_T`, units come sample after sample."""
    units = len(reads_U)
    table = Table.of_tokens(
        ids=ids_T,
        token_offsets=offsets_of(lengths_B),
        segments=segments_T,
        reads=reads_U - starts_of(lengths_B)[unit_sample_U],
        unit_offsets=offsets_of(np.bincount(unit_sample_U, minlength=len(lengths_B))),
        values=np.zeros(units, np.int64) if values is None else values,
        weights=np.ones(units, np.float32) if weights is None else weights,
        extras=extras,
    )
    fields = {
        "index": 0,
        "sample_ids_B": np.arange(len(lengths_B)),
        "packing": "packed",
        "capacity_tokens": 8,
    }
    return MicroBatch(**{**fields, "table": table, "targets": table.targets, **more})

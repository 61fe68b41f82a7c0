"""A causal language model as GGUF: the file that llama.cpp and what is built on it run.

Weights are fp32, as they are; llama.cpp's own tools make smaller files of it. What is written is read again by
transformers' loader of GGUF, which undoes names and order of rows on its own account, and compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from bigbatch.errors import ModelError
from bigbatch.infer.alike import Batch, by_module, quietly

if TYPE_CHECKING:
    from gguf import GGUFWriter  # type: ignore[import-not-found]
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from bigbatch.protocols import Tokenizer

FILE = "model.gguf"


class Architecture(NamedTuple):
    """What GGUF knows of a kind of model."""

    name: str
    interleaved: bool
    """Whether rotary positions turn neighbouring rows of queries and keys, where transformers turns halves."""


ARCHITECTURES = {
    "llama": Architecture("llama", True),
    "mistral": Architecture("llama", True),
    "qwen2": Architecture("qwen2", False),
    "qwen3": Architecture("qwen3", False),
}
"""transformers' `model_type` -> GGUF's."""
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORD}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|{_WORD}|\p{{N}}|{_REST}": "qwen2",
}
"""How a tokenizer cuts words, as a pattern -> llama.cpp's name of it."""


def write_gguf(module: PreTrainedModel, tokenizer: Tokenizer | None, folder: Path) -> None:
    """Write `model.gguf` into a folder that is there.

    Args:
        module: the model, on the CPU, in evaluation.
        tokenizer: of it.
        folder: of the exported model.

    Raises:
        ModelError: GGUF has no such model, positions or tokenizer.
    """
    import gguf  # type: ignore[import-not-found]

    kind = _kind_of(module)
    writer = gguf.GGUFWriter(folder / FILE, kind.name)
    shape = module.config.to_dict()
    heads = shape["num_attention_heads"]
    kv_heads = shape.get("num_key_value_heads") or heads
    head_width = shape.get("head_dim") or shape["hidden_size"] // heads
    writer.add_context_length(shape["max_position_embeddings"])
    writer.add_embedding_length(shape["hidden_size"])
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    rope = shape.get("rope_parameters") or shape
    writer.add_rope_freq_base(float(rope.get("rope_theta") or 10000.0))
    for add in (writer.add_rope_dimension_count, writer.add_key_length, writer.add_value_length):
        add(head_width)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, tokenizer, shape["vocab_size"])
    turned = {"q_proj": heads, "k_proj": kv_heads} if kind.interleaved else {}
    _add_tensors(writer, module, kind, turned)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(
    writer: GGUFWriter, module: PreTrainedModel, kind: Architecture, turned: Mapping[str, int]
) -> None:
    """All weights under GGUF's names, those of layers in `turned` with the rows of so many heads interleaved."""
    import gguf  # type: ignore[import-not-found]

    layers = module.config.to_dict()["num_hidden_layers"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.name.upper()], layers)
    for name, values in _tensors(module).items():
        called = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if called is None:
            raise ModelError(f"{name}: GGUF's {kind.name} has no such tensor")
        count = next((count for part, count in turned.items() if f".{part}." in name), None)
        writer.add_tensor(called, values if count is None else interleaved(values, count))


def by_transformers(folder: Path) -> Callable[[Batch], np.ndarray]:
    """The file, read by transformers.

    Raises:
        ModelError: it cannot.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quietly():
            module = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    except Exception as error:  # whatever the loader meets
        raise ModelError(
            f"{FILE} cannot be read again by transformers: {type(error).__name__}: {error}"
        ) from error
    return by_module(module.eval())


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in GGUF's order: of each head first and second half in turn.

    Args:
        values: (heads * width, …) as transformers has them.
        heads: of queries, or of keys.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _kind_of(module: PreTrainedModel) -> Architecture:
    """What GGUF calls this model.

    Raises:
        ModelError: it has none, or no such positions.
    """
    config = module.config.to_dict()
    kind = ARCHITECTURES.get(config["model_type"])
    if kind is None or "CausalLM" not in type(module).__name__:
        raise ModelError(
            f"--to gguf writes causal language models of the kinds {', '.join(ARCHITECTURES)}, not "
            f"{type(module).__name__}; --to onnx and --to torch write others"
        )
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(f"--to gguf writes plain rotary positions, not {rope['rope_type']!r}")
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window is not None and window < config["max_position_embeddings"]:
        raise ModelError(f"--to gguf writes attention to everything before, not to {window} tokens")
    return kind


def _tensors(module: PreTrainedModel) -> Mapping[str, np.ndarray]:
    """By transformers' names; the output layer only where it is not the embedding's own."""
    tied = bool(getattr(module.config, "tie_word_embeddings", False))
    return {
        name: tensor.detach().float().numpy()
        for name, tensor in module.state_dict().items()
        if not (tied and name == "lm_head.weight") and not name.endswith("inv_freq")
    }


# ---------------------------------------------------------------- the tokenizer


def _add_tokenizer(writer: GGUFWriter, given: Tokenizer | None, vocabulary: int) -> None:
    """Tokens, their kinds, merges and marks.

    Raises:
        ModelError: a tokenizer that llama.cpp does not have.
    """
    import gguf  # type: ignore[import-not-found]

    if getattr(given, "backend_tokenizer", None) is None:
        raise ModelError("--to gguf needs the model's fast tokenizer")
    tokenizer = cast("PreTrainedTokenizerFast", given)
    content = tokenizer.backend_tokenizer.to_str()
    cut = cut_of(content)
    described = json.loads(content)
    added = {each["id"]: each for each in described["added_tokens"]}
    tokens, kinds = [], []
    for number in range(vocabulary):
        text = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
        tokens.append(f"[unused{number}]" if text is None else text)
        known = added.get(number)
        kind = gguf.TokenType.CONTROL if known and known["special"] else gguf.TokenType.USER_DEFINED
        usual = gguf.TokenType.UNUSED if text is None else gguf.TokenType.NORMAL
        kinds.append(int(kind if known else usual))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = described["model"]["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    ids = tokenizer("a").input_ids
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def cut_of(content: str) -> str:
    """What llama.cpp calls the way in which a tokenizer cuts texts into words.

    Args:
        content: of its `tokenizer.json`.

    Raises:
        ModelError: none that it has.
    """
    described = json.loads(content)
    first = described.get("pre_tokenizer") or {}
    steps = first.get("pretokenizers", [first])
    kinds = [each.get("type") for each in steps]
    if described["model"].get("type") == "BPE" and kinds and kinds[-1] == "ByteLevel":
        by_regex = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and by_regex:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and by_regex and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not by_regex:
            found = _SPLITS.get(steps[0].get("pattern", {}).get("Regex", ""))
            if found:
                return found
    raise ModelError(
        "--to gguf writes byte-level BPE tokenizers as those of GPT-2, Llama 3, Qwen 2 and SmolLM; this one cuts texts "
        "in another way"
    )

"""What the JSON files of a model folder may say: read within limits, and without the keys that name code.

transformers reads more out of these files than numbers: modules to import (`auto_map`), kernels to fetch from the hub
(`attn_implementation: org/name`), other files to read instead (`configuration_files`, `vocab_file`). Both ways are
cleaned with the same lists: what we open, and what we write for others to open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bigbatch.errors import ModelError
from bigbatch.stored import Damaged
from bigbatch.stored import read_json as read_stored

Kind = TypeVar("Kind", dict[str, Any], list[Any])
_TOLD: dict[type, str] = {dict: "object", list: "list"}

_CODE = frozenset({"auto_map", "custom_pipelines", "custom_generate", "trust_remote_code"})
"""Name Python files of the folder, or of another repository."""
_ELSEWHERE = frozenset(
    {
        "configuration_files",
        "fast_tokenizer_files",
        "transformers_weights",
        "extra_files",
        "extra_config_files",
        "gguf_file",
        "tokenizer_file",
        "vocab_file",
        "merges_file",
        "spm_file",
        "source_spm",
        "target_spm",
        "special_tokens_map_file",
        "added_tokens_file",
        "chat_template_file",
        "tokenizer_config_file",
        "backbone",
        "use_pretrained_backbone",
        "use_timm_backbone",
        "slow_tokenizer",
        "init_inputs",
        "name_or_path",
    }
)
"""Name further files, or models of the hub."""
_HOW = frozenset(
    {
        "attn_implementation",
        "experts_implementation",
        "kernel_config",
        "use_kernels",
        "compile_config",
        "distributed_config",
        "base_model_tp_plan",
        "base_model_pp_plan",
        "base_model_ep_plan",
        "base_model_fsdp_plan",
        "dtype",
        "torch_dtype",
    }
)
"""Say how to compute, which is the plan's."""
_MARKS = ("__type", "__float__")
"""How transformers writes a token, and a number that JSON lacks."""
_NAMES = frozenset(
    {"id2label", "label2id", "extra_special_tokens", "model_specific_special_tokens", "added_tokens_decoder"}
)
"""Their keys are labels or tokens, which may be called anything."""


def is_dropped(key: str) -> bool:
    """Whether a key of a model's or tokenizer's configuration is left out; private ones are transformers' own notes."""
    private = key.startswith("_") and key not in _MARKS
    return private or key in _CODE or key in _ELSEWHERE or key in _HOW


def names_code(config: Any) -> bool:
    """Whether a configuration, or one inside it, names code."""
    return any(key in _CODE for key in _keys(config))


def _keys(found: Any) -> Iterator[str]:
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield str(key)
            yield from () if key in _NAMES else _keys(value)
    elif isinstance(found, list):
        for value in found:
            yield from _keys(value)


def cleaned(found: Any, keep: frozenset[str] = frozenset()) -> Any:
    """A copy of what a JSON file holds, without the keys that name code, other files, or ways to compute, at any depth.

    Args:
        found: the content.
        keep: keys that stay all the same.

    Example:
        >>> cleaned({"hidden_size": 8, "auto_map": {"AutoModel": "x.M"}, "text_config": {"attn_implementation": "x/y"}})
        {'hidden_size': 8, 'text_config': {}}
    """
    if isinstance(found, Mapping):
        return {
            key: value if key in _NAMES else cleaned(value, keep)
            for key, value in found.items()
            if key in keep or not is_dropped(str(key))
        }
    if isinstance(found, list):
        return [cleaned(value, keep) for value in found]
    return found


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; raises as `read_json`."""
    return read_json(file, dict)


def read_json(file: Path, kind: type[Kind]) -> Kind:
    """The JSON object or list in a file of a model folder.

    Raises:
        ModelError: the file, and why it cannot be used.
    """
    try:
        found = read_stored(file)
    except (Damaged, OSError) as error:
        raise ModelError(f"{file}: {error}") from error
    if not isinstance(found, kind):
        raise ModelError(f"{file}: found {type(found).__name__}; expected a JSON {_TOLD[kind]}")
    return found

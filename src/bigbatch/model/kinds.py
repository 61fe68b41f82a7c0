"""Which kind of model a folder holds, and whether anything has trained it: read, never loaded or run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bigbatch.errors import ModelError
from bigbatch.model.clean import read_object
from bigbatch.model.files import check_weights
from bigbatch.recipe.model_facts import ModelFacts, ModelKind, WeightsKind
from bigbatch.stored import open_plain

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTERS, ADAPTER_SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_CAUSAL = ("ForCausalLM", "LMHeadModel")
_MASKED = ("ForMaskedLM",)
# fmt: off
USUAL_MASKED = frozenset(
    {
        "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
        "esm", "eurobert", "ibert", "mpnet", "modernbert", "roberta", "xlm-roberta", "xlm-roberta-xl",
    }
)
USUAL_CAUSAL = frozenset(
    {
        "bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neo", "gpt_neox",
        "gptj", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "opt",
        "phi", "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2",
    }
)
# fmt: on
"""Types that most folders have; transformers' own table, which knows all, takes two seconds to import."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MOST_READ_BYTES = 2**24
_WIDTHS = ("hidden_size", "n_embd", "dim", "d_model")
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")


def is_folder(name: str) -> bool:
    """Whether the name is a local folder; a path that does not exist is an error, not a hub name.

    Raises:
        ModelError: it looks like a path (starts with `.`, `/` or `~`, or has more than one `/`) but is no
        folder.
    """
    if Path(name).is_dir():
        return True
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_absolute():
        raise ModelError(
            f"model.name: found no folder {name!r}; expected a model folder or a hub name like org/name"
        )
    return False


def model_facts(folder: Path, name: str, origin: str = "", *, whole: bool = True) -> ModelFacts:
    """What a model folder says of itself.

    Args:
        folder: with a config.json.
        name: as a recipe names it.
        origin: where it was found, for people.
        whole: whether its weights, if it has any, are there too.

    Raises:
        ModelError: a configuration, or weights, that cannot be read.
    """
    config = read_object(_described(folder) / CONFIG)
    architectures = config.get("architectures")
    classes = (
        [item for item in architectures if isinstance(item, str)] if isinstance(architectures, list) else []
    )
    heads = {"ForSequenceClassification": "texts", "ForTokenClassification": "words"}
    labels_of: Any = next((heads[end] for end in heads if any(each.endswith(end) for each in classes)), None)
    return ModelFacts(
        name=name,
        kind=_kind(config, classes),
        labels=_labels(config) if labels_of else (),
        labels_of=labels_of,
        weights=_weights(folder) if whole else "pretrained",
        hidden=next(filter(None, (_count(config.get(key)) for key in _WIDTHS)), None),
        vocabulary=_count(config.get("vocab_size")),
        positions=next(filter(None, (_count(config.get(key)) for key in _POSITIONS)), None),
        origin=origin,
    )


def _described(folder: Path) -> Path:
    """Where the configuration is: PEFT writes adapters without one, which have that of their base."""
    if (folder / CONFIG).is_file() or not (folder / ADAPTER_SETTINGS).is_file():
        return folder
    base = read_object(folder / ADAPTER_SETTINGS).get("base_model_name_or_path")
    near = [Path(base), folder / base] if isinstance(base, str) and base else []
    return next((place for place in near if (place / CONFIG).is_file()), folder)


def _kind(config: dict[str, Any], classes: list[str]) -> ModelKind:
    """By what it says, by its class, else by what transformers builds of its type."""
    if config.get("is_encoder_decoder") is True:
        return "encoder-decoder"
    if config.get("is_decoder") is True or any(each.endswith(_CAUSAL) for each in classes):
        return "causal"
    if any(each.endswith(_MASKED) for each in classes):
        return "masked"
    kind = config.get("model_type")
    if kind in USUAL_MASKED or kind in USUAL_CAUSAL:
        return "masked" if kind in USUAL_MASKED else "causal"
    from transformers.models.auto import modeling_auto as known

    if kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked"
    return "causal" if kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "unknown"


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Names in the order of the head; transformers writes none for two labels without names."""
    named = config.get("id2label")
    if isinstance(named, dict) and all(str(key).isdecimal() for key in named):
        return tuple(str(named[key]) for key in sorted(named, key=int))
    count = _count(config.get("num_labels")) or 2
    return tuple(f"LABEL_{index}" for index in range(min(count, 10_000)))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def _weights(folder: Path) -> WeightsKind:
    """Training moves biases and the scales of norms at once; in a model that was just made each tensor of them is one
    number again and again.
    """
    if (folder / ADAPTERS).is_file():  # beside a base that the folder names
        return "pretrained"
    files = _files(folder)
    if not files:
        return "none"
    seen, left_bytes = False, _MOST_READ_BYTES
    for file in files:
        start = 8 + int.from_bytes(_part(file, 0, 8), "little")
        for name, tensor in check_weights(file).items():
            size_bytes = _BYTES.get(str(tensor.get("dtype")))
            first, end = tensor["data_offsets"][:2]
            if size_bytes is None or len(tensor["shape"]) != 1 or end - first < 2 * size_bytes:
                continue
            if name.endswith("inv_freq"):  # a table of angles, not learnt
                continue
            values = _part(file, start + first, min(end - first, left_bytes))
            left_bytes -= len(values)
            whole = values[: len(values) // size_bytes * size_bytes]
            if whole != whole[:size_bytes] * (len(whole) // size_bytes):
                return "pretrained"
            seen = True
    return "random" if seen else "pretrained"


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        return []
    named = read_object(folder / INDEX).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    wrong = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if wrong:
        raise ModelError(
            f"{folder / INDEX}: weight_map: found {wrong[0]!r}; expected *.safetensors in this folder"
        )
    return [folder / name for name in names]


def _part(file: Path, first: int, count: int) -> bytes:
    try:
        with open_plain(file) as stream:
            stream.seek(first)
            return stream.read(count)
    except (OSError, ValueError) as error:  # also Damaged
        raise ModelError(f"{file}: {error}") from error

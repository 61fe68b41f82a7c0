"""What the recipe may change about a model: configuration fields, dropout, which parameters train."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import accepts, anatomy, headed_model
from bigbatch.model.names import clean_name

_OURS = {
    "num_labels": "it comes from the labels",
    "id2label": "it comes from the labels",
    "label2id": "it comes from the labels",
    "problem_type": "it comes from the task",
    "model_type": "it comes from the model",
    "architectures": "it comes from the model",
    "auto_map": "code of a model folder is never run",
    "dtype": "see plan.precision",
    "torch_dtype": "see plan.precision",
}


def override_config(config: Any, overrides: Mapping[str, Any]) -> None:
    """Set configuration fields in place.

    Raises:
        ModelError: a key that the configuration does not have, or that is set by other keys of the recipe.
    """
    known = {
        key for key in (*config.to_dict(), *getattr(config, "attribute_map", {})) if not key.startswith("_")
    }
    if (
        "backbone_config" in known
    ):  # behind a backbone of convolutions: images of any size, which the file does not say
        known.add("image_size")
    for key, value in overrides.items():
        if key in _OURS:
            raise ModelError(f"model.config.{key}: cannot be set here; {_OURS[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known - set(_OURS)), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ModelError(f"model.config.{key}: {config.model_type} has no such field{hint}")
        try:
            setattr(config, key, value)
        except (StrictDataclassError, TypeError, ValueError) as error:
            why = str(error).strip().splitlines()[-1].strip()
            raise ModelError(f"model.config.{key}: found {value!r}; {why}") from error


def _is_dropout(name: str, value: Any) -> bool:
    return (
        ("dropout" in name or "pdrop" in name)
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    )


def set_dropout_fields(config: Any, dropout: float) -> list[str]:
    """Set every dropout probability of a configuration; returns the names of the fields."""
    fields = [key for key, value in config.to_dict().items() if _is_dropout(key, value)]
    for key in fields:
        setattr(config, key, dropout)
    return fields


def set_dropout(module: nn.Module, dropout: float) -> int:
    """Set every dropout probability of a built model; returns how many places there were.

    Both kinds: `nn.Dropout` modules, and attention modules that keep a number.
    """
    places = 0
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = dropout
            places += 1
        for name, value in list(vars(part).items()):
            if _is_dropout(name, value):
                setattr(part, name, dropout)
                places += 1
    return places


def keep_every_block(config: PreTrainedConfig, module: nn.Module | None = None) -> str | None:
    """Turn LayerDrop off, in place: M2M100 has it. Which blocks run would be drawn for a micro-batch as a whole, so the
    result would depend on the split, and ranks that divide a block would wait for one another.

    Args:
        config: the model's.
        module: the model, where it is built already.

    Returns:
        What was done, for people; None where nothing had to be.
    """
    fields = [key for key, value in config.to_dict().items() if key.endswith("layerdrop") and value]
    for key in fields:
        setattr(config, key, 0.0)
    parts = [part for part in module.modules() if getattr(part, "layerdrop", 0)] if module is not None else []
    for part in parts:
        setattr(part, "layerdrop", 0.0)  # noqa: B010
    if not fields and not parts:
        return None
    named = ", ".join(fields) or "layerdrop"
    return f"{config.model_type} skips blocks at random ({named}), which depends on the split: set to 0"


def set_trainable(module: nn.Module, trainable: str | Sequence[str]) -> None:
    """Freeze what the recipe leaves out. Nothing that is frozen already is ever unfrozen.

    Args:
        module: the model.
        trainable: `all`, `head` (what runs after the blocks and the final norm: pooler and classifier), or
            patterns
            of parameter names with `*`, such as `classifier.*` or `*.layer.11.*`.

    Raises:
        ModelError: a pattern that matches nothing, with near names; or nothing is left to train.
    """
    if trainable != "all":
        names = {clean_name(name): item for name, item in module.named_parameters(remove_duplicate=False)}
        if trainable == "head":
            chosen = {id(item) for part in anatomy(module).head for item in part.parameters()}
        else:
            patterns = [trainable] if isinstance(trainable, str) else trainable
            chosen = {id(item) for pattern in patterns for item in _matching(pattern, names)}
        for item in names.values():
            item.requires_grad_(item.requires_grad and id(item) in chosen)
    if not any(item.requires_grad for item in module.parameters()):
        raise ModelError(
            f"model.trainable: {trainable}: no parameter is left to train; all of them are frozen"
        )


def _matching(pattern: str, names: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    found = [item for name, item in names.items() if fnmatchcase(name, pattern)]
    if found:
        return found
    prefixes = {
        ".".join(name.split(".")[:count]) for name in names for count in range(1, name.count(".") + 1)
    }
    near = difflib.get_close_matches(pattern.strip("*."), [*sorted(prefixes), *names], n=3, cutoff=0.4)
    hint = ", ".join(f"{name}.*" if name in prefixes else name for name in near) or ", ".join(list(names)[:3])
    raise ModelError(f"model.trainable: {pattern!r} matches no parameter; near names: {hint}")


def read_given_types(module: nn.Module, columns: Sequence[str]) -> str | None:
    """Let a model read the token types that rows of token ids bring, where its configuration counts none of its own.

    GPT-2 and its like look token types up among their words. Their configuration says nothing of that, so it is told,
    and a saved model stays the one that was trained.

    Args:
        module: the model.
        columns: of the rows.

    Returns:
        What was done, for people; None when there was nothing to do.
    """
    base: Any = headed_model(module).base_model
    config = base.config
    if "token_type_ids" not in columns or hasattr(config, "type_vocab_size"):
        return None
    if not accepts(base, "token_type_ids"):
        return None
    config.type_vocab_size = base.get_input_embeddings().num_embeddings
    return (
        f"the rows bring token_type_ids, which {type(base).__name__} adds as words to each token; leave that column "
        "out if this is not meant"
    )

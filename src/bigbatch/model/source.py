"""Model folders and hub names: what may be opened, and what is refused. No code of a folder is ever run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from bigbatch.errors import ModelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


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


def check_folder(folder: Path, *, weights: bool) -> list[str]:
    """Look at a model folder before transformers opens it; returns notes.

    Args:
        folder: with config.json and *.safetensors.
        weights: whether weights are needed (`init: pretrained`).

    Raises:
        ModelError: no config.json, code of its own for an unknown type, pickled or no weights.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        why = "it holds a PEFT adapter only; merge it into its base model and save that" if adapter else ""
        raise ModelError(
            f"{folder}: found no config.json; expected a Hugging Face model folder{why and '; ' + why}"
        )
    notes = _check_type(folder, _read_config(folder))
    if weights and not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"{folder}: found only pickled weights ({', '.join(pickles[:3])}), which can run code "
                "when opened; expected *.safetensors. Remedy: where you trust that file, open the folder "
                "with transformers' from_pretrained(…, use_safetensors=False) and save_pretrained() it again"
            )
        raise ModelError(f"{folder}: found no weights; expected *.safetensors (or model.init: random)")
    return notes


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{folder / 'config.json'}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{folder / 'config.json'}: found {type(found).__name__}; expected a JSON object")
    return found


def _check_type(folder: Path, config: dict[str, Any]) -> list[str]:
    kind = config.get("model_type")
    if kind in CONFIG_MAPPING:
        if "auto_map" not in config:
            return []
        return [
            f"{folder.name} brings code of its own (auto_map); it is ignored, "
            f"transformers' own {kind} is used"
        ]
    if "auto_map" in config:
        raise ModelError(
            f"{folder}: model type {kind!r} needs code from the folder (auto_map), which is never run; "
            "expected a type that transformers knows"
        )
    near = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ModelError(
        f"{folder / 'config.json'}: model_type: found {kind!r}, which transformers does not know{hint}"
    )


def load_config(name: str, revision: str | None) -> PreTrainedConfig:
    """Configuration of a folder or hub name.

    Raises:
        ModelError: it cannot be had; says how to get it.
    """
    with explained(name), quiet():
        return AutoConfig.from_pretrained(name, revision=revision or "main", trust_remote_code=False)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what transformers raises while opening `name` into a ModelError with a remedy."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, StrictDataclassError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).is_dir():
            raise ModelError(f"{name}: cannot be opened: {first}") from error
        raise ModelError(
            f"{name}: not in the local cache, and the hub gave no safetensors model ({first}). Remedy: run "
            f"`hf download {name}` once on a machine with network access, or set model.name to a folder"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and loading reports of transformers inside: our notes say what matters."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()

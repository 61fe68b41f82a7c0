"""Where a live model was loaded from, and the tokenizer that lies there: on this machine only, and nothing is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import headed_model
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.recipe.learning import ModelSpec


def tokenizer_of(module: Any) -> tuple[str, Any]:
    """Name of the folder or hub model that a live model says it is from, and the tokenizer there; None without one.

    Of a hub model only what Hugging Face's cache holds is looked at, in the revision of the weights.
    """
    config = _config(module)
    name = str(getattr(config, "_name_or_path", None) or "")
    if not name:
        return "", None
    try:
        folder = Path(name) if Path(name).is_dir() else _cached(name, getattr(config, "_commit_hash", None))
        return name, load_tokenizer(ModelSpec(name=str(folder)))
    except (OSError, ValueError, ModelError):  # not here, no name at all, or no tokenizer in it
        return name, None


def _config(module: Any) -> Any:
    try:
        return headed_model(module).config
    except ModelError:  # a model without a head
        return getattr(module, "config", None)


def _cached(name: str, revision: str | None) -> Path:
    return Path(snapshot_download(name, revision=revision, local_files_only=True))

"""Write a model folder that transformers opens with the same logits."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bigbatch.model.names import unwrap
from bigbatch.model.source import quiet


def save_model(
    module: nn.Module,
    tokenizer: Any,
    folder: Path,
    card: str,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights, configuration, tokenizer and model card; the folder is there whole or not at all.

    It opens with `from_pretrained(folder)` of transformers' class for its head. A PEFT-wrapped model is
    written with its adapters merged, on a copy.

    Args:
        module: the model; not changed.
        tokenizer: saved next to it; None leaves it out.
        folder: replaced when it exists.
        card: text of README.md.
        weights: whole tensors by clean name, where the module holds only parts of its own.

    Raises:
        OSError: the disk.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with quiet():
            whole = {} if weights is None else {"state_dict": dict(weights)}
            _plain(module).save_pretrained(fresh, **whole)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh)
        (fresh / "README.md").write_text(card, encoding="utf-8")
        for path in (*sorted(fresh.rglob("*")), fresh):
            _sync(path)
        _replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _plain(module: nn.Module) -> Any:
    """The transformers model without wrappers, adapters merged."""
    model: Any = unwrap(module)
    return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _replace(fresh: Path, folder: Path) -> None:
    """Rename into place. A folder cannot be exchanged in one step, so the old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk; Windows cannot open folders."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

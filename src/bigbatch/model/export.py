"""Write a model folder that transformers opens with the same logits."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from bigbatch.model.adapter_folder import Base, write_adapters
from bigbatch.model.adapters import has_adapters, merged
from bigbatch.model.clean import cleaned, read_object
from bigbatch.model.encoder import bare
from bigbatch.model.folder import CLEANED, CONFIG, PICKLES
from bigbatch.model.names import unwrap
from bigbatch.model.source import quiet
from bigbatch.model.streams import Weights, write_weights
from bigbatch.written import as_named, give_usual_modes, new_folder, rename, replace_text


def save_model(
    module: nn.Module,
    tokenizer: Any,
    folder: Path,
    card: str,
    weights: Weights | None = None,
    *,
    files: Mapping[str, str] = {},
    base: Base | None = None,
) -> None:
    """Write weights, configuration, tokenizer and model card; the folder is there whole or not at all.

    It opens with `from_pretrained(folder)` of transformers' class for its head. Adapters are merged, on a copy; or,
    where their base is named, they are what is written, as PEFT writes them.

    Args:
        module: the model; not changed.
        tokenizer: saved next to it; None leaves it out.
        folder: replaced when it exists.
        card: text of README.md.
        files: further ones: path in the folder -> content.
        weights: whole tensors by clean name, where the module holds only parts of its own; read one at a time.
        base: of the adapters, which are written without it; None: they are merged.

    Raises:
        OSError: the disk.
    """
    folder = Path(folder)
    folder = as_named(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = new_folder(folder.parent, f".{folder.name}.new-")
    try:
        with quiet():
            if base is not None:
                write_adapters(module, base, fresh, weights)
            elif weights is None:
                _plain(module).save_pretrained(fresh)
            else:
                _save_stored(_plain(module), weights, fresh)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh)
        _clean(fresh)
        for name, content in {**files, "README.md": card}.items():
            (fresh / name).parent.mkdir(exist_ok=True)
            replace_text(fresh / name, content, durable=False)
        give_usual_modes(fresh)
        for path in (*sorted(fresh.rglob("*")), fresh):
            _sync(path)
        _replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save_stored(model: Any, weights: Weights, folder: Path) -> None:
    """Let transformers write a numbered stand-in for each tensor, then put the tensors under the names it chose.

    It leaves some tensors out, renames some, and drops further names of tied ones; which, only it knows. A model whose
    tensors it also recomputes (fused experts, say) is written from whole tensors in memory.
    """
    stand_ins = {name: torch.tensor([number]) for number, name in enumerate(weights.like)}
    # Of the names of a tied tensor it keeps the one that it looks for when it loads.
    tied = {name: stand_ins[stored] for name, stored in weights.aliases.items()}
    try:
        model.save_pretrained(folder, state_dict={**stand_ins, **tied})
        file = folder / "model.safetensors"
        written = load_file(file)
        order = list(weights.like)
        simple = all(tuple(each.shape) == (1,) and each.dtype == torch.int64 for each in written.values())
        names = {name: order[int(each)] for name, each in written.items()} if simple else {}
        # A mapping to names of transformers' own that loses a tensor would show here.
        simple = simple and len(set(names.values())) == len(names)
    except (RuntimeError, ValueError, IndexError):
        simple, names = False, {}
    if not simple:
        whole = {name: weights.read(name) for name in weights.like}
        tied = {name: whole[stored] for name, stored in weights.aliases.items()}
        model.save_pretrained(folder, state_dict={**whole, **tied})
        return
    del written
    file.unlink()
    write_weights(folder, weights, names)


def _clean(folder: Path) -> None:
    """Take out what would run, or fetch code, where somebody opens the folder and trusts it.

    A live model may have come with code (`trust_remote_code=True`), which transformers copies and names in the files.
    """
    for path in [path for path in folder.rglob("*") if path.suffix in (".py", *PICKLES)]:
        path.unlink()
    for name in (*CLEANED, "processor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            # Two spaces and sorted keys, as transformers writes them. The number format is the weights' own.
            found = cleaned(read_object(folder / name), keep=frozenset({"dtype"}))
            text = json.dumps(found, indent=2, sort_keys=True, ensure_ascii=name == CONFIG)
            replace_text(folder / name, text + "\n", durable=False)


def _plain(module: nn.Module) -> Any:
    """The transformers model without wrappers, adapters merged."""
    return merged(module) if has_adapters(module) else bare(unwrap(module))


def _replace(fresh: Path, folder: Path) -> None:
    """Rename into place. A folder cannot be exchanged in one step, so the old one steps aside first."""
    old = folder.with_name(f".{folder.name}.old-{secrets.token_hex(8)}")
    if os.path.lexists(folder):
        rename(folder, old)
    rename(fresh, folder)
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

"""Load a tokenizer: from a folder, the hub, or made here; no code of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bigbatch.errors import ModelError
from bigbatch.model.adapter_folder import is_adapter_folder, read_adapter
from bigbatch.model.folder import View
from bigbatch.model.letters import is_made_here, made_tokenizer
from bigbatch.model.source import explained, opened, quiet
from bigbatch.recipe.learning import ModelSpec


def load_tokenizer(spec: ModelSpec) -> Any:
    """The fast tokenizer of `spec.tokenizer` (folder, hub name or one that is made here), else of `spec.name`.

    Raises:
        ModelError: it cannot be had.
    """
    name = spec.tokenizer or spec.name
    if spec.tokenizer is not None and is_made_here(spec.tokenizer):
        return made_tokenizer(spec.tokenizer)
    if name is not None and is_adapter_folder(name) and not any(Path(name).glob("tokenizer*")):
        found = read_adapter(name)
        return load_tokenizer(ModelSpec(name=found.base, revision=found.revision))
    if name is None:
        raise ModelError("model.name: none given, and no tokenizer; pass `tokenizer=` with a live model")
    try:
        with opened(name, spec.revision, weights=False, config=False) as view:
            with explained(name), quiet():
                tokenizer = AutoTokenizer.from_pretrained(view.path, trust_remote_code=False)
            _at_home(tokenizer, view)
    except ModelError as error:
        raise ModelError(f"tokenizer: {error}; model.tokenizer can name another one") from error
    # Where there are no tokenizer files transformers makes one up, to which every word is unknown.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ModelError(f"{name} has no tokenizer (its vocabulary is empty); name one with model.tokenizer")
    return tokenizer


def _at_home(tokenizer: object, view: View) -> None:
    """Let a tokenizer name the folder that it came from instead of the view, which goes."""
    gone, home = str(view.path), str(view.source)
    for held in (vars(tokenizer), getattr(tokenizer, "init_kwargs", {})):
        for key, value in held.items():
            if isinstance(value, str) and value.startswith(gone):
                held[key] = view.name if value == gone else home + value.removeprefix(gone)

"""A `SentenceTransformer` in memory, as the model, tokenizer and options that `task: match` trains. Its library is told
by the names of types and never imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bigbatch.errors import ModelError
from bigbatch.model.pooling import Pooling

_LIBRARY = "sentence_transformers."
_MODES: dict[str, Pooling] = {"mean": "mean", "cls": "first", "lasttoken": "last"}
_SIMILARITIES = {"cosine": "cosine", "dot": "dot"}


@dataclass(frozen=True, kw_only=True, eq=False)
class SentenceModel:
    """What a `SentenceTransformer` is made of."""

    module: Any
    """The transformers model, without a head: training moves its weights, and so those of the whole."""
    tokenizer: Any
    options: dict[str, Any]
    """Of `task: match`."""
    max_length: int | None


def is_sentence_model(model: Any) -> bool:
    """Whether it is a `SentenceTransformer`."""
    kinds = [kind for kind in type(model).__mro__ if kind.__name__ == "SentenceTransformer"]
    return any(kind.__module__.startswith(_LIBRARY) for kind in kinds)


def sentence_model(model: Any) -> SentenceModel:
    """The parts of a `SentenceTransformer`.

    Raises:
        ModelError: it has parts, or ways of pooling and comparing, that are not built here.
    """
    parts = list(model)
    kinds = [
        type(part).__name__ if type(part).__module__.startswith(_LIBRARY) else repr(type(part))
        for part in parts
    ]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"found a SentenceTransformer of {', '.join(kinds)}; expected a Transformer and a Pooling, and perhaps a "
            "Normalize: other parts are not built"
        )
    mode = parts[1].pooling_mode
    mode = mode[0] if isinstance(mode, (list, tuple)) and len(mode) == 1 else mode
    if mode not in _MODES:
        raise ModelError(f"found a Pooling of {mode}; expected {', '.join(_MODES)}")
    similarity = str(getattr(model.similarity_fn_name, "value", model.similarity_fn_name) or "cosine")
    if similarity not in _SIMILARITIES:
        raise ModelError(f"found similarity_fn_name={similarity}; expected {' or '.join(_SIMILARITIES)}")
    return SentenceModel(
        module=parts[0].auto_model,
        tokenizer=model.tokenizer,
        options={"pooling": _MODES[mode], "similarity": _SIMILARITIES[similarity]},
        max_length=getattr(model, "max_seq_length", None),
    )

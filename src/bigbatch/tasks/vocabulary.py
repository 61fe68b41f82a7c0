"""What language models need to know of a tokenizer: its size, the ids that are no text, and the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from bigbatch.model.anatomy import headed_model

_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids by what they are for."""

    size: int
    """Ids that the tokenizer knows, or rows of the embedding where there is no tokenizer."""
    special_ids: tuple[int, ...]
    """Ids that stand for no text, ascending: they are never masked, predicted or drawn."""
    mask_id: int | None
    """`[MASK]`, or None where there is none."""


def vocabulary_of(tokenizer: Any, module: nn.Module) -> Vocabulary:
    """The tokenizer's, or what the model's configuration says where there is no tokenizer."""
    outer: Any = headed_model(module)
    if tokenizer is not None:
        return Vocabulary(
            size=len(tokenizer),
            special_ids=tuple(sorted(set(map(int, tokenizer.all_special_ids)))),
            mask_id=getattr(tokenizer, "mask_token_id", None),
        )
    found = {name: getattr(outer.config, f"{name}_token_id", None) for name in _SPECIAL}
    ids = [each for value in found.values() for each in (value if isinstance(value, list) else [value])]
    return Vocabulary(
        size=outer.get_input_embeddings().num_embeddings,
        special_ids=tuple(sorted({int(each) for each in ids if each is not None})),
        mask_id=found["mask"],
    )

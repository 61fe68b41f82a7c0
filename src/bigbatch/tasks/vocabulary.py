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
    before: tuple[int, ...] = ()
    """Ids that the tokenizer puts in front of a text, such as `[CLS]`."""
    behind: tuple[int, ...] = ()
    """Ids that it puts behind a text, such as `[SEP]`."""


def _frame(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands around every text."""
    if not hasattr(tokenizer, "num_special_tokens_to_add"):  # not one of transformers
        return (), ()
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, added = list(map(int, found["input_ids"])), list(found["special_tokens_mask"])
    inner = [place for place, special in enumerate(added) if not special]
    if not inner:
        return tuple(ids), ()
    return tuple(ids[: inner[0]]), tuple(ids[inner[-1] + 1 :])


def vocabulary_of(tokenizer: Any, module: nn.Module) -> Vocabulary:
    """The tokenizer's, or what the model's configuration says where there is no tokenizer."""
    outer: Any = headed_model(module)
    if tokenizer is not None:
        before, behind = _frame(tokenizer)
        return Vocabulary(
            size=len(tokenizer),
            special_ids=tuple(sorted(set(map(int, tokenizer.all_special_ids)))),
            mask_id=getattr(tokenizer, "mask_token_id", None),
            before=before,
            behind=behind,
        )
    found = {name: getattr(outer.config, f"{name}_token_id", None) for name in _SPECIAL}
    ids = [each for value in found.values() for each in (value if isinstance(value, list) else [value])]
    return Vocabulary(
        size=outer.get_input_embeddings().num_embeddings,
        special_ids=tuple(sorted({int(each) for each in ids if each is not None})),
        mask_id=found["mask"],
    )

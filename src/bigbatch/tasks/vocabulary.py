"""What language models need to know of a tokenizer: its size, the ids that are no text, and the mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bigbatch.errors import ModelError
from bigbatch.model.anatomy import has_two_stacks, headed_model, vocabulary_rows

_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token ids by what they are for."""

    size: int
    """Ids that the tokenizer knows, or rows of the embedding where there is no tokenizer."""
    rows: int
    """Of the embedding: what the model can read and write, whatever the tokenizer knows."""
    special_ids: tuple[int, ...]
    """Ids that stand for no text, ascending: they are never masked, predicted or drawn."""
    mask_id: int | None
    """`[MASK]`, or None where there is none."""
    before: tuple[int, ...] = ()
    """Ids that the tokenizer puts in front of a text, such as `[CLS]`."""
    behind: tuple[int, ...] = ()
    """Ids that it puts behind a text, such as `[SEP]`."""
    start_id: int | None = None
    """Of an encoder-decoder: what its decoder reads first; None: the target's last token, as mBART does."""
    end_id: int | None = None
    """What a text ends with that the model writes; None: nobody says."""
    pad_id: int | None = None
    """What stands for no token."""


def frame_of(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a tokenizer puts in front of every text, and behind it."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, added = list(map(int, found["input_ids"])), list(found["special_tokens_mask"])
    inner = [place for place, special in enumerate(added) if not special]
    if not inner:
        return tuple(ids), ()
    return tuple(ids[: inner[0]]), tuple(ids[inner[-1] + 1 :])


def _start(outer: nn.Module) -> int | None:
    """What a decoder reads in front of a target: as the model itself shifts two of them."""
    shift = getattr(outer, "prepare_decoder_input_ids_from_labels", None)
    told = getattr(outer.config, "decoder_start_token_id", None)
    if not has_two_stacks(outer):
        return None
    if shift is None:
        found = {told}
    else:
        other = [token for token in range(4) if token != getattr(outer.config, "pad_token_id", None)]
        try:
            found = {int(shift(labels=torch.tensor([[other[0], last]]))[0, 0]) for last in other[1:3]}
        except (TypeError, ValueError, RuntimeError):  # it has no mark, or no padding, to shift with
            found = {None}
    if found == {None}:
        raise ModelError(
            "model.config.decoder_start_token_id: none given; expected what the decoder reads first "
            "(T5: its padding, BART: its end mark)"
        )
    return found.pop() if len(found) == 1 else None


def _single(found: int | list[int] | None) -> int | None:
    """One id; of several ends the first."""
    return (found[0] if found else None) if isinstance(found, list) else found


def vocabulary_of(tokenizer: Any, module: nn.Module) -> Vocabulary:
    """The tokenizer's, or what the model's configuration says where there is no tokenizer.

    Raises:
        ModelError: an encoder-decoder that does not say what its decoder reads first.
    """
    outer: Any = headed_model(module)
    ends = getattr(tokenizer, "eos_token_id", None), getattr(outer.config, "eos_token_id", None)
    start, end = _start(outer), _single(ends[1] if ends[0] is None else ends[0])
    pad = getattr(outer.config, "pad_token_id", None)
    if tokenizer is not None:
        # Who is none of transformers says nothing of it.
        before, behind = frame_of(tokenizer) if hasattr(tokenizer, "num_special_tokens_to_add") else ((), ())
        return Vocabulary(
            size=len(tokenizer),
            rows=vocabulary_rows(outer),
            special_ids=tuple(sorted(set(map(int, tokenizer.all_special_ids)))),
            mask_id=getattr(tokenizer, "mask_token_id", None),
            before=before,
            behind=behind,
            start_id=start,
            end_id=end,
            pad_id=pad,
        )
    found = {name: getattr(outer.config, f"{name}_token_id", None) for name in _SPECIAL}
    ids = [each for value in found.values() for each in (value if isinstance(value, list) else [value])]
    return Vocabulary(
        size=vocabulary_rows(outer),
        rows=vocabulary_rows(outer),
        special_ids=tuple(sorted({int(each) for each in ids if each is not None})),
        mask_id=found["mask"],
        start_id=start,
        end_id=end,
        pad_id=pad,
    )

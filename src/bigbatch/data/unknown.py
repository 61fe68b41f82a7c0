"""Text that a tokenizer does not know: unknown tokens, and characters that it takes to pieces.

A vocabulary of another language turns whole words into one unknown token, or, where it falls back on bytes, characters
into two or three. The run goes on, and learns little: so it is said before it begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np

WORTH_SAYING_UNKNOWN, WORTH_SAYING_PIECES = 0.01, 0.1
"""Shares of the tokens from which on it is said."""
_BLOCK_TOKENS = 1 << 22
_LOOKED_AT = 2_000
"""Distinct tokens that are asked whether they are pieces of a character, the most frequent ones."""
_BYTES_ALONE = 1_000
"""A vocabulary that is smaller may be made of bytes on purpose."""
_PLAIN = frozenset(map(chr, range(128))) | {"Ġ", "Ċ", "▁"}
_REMEDY = "take a model made for this language or kind of text (model, model.tokenizer)"


def unknown_note(split: str, ids: np.ndarray, tokenizer: Any) -> str | None:
    """What to say of a split's tokens; None where there is nothing to say.

    Args:
        split: its name.
        ids: of all its tokens, (T,).
        tokenizer: a Hugging Face tokenizer, or None.
    """
    if tokenizer is None or not len(ids):
        return None
    counts_V = _counts(ids)
    unknown = _unknown_id(tokenizer)
    marks = [each for each in getattr(tokenizer, "all_special_ids", ()) if each != unknown]
    counts_V[[each for each in marks if 0 <= each < len(counts_V)]] = 0
    tokens = int(counts_V.sum())
    if not tokens:
        return None
    share = float(counts_V[unknown]) / tokens if unknown is not None and unknown < len(counts_V) else 0.0
    if share >= WORTH_SAYING_UNKNOWN:
        return (
            f"{split}: {_percent(share)} of the tokens are unknown to this tokenizer ({tokenizer.unk_token}): "
            f"what they say is lost; {_REMEDY}"
        )
    share = _pieces(counts_V, tokenizer) / tokens
    if share >= WORTH_SAYING_PIECES:
        return (
            f"{split}: {_percent(share)} of the tokens are pieces of characters: this tokenizer hardly knows the "
            f"script, so texts get long and their words are hard to learn; {_REMEDY}"
        )
    return None


def _counts(ids: np.ndarray) -> np.ndarray:
    """How often each token occurs; in blocks, since `ids` may be a file."""
    counts_V = np.zeros(0, np.int64)
    for start in range(0, len(ids), _BLOCK_TOKENS):
        found = np.bincount(ids[start : start + _BLOCK_TOKENS], minlength=len(counts_V))
        found[: len(counts_V)] += counts_V
        counts_V = found
    return counts_V


def _unknown_id(tokenizer: Any) -> int | None:
    """Of the token that says nothing but that text was unknown; in some tokenizers another mark has its place."""
    found = getattr(tokenizer, "unk_token_id", None)
    others = [
        getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "cls", "sep", "mask")
    ]
    return None if found in others else found


def _pieces(counts_V: np.ndarray, tokenizer: Any) -> int:
    """Tokens, of the most frequent kinds, that are no whole characters."""
    if len(tokenizer) < _BYTES_ALONE:
        return 0
    seen = np.flatnonzero(counts_V)
    names = tokenizer.convert_ids_to_tokens(seen.tolist())
    foreign = [
        int(each)
        for each, name in zip(seen, names, strict=True)
        if name and (not _PLAIN.issuperset(name) or name.startswith("<0x"))
    ]
    foreign.sort(key=lambda each: -counts_V[each])
    return sum(
        int(counts_V[each])
        for each in foreign[:_LOOKED_AT]
        if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([each])
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"

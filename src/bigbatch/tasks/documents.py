"""Texts as tokens that know what they are: special or not, which word they belong to, which bytes they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigbatch.protocols import Row, Tokenizer
from bigbatch.tasks.inputs import NoTokens, encode_texts, is_tokenised, tokenised_inputs


@dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """One text, or one row of token ids."""

    ids: np.ndarray
    """(length,) int32, special tokens included."""
    segments: np.ndarray | None
    """(length,) int8, or None."""
    words: np.ndarray | None = None
    """(length,) int64: number of the word that each token is a piece of, -1 for special tokens; None where the
    tokenizer does not say."""
    bytes: np.ndarray | None = None
    """(length,) int64: UTF-8 bytes of the text from the end of the token before to the end of this one, so that they
    sum to the text up to its last token; None where the tokenizer does not say."""
    truncated: bool = False


def encode_documents(
    rows: Sequence[Row], tokenizer: Tokenizer | None, max_length: int | None
) -> list[Document]:
    """Rows (role -> value, or already tokenised) as documents.

    Args:
        rows: with `text`, or with `input_ids`, which are taken as they are.
        tokenizer: a Hugging Face tokenizer; only fast ones know words and bytes.
        max_length: tokens kept of a text; None keeps all.

    Raises:
        DataError: a text without a token.
    """
    given = [tokenised_inputs(row) if is_tokenised(row) else None for row in rows]
    texts = [row["text"] for row, ids in zip(rows, given, strict=True) if ids is None]
    encoded = iter(_encoded_texts(texts, tokenizer, max_length) if texts else [])
    return [
        next(encoded) if found is None else Document(ids=found.ids, segments=found.segments)
        for found in given
    ]


def _encoded_texts(
    texts: Sequence[str], tokenizer: Tokenizer | None, max_length: int | None
) -> list[Document]:
    if not getattr(tokenizer, "is_fast", False):
        inputs = encode_texts(texts, None, tokenizer, max_length)
        return [
            Document(ids=found.ids, segments=found.segments, truncated=found.truncated) for found in inputs
        ]
    assert tokenizer is not None, "texts need a tokenizer"
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    encoded = tokenizer(texts, return_offsets_mapping=True, verbose=False, **cut)
    return [_document(encoded, row, text) for row, text in enumerate(texts)]


def _document(encoded: Any, row: int, text: str) -> Document:
    ids = np.asarray(encoded["input_ids"][row], np.int32)
    if not len(ids):
        what = f"text {text[:40]!r} gives no tokens"
        raise NoTokens(f"{what}; remove the row or use a tokenizer that knows its characters")
    segments = encoded.get("token_type_ids")
    words = encoded.word_ids(row)
    return Document(
        ids=ids,
        segments=None if segments is None else np.asarray(segments[row], np.int8),
        words=np.array([-1 if word is None else word for word in words], np.int64),
        bytes=token_bytes(text, np.asarray(encoded["offset_mapping"][row], np.int64).reshape(-1, 2)),
        truncated=bool(encoded.encodings[row].overflowing),
    )


def token_bytes(text: str, offsets_T2: np.ndarray) -> np.ndarray:
    """Bytes that each token adds: those between the furthest end so far and its own end.

    Tokens that share a character (pieces of an emoji) have the same offsets: the first of them has all its bytes.

    Args:
        text: the text.
        offsets_T2: (T, 2) first and end character of each token; equal for special tokens.

    Returns:
        (T,) int64.
    """
    ends_T = byte_ends(text)[np.where(offsets_T2[:, 1] > offsets_T2[:, 0], offsets_T2[:, 1], 0)]
    return np.diff(np.maximum.accumulate(ends_T), prepend=0)


def byte_ends(text: str) -> np.ndarray:
    """(characters + 1,) int64: bytes of the first 0, 1, 2, … characters in UTF-8."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

"""Rows to token ids: one call of the tokenizer for many rows, which lets fast tokenizers use all cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigbatch.data.texts import hash_of
from bigbatch.errors import DataError
from bigbatch.protocols import Row, Tokenizer
from bigbatch.samples import Sample


class NoTokens(DataError):
    """A row that the tokenizer makes nothing of: no row to learn from, and one to predict nothing for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What the model reads of one row."""

    ids: np.ndarray
    """(length,) int32, special tokens included."""
    segments: np.ndarray | None
    """(length,) int8, or None when the tokenizer has none."""
    truncated: bool = False


def is_tokenised(row: Row) -> bool:
    """Whether the row holds token ids already."""
    return row.get("input_ids") is not None


def tokenised_inputs(row: Row) -> Inputs:
    """Ids and segments of an already tokenised row, as they are; masked positions (padding) are left out."""
    ids = np.asarray(row["input_ids"], np.int32)
    mask, segments = row.get("attention_mask"), row.get("token_type_ids")
    if segments is None and "token_type_ids" in row:
        segments = np.zeros(len(ids), np.int8)  # other rows have some; a model takes none for zeros
    kept = np.ones(len(ids), bool) if mask is None else np.asarray(mask, bool)
    if len(kept) != len(ids) or (segments is not None and len(segments) != len(ids)):
        raise DataError("attention_mask and token_type_ids must be as long as input_ids")
    _check_some(ids[kept], "input_ids with attention_mask 1")
    return Inputs(ids=ids[kept], segments=None if segments is None else np.asarray(segments, np.int8)[kept])


def inputs_of_rows(rows: Sequence[Row], tokenizer: Tokenizer | None, max_length: int | None) -> list[Inputs]:
    """What the model reads of each row: its token ids as they are, its text, or its text and `pair`.

    Each row is read as if it were alone. One without a second text, or with an empty one, is a single text.

    Args:
        rows: role -> value; or token ids.
        tokenizer: None where all rows are token ids.
        max_length: tokens that a text is cut to; None: it is not.
    """
    found: dict[int, Inputs] = {
        number: tokenised_inputs(row) for number, row in enumerate(rows) if is_tokenised(row)
    }
    texts = [number for number in range(len(rows)) if number not in found]
    paired = [number for number in texts if (rows[number].get("pair") or "").strip()]
    single = [number for number in texts if not (rows[number].get("pair") or "").strip()]
    for numbers, second in ((single, False), (paired, True)):
        chosen = [rows[number] for number in numbers]
        pairs = [row["pair"] for row in chosen] if second else None
        encoded = encode_texts([row["text"] for row in chosen], pairs, tokenizer, max_length)
        found.update(zip(numbers, encoded, strict=True))
    return [found[number] for number in range(len(rows))]


def encode_texts(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Tokenizer | None, max_length: int | None
) -> list[Inputs]:
    """Token ids of each text (or text pair), special tokens included, cut to `max_length`.

    Args:
        texts: first texts (B,).
        pairs: second texts (B,), or None.
        tokenizer: a Hugging Face tokenizer, fast or slow.
        max_length: tokens kept; None keeps all.
    """
    if not texts:
        return []
    assert tokenizer is not None, "texts need a tokenizer"
    second = {} if pairs is None else {"text_pair": list(pairs)}
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    encoded = tokenizer(list(texts), **second, **cut)
    segments = encoded.get("token_type_ids")
    truncated = _truncated(encoded, tokenizer, texts, second, max_length)
    found = []
    for row, ids in enumerate(encoded["input_ids"]):
        _check_some(ids, f"text {texts[row][:40]!r}")
        types = None if segments is None else np.asarray(segments[row], np.int8)
        found.append(Inputs(ids=np.asarray(ids, np.int32), segments=types, truncated=truncated[row]))
    return found


def _truncated(
    encoded: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    second: Mapping[str, Any],
    max_length: int | None,
) -> list[bool]:
    """Per row, whether tokens were cut off."""
    lengths = [len(ids) for ids in encoded["input_ids"]]
    if max_length is None:
        return [False] * len(lengths)
    if getattr(encoded, "encodings", None):  # fast tokenizers keep what they cut off
        return [bool(encoding.overflowing) for encoding in encoded.encodings]
    full = tokenizer(list(texts), **second, verbose=False)["input_ids"]
    return [len(ids) > length for ids, length in zip(full, lengths, strict=True)]


def _check_some(ids: Any, what: str) -> None:
    if len(ids) == 0:
        raise NoTokens(f"{what} gives no tokens; remove the row or use a tokenizer that knows its characters")


@dataclass(frozen=True, kw_only=True, eq=False)
class WordInputs:
    """What the model reads of one sentence, and where its words lie in it."""

    inputs: Inputs
    pieces: tuple[tuple[int, ...], ...]
    """Per word, the positions of its tokens in `inputs.ids`; none for one that was cut off or has no tokens."""


def encode_words(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer | None, max_length: int | None
) -> list[WordInputs]:
    """Token ids of sentences that are split into words already, special tokens included, cut to `max_length`.

    Words of tokenizers that mark spaces (GPT-2, Llama) get one in front, the first word too, as Hugging Face's
    `add_prefix_space` has it.

    Args:
        sentences: words of each sentence.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens kept; None keeps all.

    Raises:
        DataError: a sentence without any token, or a tokenizer that cannot say which token belongs to which word.
    """
    if not sentences:
        return []
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} cannot say which token belongs to which word; task tag needs a fast tokenizer"
        )
    assert tokenizer is not None, "words need a tokenizer"
    space = " " if _glues_words(tokenizer) else ""
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    spaced = [[space + word for word in words] for words in sentences]
    encoded = tokenizer(spaced, is_split_into_words=True, **cut)
    segments = encoded.get("token_type_ids")
    found = []
    for row, (words, ids) in enumerate(zip(sentences, encoded["input_ids"], strict=True)):
        _check_some(ids, f"sentence {' '.join(words)[:40]!r}")
        pieces: list[list[int]] = [[] for _ in words]
        for position, word in enumerate(encoded.word_ids(row)):
            if word is not None:
                pieces[word].append(position)
        inputs = Inputs(
            ids=np.asarray(ids, np.int32),
            segments=None if segments is None else np.asarray(segments[row], np.int8),
            truncated=bool(encoded.encodings[row].overflowing),
        )
        found.append(WordInputs(inputs=inputs, pieces=tuple(map(tuple, pieces))))
    return found


def _glues_words(tokenizer: Tokenizer) -> bool:
    """Whether words given one by one lose the space between them, tried on a sentence of two."""

    def second(text: Any, **options: Any) -> int:
        return tokenizer(text, add_special_tokens=False, **options)["input_ids"][-1]

    wanted = second("a a")
    alone = second(["a", "a"], is_split_into_words=True)
    return alone != wanted and second([" a", " a"], is_split_into_words=True) == wanted


def joined(texts: Sequence[tuple[int, Inputs]]) -> Sample:
    """The texts of a row as one sample, in this order: (index of the role, tokens)."""
    lengths_K = np.array([len(inputs.ids) for _, inputs in texts])
    segments = [inputs.segments for _, inputs in texts if inputs.segments is not None]
    return Sample(
        ids=np.concatenate([inputs.ids for _, inputs in texts]),
        segments=np.concatenate(segments) if segments else None,
        # Where a text ends is where its last token lies.
        reads=(lengths_K.cumsum() - 1).astype(np.int32),
        values=np.array([[role, hash_of(inputs.ids)] for role, inputs in texts], np.int64),
        weights=np.ones(len(texts), np.float32),
        truncated=any(inputs.truncated for _, inputs in texts),
    )

"""Texts as bags of n-grams, weighted by TF-IDF.

::

    value = (1 + ln count in the row) (1 + ln (1 + rows) / (1 + rows that have it)), each kind scaled to length 1

Words (1 to 2 of them) and characters (2 to 4) are two kinds, as in the usual pair of vectorisers. A character of a
script without spaces is a word of its own. N-grams are numbered by a hash, so no vocabulary is held.

Shapes: N rows, E entries (distinct n-grams of rows), F features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from bigbatch.run.baseline.sparse import Sparse, beside

_FEW_BITS, _BITS = 20, 22
"""Of the number that an n-gram's hash becomes: with 22 bits and 100,000 distinct ones, one in forty shares its number.
Few bits are quicker where there is little."""
_LITTLE = 20_000
"""Characters or token ids."""
_CHUNK = 200_000
"""Characters, words or token ids that are looked at together: bounds memory."""
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
)
_ALONE += "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
"""Scripts that are written without spaces, and Hangul, whose words carry their particles."""
WORD = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+|[^\\w\\s]")
"""A word, a sign of punctuation, or a character of a script without spaces."""
_CHARACTERS, _WORDS = (2, 3, 4), (1, 2)
_EVERY_NGRAM_BELOW_ROWS = 2000
"""With fewer rows an n-gram that occurs in one of them is kept, too."""
_FOLD = np.uint64(0x9E3779B97F4A7C15)
Stream = tuple[np.ndarray, np.ndarray]
"""Hashed symbols (T,) uint64 of some rows, one behind the other, and how many each row has (N,) int64."""


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: close numbers become unrelated ones."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


# ---------------------------------------------------------------- rows to symbols


def characters(texts: Sequence[str]) -> Stream:
    """Characters in lower case, with one space wherever there was white space, and around each text."""
    shown = [f" {' '.join(text.lower().split())} " for text in texts]
    codes = np.frombuffer("".join(shown).encode("utf-32-le", "surrogatepass"), np.uint32)
    return _mixed(codes.astype(np.uint64) + np.uint64(1)), np.array([len(text) for text in shown], np.int64)


def words(texts: Sequence[str]) -> Stream:
    """Words, signs of punctuation, and characters of scripts without spaces."""
    found = [WORD.findall(text.lower()) for text in texts]
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(word, len(numbers)) for row in found for word in row]
    names = [blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in numbers]
    hashes = np.frombuffer(b"".join(names), "<u8").astype(np.uint64)
    return hashes[np.array(places, np.int64)], np.array([len(row) for row in found], np.int64)


def token_ids(rows: Sequence[np.ndarray]) -> Stream:
    """Token ids, where rows have no text."""
    joined = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.uint64)
    return _mixed(joined + np.uint64(1)), np.array([len(row) for row in rows], np.int64)


# ---------------------------------------------------------------- symbols to entries


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entries:
    """Distinct n-grams of each row, and how often they occur there."""

    buckets_E: np.ndarray
    """int32."""
    counts_E: np.ndarray
    """int32."""
    counts_N: np.ndarray
    """Entries of each row."""


def _entries(stream: Stream, sizes: Sequence[int], bits: int) -> _Entries:
    symbols_T, lengths_N = stream
    mask = np.uint64((1 << bits) - 1)
    row_T = np.repeat(np.arange(len(lengths_N), dtype=np.uint64), lengths_N)
    keys = [np.empty(0, np.uint64)]
    rolling = symbols_T
    for size in range(1, max(sizes) + 1):
        if size > 1:
            rolling = _mixed(rolling[:-1] * _FOLD + symbols_T[size - 1 :])
        if size in sizes and len(rolling):
            within = row_T[: len(rolling)] == row_T[size - 1 :]
            bucket = _mixed(rolling[within] + np.uint64(size)) & mask
            keys.append((row_T[: len(rolling)][within] << np.uint64(bits)) | bucket)
    distinct, counts_E = np.unique(np.concatenate(keys), return_counts=True)
    owners = (distinct >> np.uint64(bits)).astype(np.int64)
    return _Entries(
        buckets_E=(distinct & mask).astype(np.int32),
        counts_E=counts_E.astype(np.int32),
        counts_N=np.bincount(owners, minlength=len(lengths_N)),
    )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of n-gram of one column."""

    read: Callable[[Sequence], Stream]
    sizes: tuple[int, ...]
    bits: int = _BITS

    def of(self, rows: Sequence) -> _Entries:
        """The entries of rows, some at a time."""
        parts = [_entries(self.read(part), self.sizes, self.bits) for part in _chunks(rows)]
        return _Entries(
            buckets_E=np.concatenate([part.buckets_E for part in parts]),
            counts_E=np.concatenate([part.counts_E for part in parts]),
            counts_N=np.concatenate([part.counts_N for part in parts]),
        )


CHARACTERS = Kind(read=characters, sizes=_CHARACTERS)
WORDS = Kind(read=words, sizes=_WORDS)
TOKENS = Kind(read=token_ids, sizes=_WORDS)


def _chunks(rows: Sequence) -> Iterator[Sequence]:
    ends = np.cumsum([len(row) for row in rows])
    first = 0
    while first < len(rows) or first == 0:
        before = ends[first - 1] if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        yield rows[first:end]
        first = end


# ---------------------------------------------------------------- entries to weighted rows


class Weights:
    """Which n-grams of one kind are features, and their inverse document frequencies: learnt from some rows."""

    def __init__(self, kind: Kind, rows: Sequence, *, most: int) -> None:
        """Learn from these rows; `most` features, those that most rows have, are kept."""
        self._kind = kind
        self.learnt_from = kind.of(rows)
        rows_F = np.bincount(self.learnt_from.buckets_E, minlength=1 << kind.bits)
        fewest = 1 if len(rows) < _EVERY_NGRAM_BELOW_ROWS else 2
        if np.count_nonzero(rows_F >= fewest) > most:
            fewest = max(fewest, int(np.partition(rows_F, -most)[-most]) + 1)
        chosen = np.flatnonzero(rows_F >= fewest)
        self._number = np.full(1 << kind.bits, -1, np.int32)
        self._number[chosen] = np.arange(len(chosen), dtype=np.int32)
        self._idf_F = (np.log((1 + len(rows)) / (1 + rows_F[chosen])) + 1).astype(np.float64)
        self.width = len(chosen)

    def weighted(self, rows: Sequence | _Entries) -> Sparse:
        """Rows of length 1; n-grams that were not learnt are left out."""
        entries = rows if isinstance(rows, _Entries) else self._kind.of(rows)
        features_E = self._number[entries.buckets_E]
        known_E = features_E >= 0
        owners_E = np.repeat(np.arange(len(entries.counts_N)), entries.counts_N)[known_E]
        features_E = features_E[known_E]
        values_E = (1 + np.log(entries.counts_E[known_E])) * self._idf_F[features_E]
        lengths_N = np.sqrt(np.bincount(owners_E, values_E**2, len(entries.counts_N)))
        counts_N = np.bincount(owners_E, minlength=len(entries.counts_N))
        return Sparse(
            features=features_E,
            values=(values_E / np.maximum(lengths_N[owners_E], 1e-12)).astype(np.float32),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_N)]),
            width=self.width,
        )


class Bag:
    """The features of rows with several columns, each in several kinds."""

    def __init__(self, columns: Sequence[Sequence], kinds: Sequence[Kind], *, most: int) -> None:
        """Learn from these columns of equal length.

        Args:
            columns: texts, or arrays of token ids.
            kinds: of n-grams.
            most: features in all.
        """
        little = sum(len(row) for column in columns for row in column) < _LITTLE
        share = max(1, most // (len(columns) * len(kinds)))
        self._weights = [
            (number, Weights(replace(kind, bits=_FEW_BITS if little else _BITS), column, most=share))
            for number, column in enumerate(columns)
            for kind in kinds
        ]

    @property
    def learnt_from(self) -> Sparse:
        """The rows that it was learnt from."""
        return beside([weights.weighted(weights.learnt_from) for _, weights in self._weights])

    def __call__(self, columns: Sequence[Sequence]) -> Sparse:
        """Other rows of the same columns."""
        return beside([weights.weighted(columns[number]) for number, weights in self._weights])

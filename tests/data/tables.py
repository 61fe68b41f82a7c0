"""Small tables, tokenisers and tasks for the tests of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.protocols import Role
from bigbatch.samples import Sample, Table

SINGLE = {"text": Role(meaning="the text"), "label": Role(meaning="the class", kind="label")}
PAIRED = {
    "text": Role(meaning="the text"),
    "pair": Role(meaning="a second text", required=False),
    "label": Role(meaning="the class", kind="label"),
}
MULTI = {"text": Role(meaning="the text"), "label": Role(meaning="the labels", kind="labels")}
REGRESSION = {"text": Role(meaning="the text"), "label": Role(meaning="the number", kind="number")}


def read(data: Any, roles: Mapping[str, Role] = SINGLE, base: Path = Path(), **more: Any) -> DataTable:
    return read_table(data, base=base, columns=more.pop("columns", {}), roles=roles, **more)


@dataclass
class LetterTask:
    """Letters are tokens; one unit a word, read at its first letter; counts its calls."""

    max_length: int | None = None
    calls: list[Any] = field(default_factory=list, metadata={"option": False})

    def encode(self, row: Mapping[str, Any], tokenizer: Any) -> Sample:
        self.calls.append(row)
        ids = np.array([tokenizer.start, *map(ord, row["text"])], np.int32)
        cut = len(ids) if self.max_length is None else self.max_length
        words = row["text"].split()
        return Sample(
            ids=ids[:cut],
            segments=np.arange(len(ids[:cut]), dtype=np.int8) % 2,
            reads=np.arange(len(words), dtype=np.int32) % len(ids[:cut]),
            values=np.array([len(word) for word in words], np.int64),
            weights=np.array([1 + len(word) for word in words], np.float32),
            extras={"position": np.arange(len(words), dtype=np.float32)},
            truncated=len(ids) > cut,
        )


@dataclass
class Letters:
    """A tokenizer with a vocabulary, as far as the cache's key looks at it."""

    start: int = 1

    def get_vocab(self) -> dict[str, int]:
        return {"start": self.start}


def token_rows(lengths: Sequence[int], units: Sequence[int] | None = None) -> Table:
    """A table whose token ids, targets and weights name their sample: sample s has the ids 1000 s, 1000 s + 1, …"""
    units = [1] * len(lengths) if units is None else units
    return Table.of_tokens(
        ids=np.concatenate([1000 * s + np.arange(n) for s, n in enumerate(lengths)] or [[]]).astype(np.int32),
        token_offsets=np.cumsum([0, *lengths]).astype(np.int64),
        segments=None,
        reads=np.concatenate([np.arange(u) % n for n, u in zip(lengths, units, strict=True)] or [[]]).astype(
            np.int32
        ),
        unit_offsets=np.cumsum([0, *units]).astype(np.int64),
        values=np.repeat(np.arange(len(lengths)), units).astype(np.int64),
        weights=np.arange(1, sum(units) + 1).astype(np.float32),
        extras={"unit": np.arange(sum(units)).astype(np.float32)},
    )

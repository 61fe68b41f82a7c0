"""DataTable: rows with a column per role, that know which file and row they came from."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from bigbatch.data.fingerprint import content_digest
from bigbatch.data.published import Index

TOKENISED_COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "labels")
"""Columns of rows that were tokenised before they came here."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataTable:
    """A split before tokenising."""

    rows: pa.Table
    """A column per role, and `id` if the source has one; or some of `TOKENISED_COLUMNS`."""
    origin: tuple[tuple[str, int], ...] = ()
    """(file or name of the source, first of its rows in `rows`), in order."""
    numbers: np.ndarray | None = None
    """(rows,) int64 number of each row in its source, as an editor or a spreadsheet shows it: from 1, a header
    counts. None: 1, 2, 3, … within each source."""
    warnings: tuple[str, ...] = ()
    tokenised: bool = False
    """Whether the rows are token ids already."""
    classes: tuple[str, ...] | None = None
    """All class names in the order that the source declares (`ClassLabel`, an ordered Categorical, places of multi-hot
    lists); None where it declares none."""
    multi_hot: bool = False
    """Whether labels came as lists of zeros and ones: `classes` are their places, "0", "1", …"""

    sources: tuple[int, ...] = ()
    """First row of each part that the order tells apart, in order: source of a mixture by share, or shard; empty: there
    is none."""
    digest: str = ""
    """`content_digest` where it was known before; empty: it is computed."""
    digests: tuple[str, ...] = ()
    """Of each of `sources`, where they are shards."""
    stream: Index | None = None
    """Where its samples are streamed from: then there are as many rows, and nothing in them. None: they are here."""
    files: bool = False
    """Whether every row is a file of a folder, and `id` its name there."""

    def __len__(self) -> int:
        return self.rows.num_rows

    @cached_property
    def content_digest(self) -> str:
        """Hash of the rows, computed once: the run's identity and the token cache both ask for it."""
        return self.digest or content_digest(self.rows)

    @property
    def has_class_ids(self) -> bool:
        """Whether labels are class ids, as rows of token ids have them, and not names."""
        if not self.tokenised or "labels" not in self.rows.column_names:
            return self.tokenised
        return not pa.types.is_large_string(innermost(self.rows.schema.field("labels").type))

    def where(self, row: int) -> str:
        """`tweets.csv:812`: the source of a row and its number there; `folder/pos/7.txt` of a row that is a file."""
        if not self.origin:
            return f"row {int(self.row_numbers[row])}"
        name, _ = self.origin[bisect.bisect_right([first for _, first in self.origin], row) - 1]
        if self.files:
            return f"{name}/{self.rows.column('id')[row].as_py()}"
        return f"{name}:{int(self.row_numbers[row])}"

    @property
    def row_numbers(self) -> np.ndarray:
        """(rows,) int64: `numbers`, counted when they were not given."""
        if self.numbers is not None:
            return self.numbers
        firsts = [first for _, first in self.origin] or [0]
        return np.arange(1, len(self) + 1) - np.repeat(firsts, np.diff([*firsts, len(self)]))

    def take(self, rows_B: np.ndarray) -> DataTable:
        """These rows, in ascending order, so that they still know where they came from."""
        assert len(rows_B) < 2 or bool(np.all(np.diff(rows_B) > 0)), "rows are taken in ascending order"
        return replace(
            self,
            rows=self.rows.take(_numbers(rows_B)),
            origin=tuple((name, int(np.searchsorted(rows_B, first))) for name, first in self.origin),
            numbers=self.row_numbers[rows_B],
            digest="",
            digests=(),
            sources=tuple(int(np.searchsorted(rows_B, first)) for first in self.sources),
        )

    def shard(self, number: int) -> DataTable:
        """The rows of one of its `sources`; nothing is copied."""
        first, end = [*self.sources, len(self)][number : number + 2]
        return replace(
            self,
            rows=self.rows.slice(first, end - first),
            origin=((self.origin[bisect.bisect_right([at for _, at in self.origin], first) - 1][0], 0),),
            numbers=self.row_numbers[first:end],
            sources=(),
            digest=self.digests[number] if self.digests else "",
        )

    def iterate(self, rows_per_chunk: int) -> Iterator[list[dict[str, Any]]]:
        """Rows as dictionaries, some at a time."""
        for first in range(0, len(self), rows_per_chunk):
            yield self.rows.slice(first, rows_per_chunk).to_pylist()


def _numbers(values: np.ndarray) -> pa.Array:
    """As Arrow has them; `pa.array` would load pandas, where that is installed, which takes half a second."""
    found = np.ascontiguousarray(values, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(found), [None, pa.py_buffer(found)])


def innermost(kind: pa.DataType) -> pa.DataType:
    """The type of what lists of lists hold in the end."""
    while pa.types.is_nested(kind) and hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind


def from_rows(rows: list[Mapping[str, Any]], name: str = "rows") -> DataTable:
    """A table from dictionaries that have a column per role already."""
    return DataTable(rows=pa.Table.from_pylist([dict(row) for row in rows]), origin=((name, 0),))

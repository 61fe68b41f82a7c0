"""Rows of token ids that were made elsewhere: what they must fit, and the padding that they may bring along.

Ids without an `attention_mask` do not say which of them are padding. Those at either end of a row that are the model's
pad id are: they are left out, as if the mask had said so. Where the pad id has a second meaning (GPT-2's end mark is
often made its padding too), one of them stays at that end.

Shapes: B rows, T tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
from torch import nn

from bigbatch.data.tables import DataTable
from bigbatch.data.token_rows import first_above
from bigbatch.errors import DataError, Problem
from bigbatch.model.anatomy import headed_model, vocabulary_rows
from bigbatch.model.load import pad_id
from bigbatch.protocols import Row
from bigbatch.samples import Table, starts_of

_FIRST, _LAST = ("bos", "cls"), ("eos", "sep")
"""Marks that a row may really begin and end with."""


@dataclass(frozen=True, kw_only=True)
class GivenTokens:
    """What a model takes of token ids that it did not make."""

    rows: int
    """Of its embedding: ids are below."""
    longest: int | None
    """Tokens of a sample at most."""
    segments: int | None = None
    """Token types that it knows: ids of theirs are below. None: it takes none, and is given none."""
    pad_id: int | None
    """None: nothing can be told to be padding."""
    keeps_first: bool = False
    """Whether a row may really begin with the pad id."""
    keeps_last: bool = False
    """Whether it may end with it."""

    def masks(self, ids_T: np.ndarray, lengths_B: np.ndarray) -> np.ndarray:
        """(T,) bool: False for the padding at either end of each row; rows lie one behind the other."""
        real_T = np.ones(len(ids_T), bool) if self.pad_id is None else ids_T != self.pad_id
        filled_B = lengths_B > 0
        if real_T.all() or not filled_B.any():
            return np.ones(len(ids_T), bool)
        starts_B = starts_of(lengths_B)[filled_B]
        place_T = np.arange(len(ids_T)) - np.repeat(starts_B, lengths_B[filled_B])
        most = int(lengths_B.max())
        first_B = np.minimum.reduceat(np.where(real_T, place_T, most), starts_B) - self.keeps_first
        last_B = np.maximum.reduceat(np.where(real_T, place_T, -1), starts_B) + self.keeps_last
        first_T, last_T = (np.repeat(each, lengths_B[filled_B]) for each in (first_B, last_B))
        return (place_T >= first_T) & (place_T <= last_T)

    def table(self, table: DataTable) -> tuple[DataTable, int]:
        """The rows with an `attention_mask` where they come without one and have padding; how many these are."""
        self._check_known(table)
        given = table.rows.column("attention_mask") if "attention_mask" in table.rows.column_names else None
        if "input_ids" not in table.rows.column_names or (given is not None and not given.null_count):
            return table, 0
        lists = table.rows.column("input_ids")
        lengths_B = _call("list_value_length", lists).fill_null(0).to_numpy().astype(np.int64)
        mask_T = self.masks(_call("list_flatten", lists).to_numpy(), lengths_B)
        rows_T = np.repeat(np.arange(len(lengths_B)), lengths_B)
        missing_B = np.ones(len(table), bool) if given is None else given.is_null().to_numpy()
        padded_B = missing_B & (np.bincount(rows_T[~mask_T], minlength=len(table)) > 0)
        if not padded_B.any():
            return table, 0
        offsets = np.concatenate([[0], np.cumsum(lengths_B)])
        found: Any = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(mask_T.astype(np.int64)))
        if given is None:
            return replace(table, rows=table.rows.append_column("attention_mask", found)), int(padded_B.sum())
        merged = [
            own if own is not None else new
            for own, new in zip(given.to_pylist(), found.to_pylist(), strict=True)
        ]
        place = table.rows.column_names.index("attention_mask")
        rows = table.rows.set_column(place, "attention_mask", pa.array(merged, pa.large_list(pa.int64())))
        return replace(table, rows=rows), int(padded_B.sum())

    def _check_known(self, table: DataTable) -> None:
        for key, known in (("input_ids", self.rows), ("token_type_ids", self.segments)):
            if not table.tokenised or known is None or key not in table.rows.column_names:
                continue
            found = first_above(table.rows.column(key), known - 1)
            if found is not None:
                where, what = table.where(found[0]), unknown_id(key, found[1], known)
                raise DataError([Problem(where=where, key=key, what=what)])

    def row(self, row: Row) -> Row:
        """One row, as `table` has it."""
        if row.get("input_ids") is None or row.get("attention_mask") is not None:
            return row
        ids_T = np.asarray(row["input_ids"])
        mask_T = self.masks(ids_T, np.array([len(ids_T)]))
        return row if mask_T.all() else {**row, "attention_mask": mask_T.astype(np.int64).tolist()}

    def check_table(self, table: Table, where: str) -> None:
        """Refuse what the model has no embedding or position for in any text of a table.

        Args:
            table: of one split.
            where: its file or name, for messages.

        Raises:
            DataError: naming the largest id or the longest text.
        """
        for stream in table.texts.values():
            self.check(stream.load().columns["ids"], int(stream.lengths.max(initial=0)), where)

    def check(
        self, ids_T: np.ndarray, longest: int, where: str, segments_T: np.ndarray | None = None
    ) -> None:
        """Refuse ids that the model has no embedding or position for.

        Args:
            ids_T: of any number of samples.
            longest: tokens of the longest of them.
            where: file or row, for messages.
            segments_T: their token types, if they have such.

        Raises:
            DataError: naming the largest or longest.
        """
        largest, key, what = int(ids_T.max(initial=0)), "input_ids", ""
        segment = -1 if segments_T is None else int(segments_T.max(initial=0))
        if largest >= self.rows:
            what = unknown_id(key, largest, self.rows)
        elif self.segments is not None and segment >= self.segments:
            key = "token_type_ids"
            what = unknown_id(key, segment, self.segments)
        elif self.longest is not None and longest > self.longest:
            what = f"{longest} tokens, but max_length is {self.longest}; token ids are not cut here: cut the rows"
        if what:
            raise DataError([Problem(where=where, key=key, what=what)])


def unknown_id(key: str, found: int, known: int) -> str:
    """What is said of an id without a row in the embedding.

    Args:
        key: the column: `input_ids`, or `token_type_ids`.
        found: the id.
        known: rows of the embedding.
    """
    what = {"input_ids": "token id"}.get(key, "token type")
    return f"found {what} {found}, but the model's embedding has {known} rows; use the model's own tokenizer"


def _call(function: str, lists: Any) -> Any:
    return compute.call_function(function, [lists])


def given_tokens(module: nn.Module, tokenizer: Any, longest: int | None) -> GivenTokens:
    """What this model takes; its configuration, else its tokenizer, says what the marks are.

    Args:
        module: the model.
        tokenizer: None when it has none.
        longest: tokens of a sample at most.
    """
    outer: Any = headed_model(module)
    pad = pad_id(module, tokenizer)

    def is_pad(marks: Sequence[str]) -> bool:
        found = [
            getattr(holder, f"{mark}_token_id", None)
            for holder in (outer.config, tokenizer)
            for mark in marks
        ]
        return pad is not None and any(
            pad in each if isinstance(each, list) else pad == each for each in found
        )

    return GivenTokens(
        rows=vocabulary_rows(outer),
        segments=getattr(outer.config, "type_vocab_size", None) or None,
        longest=longest,
        pad_id=pad,
        keeps_first=is_pad(_FIRST),
        keeps_last=is_pad(_LAST),
    )

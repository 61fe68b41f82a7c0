"""Candidates of a query: rows of one each -> a row a query -> samples of one sequence each that stay together.

    q1  a  1           q1  [a, b, c]  [1, 0, 0]          (q1, a) (q1, b) (q1, c)     one group: its loss is one
    q1  b  0     ->                                ->
    q1  c  0

The token cache keeps the sequences of a query one behind the other; a unit says where each begins.

Shapes: B queries, S sequences (one unit each) of these.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigbatch.data.sources import is_empty_text
from bigbatch.data.tables import DataTable
from bigbatch.errors import Problem
from bigbatch.files.problems import data_error
from bigbatch.samples import TOKENS, UNITS, Stream, Table, flat_indexes, offsets_of

QUERY, CANDIDATE, LABEL, GROUP = "query", "candidate", "label", "group"
RELEVANCE, LIST = 0, 1
"""Columns of a unit's values (S, 2) float64: how relevant it is, and the number of its query in that table."""


def gathered(table: DataTable) -> DataTable:
    """Rows of a candidate each as a row a query, in the order of their first rows.

    Rows of the same `group` belong together; without such a column rows of the same query do. A row that has several
    candidates has a number for each of them, or one: which of them is right, from 0.

    Args:
        table: rows with `query`, `candidate` and `label`; rows of token ids stay.

    Raises:
        DataError: rows that lack something, or whose labels do not fit their candidates.
    """
    if table.tokenised:
        return table
    _check(table)
    sizes_N = _sizes(table, CANDIDATE)
    labels = _whole(table, LABEL).to_pylist()
    labels = [
        _fitting(own, size, table, row) for row, (own, size) in enumerate(zip(labels, sizes_N, strict=True))
    ]
    key = GROUP if GROUP in table.rows.column_names else QUERY
    codes = _whole(table, key).dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.argsort(codes, kind="stable")
    first_G = order[np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 1))]
    counts_G = np.bincount(codes, sizes_N, len(first_G)).astype(np.int64)
    offsets = pa.array(offsets_of(counts_G))
    numbers = np.array([value for row in order.tolist() for value in labels[row]], np.float64)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        QUERY: table.rows.column(QUERY).take(pa.array(first_G)),
        CANDIDATE: pa.LargeListArray.from_arrays(
            offsets, _whole(table, CANDIDATE).take(pa.array(order)).flatten()
        ),
        LABEL: pa.LargeListArray.from_arrays(offsets, pa.array(numbers)),
    }
    if "id" in table.rows.column_names:
        columns["id"] = table.rows.column("id").take(pa.array(first_G))
    return replace(
        table,
        rows=pa.table(columns),
        origin=tuple((name, int(np.searchsorted(first_G, first))) for name, first in table.origin),
        sources=tuple(np.searchsorted(first_G, table.sources).tolist()),
        numbers=table.row_numbers[first_G],
        digest="",
    )


def _check(table: DataTable) -> None:
    found = [
        (int(row), role)
        for role in (QUERY, CANDIDATE, GROUP)
        if role in table.rows.column_names
        for row in np.flatnonzero(is_empty_text(table.rows.column(role)))
    ]
    found += [(int(row), LABEL) for row in np.flatnonzero(_whole(table, LABEL).is_null())]
    problems = [
        Problem(where=table.where(row), key=role, what=f"no {role}; remove the row")
        for row, role in sorted(found)
    ]
    if problems:
        raise data_error(problems)


def _fitting(labels: list[float], candidates: int, table: DataTable, row: int) -> list[float]:
    """A number for each candidate of a row.

    Raises:
        DataError: there are neither as many, nor the place of one; a number below 0.
    """
    what = ""
    if len(labels) == 1 and candidates > 1:
        place = labels[0]
        if place in range(candidates):
            return [float(number == place) for number in range(candidates)]
        what = f"found {place:g}; expected the place of the right one of {candidates} candidates, from 0"
    elif len(labels) != candidates:
        what = f"found {len(labels)} numbers for {candidates} candidates; expected one each"
    elif min(labels) < 0:
        what = f"found {min(labels):g}; expected how relevant the candidate is, from 0"
    if what:
        raise data_error([Problem(where=table.where(row), key=LABEL, what=what)])
    return labels


def _sizes(table: DataTable, name: str) -> np.ndarray:
    """(N,) int64 entries of each row's list."""
    found = pc.call_function("list_value_length", [_whole(table, name)])
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def _whole(table: DataTable, name: str) -> pa.Array:
    return pa.concat_arrays(table.rows.column(name).chunks)


def list_table(table: Table, rows_B: np.ndarray, *, last: bool) -> Table:
    """The sequences of some queries, each as a sample, query after query.

    Args:
        table: queries; a unit is at the first token of each of their sequences, `values` are relevances (U,).
        rows_B: (B,) row numbers, repeats allowed.
        last: whether a sequence is read at its last token; else at its first.
    """
    tokens, units = table[TOKENS].load(), table[UNITS].load()
    tokens_T, lengths_B = flat_indexes(tokens.offsets, rows_B)
    units_S, counts_B = flat_indexes(units.offsets, rows_B)
    owner_S = np.repeat(np.arange(len(rows_B), dtype=np.int64), counts_B)
    columns = {name: column[units_S] for name, column in units.columns.items()}
    starts_S = offsets_of(lengths_B)[owner_S] + columns["at"]
    lengths_S = np.diff(np.append(starts_S, len(tokens_T)))
    columns["at"] = (lengths_S - 1 if last else np.zeros_like(lengths_S)).astype(np.int32)
    columns["values"] = np.column_stack([columns["values"].astype(np.float64), owner_S.astype(np.float64)])
    return replace(
        table,
        streams={
            TOKENS: replace(
                tokens,
                columns={name: column[tokens_T] for name, column in tokens.columns.items()},
                offsets=offsets_of(lengths_S),
            ),
            UNITS: Stream(columns=columns, offsets=np.arange(len(owner_S) + 1, dtype=np.int64)),
        },
        groups=owner_S,
    )

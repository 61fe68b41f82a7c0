"""Rows that may be trained on and are hardly meant, counted with the first of them: a target that repeats its source,
answers that are the same, a conversation in which nobody answers, a candidate that is there twice.

What is looked at follows from the roles of a task (`Role.unlike`, and its kind), so that a task of the user's own is
looked at in the same way. Nothing here refuses anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigbatch.data.tables import DataTable
from bigbatch.protocols import Role

SHOWN = 3
_ASSISTANT = '"role": "assistant"'
_BLANK = r'"content": "(\s|\\[nrtfbv])*"'
_CALLS = ("tool_calls", "function_call")
_SIDES = ("prompt", "chosen", "rejected")


def suspicious_rows(
    train: DataTable, others: Mapping[str, DataTable], roles: Mapping[str, Role], *, doubles: bool = True
) -> list[str]:
    """What may be wrong with rows that can be trained on, a sentence for each kind and split.

    Args:
        train: the training rows.
        others: split name -> rows.
        roles: what the task reads.
        doubles: whether rows are compared with each other, for which memory holds them all.
    """
    found = []
    for split, table in {"train": train, **others}.items():
        for rows, what in _within(table, roles):
            if len(rows):
                found.append(
                    f"{split}: {len(rows):,} of {len(table):,} rows {what}; {first_rows(table, rows)}"
                )
    if doubles:
        found += [*_turned(train), *_asked_before(train, others, roles)]
    return found


def first_rows(table: DataTable, rows: Iterable[int]) -> str:
    """`the first: tweets.csv:12, tweets.csv:80, tweets.csv:81`.

    Args:
        table: knows where its rows are from.
        rows: numbers of rows, in order.
    """
    places = [table.where(int(row)) for row in list(rows)[:SHOWN]]
    return f"the first: {', '.join(places)}"


def _within(table: DataTable, roles: Mapping[str, Role]) -> Iterator[tuple[np.ndarray, str]]:
    """(rows, what is odd about them) of one split."""
    there = {role: about for role, about in roles.items() if role in table.rows.column_names}
    for role, about in there.items():
        if about.unlike in there:
            yield _equal(table, about.unlike, role), f"have the same {about.unlike} and {role}"
        if about.kind == "messages":
            yield from _talks(table.rows.column(role))
        if about.kind == "items" and "grades" in {other.kind for other in there.values()}:
            yield _twice(table.rows.column(role)), f"have the same {role} more than once"


# ---------------------------------------------------------------- one row at a time


def _equal(table: DataTable, first: str, second: str) -> np.ndarray:
    """Rows in which two columns say the same, but for white space around it; of a list, any of it."""
    one, other = (table.rows.column(role).combine_chunks() for role in (first, second))
    if _is_list(one.type):  # token ids
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([row for row, (a, b) in enumerate(pairs) if a is not None and a == b], np.int64)
    if not _is_list(other.type):
        return np.flatnonzero(_same(one, other))
    owners = pc.call_function("list_parent_indices", [other])
    same_E = _same(one.take(owners), pc.call_function("list_flatten", [other]))
    return np.unique(owners.to_numpy(zero_copy_only=False)[same_E])


def _same(one: pa.Array, other: pa.Array) -> np.ndarray:
    if not (_is_text(one.type) and _is_text(other.type)):
        return np.zeros(len(one), bool)
    trimmed = [
        pc.call_function("utf8_trim_whitespace", [each.cast(pa.large_string())]) for each in (one, other)
    ]
    empty = pc.call_function("equal", [trimmed[0], pa.scalar("", pa.large_string())])
    alike = pc.call_function("equal", trimmed)
    same = pc.call_function("and_not", [alike, empty])
    return same.fill_null(False).to_numpy(zero_copy_only=False).astype(bool)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _twice(column: pa.ChunkedArray) -> np.ndarray:
    """Rows whose list holds something more than once."""
    values = column.combine_chunks()
    if not _is_list(values.type):
        return np.empty(0, np.int64)
    owners = pc.call_function("list_parent_indices", [values]).to_numpy(zero_copy_only=False)
    flat = pc.call_function("list_flatten", [values])
    codes = flat.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    pairs, counts = np.unique(np.stack([owners.astype(np.int64), codes]), axis=1, return_counts=True)
    return np.unique(pairs[0][(counts > 1) & (pairs[1] >= 0)])


def _talks(column: pa.ChunkedArray) -> Iterator[tuple[np.ndarray, str]]:
    """Conversations (`turns`) without an answer, or with an empty one."""
    if not _is_text(column.type):
        return
    answered = pc.call_function("match_substring", [column], pc.MatchSubstringOptions(_ASSISTANT))
    yield (
        np.flatnonzero(~answered.fill_null(True).to_numpy().astype(bool)),
        "have no turn of the assistant, and nothing is learnt of them",
    )
    blank = pc.call_function("match_substring_regex", [column], pc.MatchSubstringOptions(_BLANK))
    maybe = np.flatnonzero(blank.fill_null(False).to_numpy().astype(bool))
    empty = [row for row in maybe.tolist() if _says_nothing(json.loads(column[row].as_py())["messages"])]
    yield (
        np.array(empty, np.int64),
        "have an answer of the assistant that is empty: the model learns to say nothing",
    )


def _says_nothing(turns: list[dict[str, object]]) -> bool:
    return any(
        turn.get("role") == "assistant"
        and not str(turn.get("content") or "").strip()
        and not any(turn.get(name) for name in _CALLS)
        for turn in turns
    )


# ---------------------------------------------------------------- rows beside others


def _turned(train: DataTable) -> list[str]:
    """Preferences that are there the other way round, too."""
    if not {*_SIDES} <= {*train.rows.column_names}:
        return []
    rows = _rows_of(train, _SIDES)
    known = set(rows)
    turned = [
        row for row, (asked, better, worse) in enumerate(rows)
        if better != worse and (asked, worse, better) in known
    ]  # fmt: skip
    if not turned:
        return []
    what = "prefer an answer to one that others prefer to it"
    return [f"train: {len(turned):,} of {len(train):,} rows {what}; {first_rows(train, turned)}"]


def _asked_before(
    train: DataTable, others: Mapping[str, DataTable], roles: Mapping[str, Role]
) -> Iterator[str]:
    """Rows of a split whose source training has with another target, which comparing whole rows does not see."""
    target = next(
        (role for role, about in roles.items() if about.unlike and about.absent_when_predicting), ""
    )
    source = roles[target].unlike if target else ""
    if source not in roles or roles[source].absent_when_predicting:
        return
    both = {split: table for split, table in others.items() if {source, target} <= {*table.rows.column_names}}
    if not both or not {source, target} <= {*train.rows.column_names}:
        return
    whole = set(_rows_of(train, (source, target)))
    sources = {pair[0] for pair in whole}
    for split, table in both.items():
        asked = _rows_of(table, (source, target))
        rows = [row for row, pair in enumerate(asked) if pair[0] in sources and pair not in whole]
        if rows:
            what = f"have a {source} that train has with another {target}"
            yield f"{split}: {len(rows):,} of {len(table):,} rows {what}; {first_rows(table, rows)}"


def _rows_of(table: DataTable, names: Iterable[str]) -> list[tuple[object, ...]]:
    """What stands in these columns, a row each."""
    return list(zip(*(map(_plain, table.rows.column(name).to_pylist()) for name in names), strict=True))


def _plain(value: object) -> object:
    """What can be looked up."""
    return tuple(value) if isinstance(value, list) else value

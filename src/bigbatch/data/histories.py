"""Events of users -> a row a user: the items that they had, in the order of time, and how many of these are known.

    train        a: 5 7 2              a row: 5 7 2          each item but the first is predicted
    validation   a: 9                  a row: 5 7 2 9        known 3: only 9 is, from what stands in front of it
    test         a: 4                  a row: 5 7 2 9 4      known 4

What earlier splits hold of a user is their history in later ones. Without a time the order is that of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigbatch.data.sources import is_empty_text
from bigbatch.data.split import stratified_share
from bigbatch.data.tables import DataTable
from bigbatch.errors import Problem
from bigbatch.files.problems import data_error, one_error
from bigbatch.protocols import Row

USER, ITEM, TIME, TITLE = "user", "item", "time", "title"
KNOWN = "known"
"""Column of how many of a row's items stand in front of the first one that is to be predicted."""


def last_events(table: DataTable, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Events divided into training and validation: the last round(share x events) of each user are held out.

    Where every user is one row (a list of items) users are held out instead.

    Args:
        table: events.
        share: above 0 and below 1.
        seed: `seed.data`, by which users are drawn.

    Returns:
        Row numbers of training and of validation, int64, each ascending.

    Raises:
        DataError: the share leaves nothing to validate on.
    """
    users_N = _users([table])
    counts = np.bincount(users_N)
    if counts.max(initial=0) <= 1:
        return stratified_share(table, share, seed, None)
    order = np.lexsort((np.arange(len(table)), _times([table]), users_N))
    ends = np.cumsum(counts)
    from_end = np.repeat(ends, counts) - 1 - np.arange(len(table))
    held = np.zeros(len(table), bool)
    held[order] = from_end < np.floor(share * counts + 0.5).repeat(counts)
    if not held.any():
        what = f"a share of {share:g} of each user's events leaves none to validate on; name a file instead"
        raise one_error("", "data.validation", what)
    return np.flatnonzero(~held), np.flatnonzero(held)


def with_histories(
    train: DataTable, validation: Mapping[str, DataTable], test: DataTable | None
) -> tuple[DataTable, dict[str, DataTable], DataTable | None, list[str]]:
    """All splits as a row a user; what looks wrong with them, in sentences.

    Args:
        train: events, or rows of token ids, which are histories already.
        validation: name -> events.
        test: events, or None.

    Raises:
        DataError: an event without user or item.
    """
    if train.tokenised or train.stream is not None:
        return train, dict(validation), test, []
    said: list[str] = []
    found = {name: grouped(table, [train], said, name) for name, table in validation.items()}
    last = None if test is None else grouped(test, [train, *validation.values()], said, "test")
    return grouped(train, None, said, "train"), found, last, said


def grouped(
    own: DataTable, earlier: Sequence[DataTable] | None, said: list[str] | None = None, name: str = ""
) -> DataTable:
    """The events of a split as a row a user, with those of earlier splits in front.

    Args:
        own: the split; a user of whom it has nothing has no row.
        earlier: splits before it; None: it is there to be learnt from, so that nothing is only known.
        said: told of events that come before those of an earlier split.
        name: of the split, for that.

    Raises:
        DataError: an event without user or item.
    """
    tables = [own, *(earlier or ())]
    for table in tables:
        _check(table)
    users_N, times_N = _users(tables), _times(tables)
    own_N = np.arange(len(users_N)) < len(own)
    known = int(users_N[own_N].max(initial=-1)) + 1
    order = np.lexsort((np.arange(len(users_N)), times_N, own_N, users_N))
    order = order[users_N[order] < known]
    _say_late(own, (users_N, times_N, own_N), order, said, name)
    items = pa.concat_arrays([_chunk(table, ITEM) for table in tables])
    taken = items.take(_int64(order))
    sizes_E = np.asarray(pc.call_function("list_value_length", [taken]).to_numpy(zero_copy_only=False))
    counts_U = np.bincount(users_N[order], sizes_E, known).astype(np.int64)
    known_U = np.bincount(users_N[order], sizes_E * ~own_N[order], known).astype(np.int64)
    offsets = _int64(np.concatenate([[0], np.cumsum(counts_U)]))
    firsts = np.full(known, len(own), np.int64)
    np.minimum.at(firsts, users_N[: len(own)], np.arange(len(own)))
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        ITEM: pa.LargeListArray.from_arrays(offsets, taken.flatten()),
        **({} if earlier is None else {KNOWN: _int64(known_U)}),
    }
    if USER in own.rows.column_names:
        columns[USER] = own.rows.column(USER).take(_int64(firsts))
    if all(TITLE in table.rows.column_names for table in tables):
        columns[TITLE] = _titles(tables, order, sizes_E, offsets)
    if "id" in own.rows.column_names:
        columns["id"] = own.rows.column("id").take(_int64(firsts))
    return replace(
        own,
        rows=pa.table(columns),
        origin=tuple((file, int(np.searchsorted(firsts, first))) for file, first in own.origin),
        numbers=own.row_numbers[firsts],
        digest="",
        sources=(),
    )


def grouped_rows(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Rows to predict, user by user, in the order in which users come: each with all their items, and what else their
    last row has. Rows without a user stay as they are.

    Args:
        rows: (place, role -> value).
    """
    users: dict[object, list[tuple[str, Row]]] = {}
    for number, (place, row) in enumerate(rows):
        user = row.get(USER)
        users.setdefault(("row", number) if user in (None, "") else str(user), []).append((place, row))
    found = []
    for events in users.values():
        first = events[0][0]
        times = [row.get(TIME) for _, row in events]
        if all(time not in (None, "") for time in times):
            values = _comparable(np.array([str(time) for time in times], object))
            events = [events[place] for place in np.argsort(values, kind="stable")]
        items = [item for _, row in events for item in items_of(row.get(ITEM))]
        found.append((first, {**events[-1][1], ITEM: items}))
    return found


def items_of(value: object) -> list[str]:
    """The items of a row: one, several, or none."""
    if value is None or value == "":
        return []
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else [str(value)]


def _check(table: DataTable) -> None:
    found = [
        (int(row), role)
        for role in (USER, ITEM)
        if role in table.rows.column_names
        for row in np.flatnonzero(is_empty_text(table.rows.column(role)))
    ]
    problems = [
        Problem(where=table.where(row), key=role, what=f"no {role}; remove the row")
        for row, role in sorted(found)
    ]
    if not len(table):
        problems = [Problem(where=table.origin[0][0] if table.origin else "data", what="no rows")]
    if problems:
        raise data_error(problems)


def _users(tables: Sequence[DataTable]) -> np.ndarray:
    """(N,) int64 of all tables one behind the other: users numbered as they first occur; rows without one are each
    their own.
    """
    if any(USER not in table.rows.column_names for table in tables):
        return np.arange(sum(map(len, tables)))
    whole = pa.concat_arrays([_chunk(table, USER) for table in tables])
    return np.asarray(whole.dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)


def _times(tables: Sequence[DataTable]) -> np.ndarray:
    """(N,) what events are in order by: times, or their rows where some have none."""
    if any(TIME not in table.rows.column_names for table in tables):
        return np.zeros(sum(map(len, tables)))
    for table in tables:
        missing = np.flatnonzero(is_empty_text(table.rows.column(TIME)))
        if len(missing):
            raise data_error(
                [Problem(where=table.where(int(row)), key=TIME, what="no time") for row in missing]
            )
    whole = pa.concat_arrays([_chunk(table, TIME) for table in tables])
    return _comparable(whole.to_numpy(zero_copy_only=False))


def _comparable(values: np.ndarray) -> np.ndarray:
    """Numbers as numbers, also where they are text; the rest as text, as ISO's dates are in order."""
    try:
        return values.astype(np.float64)
    except ValueError:
        return np.unique(values.astype(str), return_inverse=True)[1]


def _say_late(
    own: DataTable,
    events: tuple[np.ndarray, np.ndarray, np.ndarray],
    order: np.ndarray,
    said: list[str] | None,
    name: str,
) -> None:
    """Whether a user's history in earlier splits goes on after what is to be predicted of them."""
    users_N, times_N, own_N = (each[order] for each in events)
    late = own_N[1:] & ~own_N[:-1] & (users_N[1:] == users_N[:-1]) & (times_N[1:] < times_N[:-1])
    if said is not None and late.any():
        first = own.where(int(order[1:][late][0]))
        said.append(
            f"{name}: {int(late.sum()):,} users have events in an earlier split that come later than what is "
            f"predicted of them, so its figures flatter; the first: {first}. `bigbatch split --by last` or "
            "`--by time` divides them"
        )


def _titles(
    tables: Sequence[DataTable], order: np.ndarray, sizes_E: np.ndarray, offsets: pa.Array
) -> pa.Array:
    """Of each item; those of a row with several items are not known."""
    whole = pa.concat_arrays([_chunk(table, TITLE) for table in tables]).take(_int64(order))
    places = np.repeat(np.arange(len(order)), sizes_E.astype(np.int64))
    alone = np.repeat(sizes_E == 1, sizes_E.astype(np.int64))
    found = whole.take(pa.array(places, mask=~alone))
    return pa.LargeListArray.from_arrays(offsets, found)


def _chunk(table: DataTable, name: str) -> pa.Array:
    """A column in one piece."""
    return (
        pa.concat_arrays(table.rows.column(name).chunks)
        if table.rows.column(name).num_chunks
        else pa.nulls(0)
    )


def _int64(values: np.ndarray) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, np.int64))


def item_names(table: DataTable) -> list[str]:
    """Distinct items of histories, in order: of numbers as numbers, else of texts."""
    names = _chunk(table, ITEM).flatten().unique().to_pylist()
    return sorted(names, key=int) if all(map(_is_number, names)) else sorted(names)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and str(int(name)) == name

"""Files and objects of any kind -> one DataTable with a column per role.

::

    path(s) -> the room `files` -> Raw
    object  -> objects.py       -> Raw
    Raw -> columns.py (which column is which role) -> values.py (to the role's form)  -> DataTable
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigbatch.data.columns import ID, pick_columns
from bigbatch.data.conversations import with_conversations
from bigbatch.data.joining import join_tables
from bigbatch.data.labels import class_name
from bigbatch.data.objects import names_files, read_object
from bigbatch.data.parked import parked
from bigbatch.data.tables import TOKENISED_COLUMNS, DataTable, innermost
from bigbatch.data.talks import with_talks
from bigbatch.data.token_rows import are_ids, id_labels, text_ids, token_columns, token_lengths
from bigbatch.data.values import NUMBERS, Where, convert, convert_labels
from bigbatch.errors import Problem
from bigbatch.files.class_names import NOT_COUNTED
from bigbatch.files.kinds import find_files, read_file
from bigbatch.files.problems import data_error, listed, nearest, one_error, shown_names
from bigbatch.files.raw import Column, Raw, named_order
from bigbatch.protocols import Role


def read_table(
    files: Any,
    *,
    base: Path,
    columns: Mapping[str, str],
    roles: Mapping[str, Role],
    encoding: str = "utf-8",
    quoting: str = "minimal",
    empty_text: Literal["error", "drop"] = "error",
    say: Callable[[str], object] | None = None,
    park: Path | None = None,
) -> DataTable:
    """Read a split.

    Args:
        files: one or several paths or `DataFile`s (path, columns, share), or an object: a list of dicts, pandas, a
            `datasets.Dataset`, an Arrow table, a dict of columns, a map-style torch dataset; or a DataTable.
        base: the folder that relative paths start from.
        columns: role -> column; roles that are not named are found by the usual names. A DataFile's own win.
        roles: what the task reads; further columns of the source are ignored, except `id`.
        encoding: `utf-8`, `utf-8-sig` or `latin-1`, of CSV, TSV, JSON Lines and text files.
        quoting: of CSV and TSV: `minimal`, or `none` where quotes are characters like any other.
        empty_text: `drop` leaves out rows whose required text is empty, counted in `warnings`; `error` keeps
            them for `checks.check_splits` to refuse.
        say: told what is fetched, where a path is an address.
        park: a cache on the disk in which the rows of each file are kept, so that memory holds none; the files are then
            shards (`sources`). None: rows are kept in memory.

    Returns:
        `text` and `label` roles as large_string, `labels`, `words` and `tags` as lists of it, `number` as float64;
        missing values as null. Rows of token ids (`input_ids`) as they are.

    Raises:
        DataError: no such file, a column that is missing, rows that are malformed.
    """
    if isinstance(files, DataTable):
        return files
    if park is not None and names_files(files):
        how = _How(columns, roles, encoding, quoting, empty_text)
        return _shards(files, base, how, park, say)
    parts, entries = [], []
    for raw, own, entry in _sources(files, base, roles, encoding, quoting, say):
        parts.append(_to_roles(raw, {**columns, **own}, roles))
        entries.append(entry)
    table = join_tables(_named(parts, roles))
    if isinstance(files, list) and any(getattr(entry, "share", None) for entry in files):
        firsts = np.cumsum([0, *map(len, parts)])
        table = replace(table, sources=tuple(int(firsts[entries.index(at)]) for at in range(len(files))))
    return _drop_empty(table, roles) if empty_text == "drop" and not table.tokenised else table


@dataclass(frozen=True)
class _How:
    """How a file of shards is read: all that decides what comes of it."""

    columns: Mapping[str, str]
    roles: Mapping[str, Role]
    encoding: str
    quoting: str
    empty_text: str

    def read(self, name: str, path: Path) -> DataTable:
        """The rows of one."""
        table = _to_roles(read_file(name, path, self.encoding, self.quoting), self.columns, self.roles)
        return _drop_empty(table, self.roles) if self.empty_text == "drop" and not table.tokenised else table


def _shards(files: Any, base: Path, how: _How, park: Path, say: Callable[[str], object] | None) -> DataTable:
    """The rows of many files, each read by itself and left on the disk."""
    parts = []
    for entry in files if isinstance(files, (list, tuple)) else [files]:
        own = replace(how, columns={**how.columns, **(getattr(entry, "columns", None) or {})})
        for name, path in find_files(str(getattr(entry, "path", entry)), base, say):
            parts.append(parked(path, park, asdict(own), partial(own.read, name, path), name))
    firsts = np.cumsum([0, *map(len, parts)])[:-1]
    digests = tuple(part.content_digest for part in parts)
    told = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    whole = join_tables(_named(parts, how.roles))
    return replace(whole, sources=tuple(firsts.tolist()), digests=digests, digest=told)


def _sources(
    files: Any,
    base: Path,
    roles: Mapping[str, Role],
    encoding: str,
    quoting: str,
    say: Callable[[str], object] | None,
) -> list[tuple[Raw, Mapping[str, str], int]]:
    """(source, its own column mapping, place of its entry) of each file, or of the one object."""
    if not names_files(files):
        return [(read_object(files, list(roles)), {}, 0)]
    found = []
    for at, entry in enumerate(files if isinstance(files, (list, tuple)) else [files]):
        path = str(getattr(entry, "path", entry))
        own = getattr(entry, "columns", None) or {}
        for name, full in find_files(path, base, say):
            found.append((read_file(name, full, encoding, quoting), own, at))
    return found


def _to_roles(raw: Raw, wanted: Mapping[str, str], roles: Mapping[str, Role]) -> DataTable:
    where = raw.name or "data"
    if "input_ids" in raw.columns and not {"text", "words"} & set(wanted):
        return _tokenised(raw, wanted, roles)
    if not raw.columns:
        raise one_error(where, "", "no rows")
    raw, wanted = with_talks(*with_conversations(raw, wanted, roles), roles)
    picked = pick_columns(raw.columns, wanted, roles, where)
    loaded = raw.load(list(dict.fromkeys(picked.values())))
    texts = {role: column for role, column in picked.items() if role != ID and roles[role].may_be_ids}
    if any(are_ids(loaded[column]) for column in texts.values()):
        return _texts_as_ids(raw, {role: loaded[column] for role, column in picked.items()}, texts)
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    classes: tuple[str, ...] | None = None
    places = 0
    for role, column in picked.items():
        kind = "text" if role == ID else roles[role].kind
        of_classes = role != ID and roles[role].has_classes
        names = _own_names(raw, column) if of_classes else None
        values, found = with_names(loaded[column], names, column, raw.where)
        problems += found
        if kind == "labels":
            converted[role], found, places = convert_labels(values, column, raw.where)
        else:
            converted[role], found = convert(values, kind, column, raw.where, raw.folder)
        problems += found
        if of_classes:
            classes = _declared(names, raw.class_orders.get(column), places)
    if problems:
        raise data_error(problems)
    return replace(_table(raw, pa.table(converted), tokenised=False), classes=classes, multi_hot=places > 0)


def _declared(
    names: tuple[str, ...] | None, order: tuple[str, ...] | None, places: int
) -> tuple[str, ...] | None:
    if places:
        return tuple(map(str, range(places)))
    return named_order(names) if names is not None else order


def _own_names(raw: Raw, column: str) -> tuple[str, ...] | None:
    """What the class ids of a column are called, if it says so (a ClassLabel).

    Raises:
        DataError: two of the names are one class.
    """
    names = raw.class_names.get(column)
    if names is not None and len(set(map(class_name, names))) < len(names):
        raise one_error(raw.name or "data", column, f"two of these names are one class: {shown_names(names)}")
    return names


def with_names(
    column: Column, names: tuple[str, ...] | None, key: str, where: Where
) -> tuple[Column, list[Problem]]:
    """Class ids by their names, -1 (no label) as missing; ids without a name are problems. Other values stay.

    Args:
        column: class ids, or lists of them.
        names: of the classes by id; None: the source has none.
        key: of the recipe, for messages.
        where: row number -> place.

    Returns:
        The column, and what is wrong with it.
    """
    if names is None:
        return column, []
    problems: list[Problem] = []

    def named(value: Any, row: int) -> Any:
        if isinstance(value, list):
            return [named(item, row) for item in value]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or value == int(NOT_COUNTED):
            return value
        if value >= len(names) or value < -1:
            what = f"class id {value}, but the column has {len(names)} names: {listed(names)}"
            problems.append(Problem(where=where(row), key=key, what=what))
        return names[value] if 0 <= value < len(names) else None

    values = column if isinstance(column, list) else column.to_pylist()
    found = [named(value, row) for row, value in enumerate(values)]
    if problems:  # what stands in their place is no second problem
        return [None] * len(found), problems
    return found, []


def _texts_as_ids(raw: Raw, columns: Mapping[str, Column], texts: Mapping[str, str]) -> DataTable:
    """Columns of token ids in place of texts; those of other roles as they are."""
    found: dict[str, pa.ChunkedArray | pa.Array] = {}
    problems: list[Problem] = []
    for role, column in columns.items():
        if role in texts:
            found[role], wrong = text_ids(column, texts[role], raw.where)
            problems += wrong
        else:
            found[role] = _arrow(column, raw, role)
    if problems:
        raise data_error(problems)
    return _table(raw, pa.table(found), tokenised=True)


def _tokenised(raw: Raw, wanted: Mapping[str, str], roles: Mapping[str, Role]) -> DataTable:
    """Columns of token ids, the label column renamed to `labels`: class ids, numbers, or names of classes."""
    names = {name: name for name in TOKENISED_COLUMNS if name in raw.columns}
    label = next((wanted[role] for role in ("label", "labels", "number", "tags") if role in wanted), None)
    if label is not None and label not in raw.columns:
        raise one_error(
            raw.name or "data", "data.columns", f"no column {label!r}{nearest(label, raw.columns)}"
        )
    if label is not None or ("labels" not in names and "label" in raw.columns):
        names["labels"] = label or "label"
    if ID in raw.columns:
        names[ID] = ID
    loaded = raw.load(list(dict.fromkeys(names.values())))
    kind = next((role.kind for role in roles.values() if not role.is_read), None)
    inputs = {role: loaded[role] for role in names if role not in ("labels", ID)}
    found, problems = token_columns(inputs, raw.where, may_be_empty=kind is None)
    if problems:
        raise data_error(problems)
    if ID in names:
        found[ID] = _arrow(loaded[ID], raw, ID)
    if kind is None or "labels" not in names:
        if "labels" in names:
            found["labels"] = _arrow(loaded[names["labels"]], raw, names["labels"])
        return _table(raw, pa.table(found), tokenised=True)
    column = names["labels"]
    tokens_B = token_lengths(found["input_ids"])
    found["labels"], places, as_ids = _token_labels(raw, column, loaded[column], kind, tokens_B)
    table = _table(raw, pa.table(found), tokenised=True)
    if as_ids:
        return replace(table, classes=_names_of_ids(raw, column, table))
    order = None if kind in NUMBERS else _declared(None, raw.class_orders.get(column), places)
    return replace(table, classes=order, multi_hot=places > 0)


def _token_labels(
    raw: Raw, column: str, values: Column, kind: str, tokens_B: np.ndarray
) -> tuple[Any, int, bool]:
    """Labels of rows of token ids; the places of multi-hot lists; whether they are class ids, still without names.

    Raises:
        DataError: labels that are none, each with its row.
    """
    ids = kind not in NUMBERS and _are_ids(values)
    if ids and column in raw.class_names:
        return _arrow(values, raw, column), 0, True  # `_named` has the names, and checks them
    places = 0
    if kind == "labels":
        labels, problems, places = convert_labels(values, column, raw.where)
    elif ids:
        labels, problems = id_labels(values, tokens_B if kind == "tags" else None, column, raw.where)
    else:
        labels, problems = convert(values, kind, column, raw.where)
    if problems:
        raise data_error(problems)
    return labels, places, ids and kind != "labels"


def _are_ids(column: Column) -> bool:
    """Whether labels of rows of token ids are numbers (multi-hot lists are, too); names, truth values and dates are
    classes as they are everywhere.
    """
    if isinstance(column, list):
        entries = [entry for value in column for entry in (value if isinstance(value, list) else [value])]
        return not any(isinstance(entry, (str, bytes, date)) for entry in entries) and not any(
            isinstance(value, bool) for value in column
        )
    kind = innermost(column.type)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
    return number or (pa.types.is_boolean(kind) and pa.types.is_nested(column.type))


def _names_of_ids(raw: Raw, column: str | None, table: DataTable) -> tuple[str, ...] | None:
    """What the class ids of rows of token ids are called: as their column says, or the one that they were made from.

    Tags that a tokenizing function has laid on tokens are in a column without names. Where exactly one other column
    has names, and all ids of every row are among that column's of the same row, they are its classes.
    """
    if column is None or column in raw.class_names:
        return None if column is None else _own_names(raw, column)
    targets = table.rows.column("labels").to_pylist()
    fitting = []
    for name in raw.class_names:
        values = raw.load([name])[name]
        rows = values if isinstance(values, list) else values.to_pylist()
        if all(_ids_in(ids) - {-100} <= _ids_in(own) for ids, own in zip(targets, rows, strict=True)):
            fitting.append(name)
    return _own_names(raw, fitting[0]) if len(fitting) == 1 else None


def _ids_in(value: Any) -> set[Any]:
    return set(value) if isinstance(value, list) else {value}


def _arrow(column: Column, raw: Raw, name: str) -> Any:
    if not isinstance(column, list):
        return column
    try:
        return pa.array(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise one_error(raw.name or "data", name, f"rows of different types: {error}") from error


def _table(raw: Raw, rows: pa.Table, *, tokenised: bool) -> DataTable:
    return DataTable(
        rows=rows,
        origin=((raw.name, 0),) if raw.name else (),
        numbers=raw.row_numbers.astype(np.int64),
        warnings=raw.warnings,
        tokenised=tokenised,
        files=raw.nameless and ID in raw.columns and ID in rows.column_names,
    )


def _named(parts: Sequence[DataTable], roles: Mapping[str, Role]) -> list[DataTable]:
    """Rows of token ids with their class ids by name, where the ids of any file have names: from here on they are
    matched like all names are. Ids of files without names are places in the order of the one that has them.

    Raises:
        DataError: an id without a name; ids without names beside files whose names have different orders.
    """
    with_ids = [part for part in parts if part.tokenised and part.has_class_ids]
    orders = list(dict.fromkeys(part.classes for part in with_ids if part.classes))
    bare = next((part for part in with_ids if not part.classes), None)
    if not orders:
        return list(parts)
    if bare is not None and len(orders) > 1:
        what = (
            f"class ids without names, beside files that name them {' and '.join(map(shown_names, orders))}"
        )
        raise one_error(_source(bare), "labels", f"{what}; use one order, or names in all files")
    kind = next(role.kind for role in roles.values() if role.has_classes)
    return [_by_name(part, part.classes or orders[0], kind) if part in with_ids else part for part in parts]


def _by_name(table: DataTable, names: tuple[str, ...], kind: str) -> DataTable:
    if "labels" not in table.rows.column_names:
        return table
    place = table.rows.column_names.index("labels")
    values, problems = with_names(table.rows.column(place), names, "labels", table.where)
    column, more = convert(values, kind, "labels", table.where)
    if problems or more:
        raise data_error(problems or more)
    rows = table.rows.set_column(place, "labels", column)
    return replace(table, rows=rows, classes=named_order(names))


def _source(table: DataTable) -> str:
    return table.origin[0][0] if table.origin else "data"


def is_empty_text(column: pa.ChunkedArray) -> np.ndarray:
    """(rows,) bool: missing, or nothing but white space; of sentences: without any word."""
    if pa.types.is_struct(column.type):  # images
        return column.is_null().to_numpy()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return (
            pc.call_function("equal", [pc.call_function("list_value_length", [column]), 0])
            .fill_null(True)
            .to_numpy()
        )
    found = np.zeros(len(column), bool)
    done = 0
    for chunk in column.chunks:  # one at a time: what is trimmed is a copy
        trimmed = pc.call_function("utf8_trim_whitespace", [chunk])
        empty = pc.call_function("equal", [trimmed, pa.scalar("", trimmed.type)]).fill_null(True)
        found[done : done + len(chunk)] = empty.to_numpy(zero_copy_only=False)
        done += len(chunk)
    return found


def _drop_empty(table: DataTable, roles: Mapping[str, Role]) -> DataTable:
    texts = [role for role, about in roles.items() if about.is_read and about.required]
    empty = np.zeros(len(table), bool)
    for role in texts:
        empty |= is_empty_text(table.rows.column(role))
    if not empty.any():
        return table
    first = table.where(int(np.flatnonzero(empty)[0]))
    kept = table.take(np.flatnonzero(~empty))
    warning = f"{int(empty.sum()):,} rows with empty text were left out, the first at {first}"
    return DataTable(**{**vars(kept), "warnings": (*kept.warnings, warning)})

"""Objects in memory -> Raw: lists of dicts, pandas, `datasets`, Arrow tables, map-style torch datasets.

Libraries are told by the name of the object's module and never imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bigbatch.files.plain import plain
from bigbatch.files.problems import one_error
from bigbatch.files.raw import Column, Raw, from_dicts, from_table, named_order

_EXPECTED = "expected files, a list of dicts, pandas, datasets.Dataset or a map-style torch dataset"


def read_object(data: Any, positions: Sequence[str]) -> Raw:
    """The rows of an object.

    Args:
        data: any of the kinds above.
        positions: column names for rows that are tuples, in order (the task's roles).

    Raises:
        DataError: it is none of these, or its rows are not.
    """
    library = type(data).__module__.partition(".")[0]
    kind = type(data).__name__
    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        return from_table("", data)
    if library == "pandas" and hasattr(data, "columns"):
        return _pandas(data)
    if library == "datasets":
        if kind in ("DatasetDict", "IterableDatasetDict"):
            raise one_error(
                "",
                "",
                f"found a {kind} with splits {', '.join(data)}; pass one of them, such as data['train']",
            )
        if hasattr(data, "features") and hasattr(data, "with_format") and hasattr(data, "__len__"):
            return _hugging_face(data)
    if isinstance(data, Mapping):
        return _columns(data)
    if hasattr(data, "__arrow_c_stream__"):  # polars and others
        return from_table("", pa.table(data))
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise one_error("", "", f"found {kind}, which has no length and no rows by number; {_EXPECTED}")
    return from_dicts("", [_row(data[number], number, positions) for number in range(len(data))])


def names_files(data: Any) -> bool:
    """Whether data are paths, one or several, instead of rows."""
    entries = data if isinstance(data, (list, tuple)) else [data]
    return bool(entries) and all(
        isinstance(entry, (str, Path)) or hasattr(entry, "path") for entry in entries
    )


def is_table(data: Any) -> bool:
    """Whether an object has columns with names, and rows by number."""
    library = type(data).__module__.partition(".")[0]
    if library == "datasets":
        return type(data).__name__.endswith("DatasetDict") or (
            hasattr(data, "__len__") and hasattr(data, "with_format")
        )
    return hasattr(data, "__arrow_c_stream__") or (library == "pandas" and hasattr(data, "columns"))


def _pandas(frame: Any) -> Raw:
    doubles = sorted({str(name) for name in frame.columns if list(frame.columns).count(name) > 1})
    if doubles:
        raise one_error("", doubles[0], "this column is in the frame twice; every name must be its own")
    by_name = {str(name): name for name in frame.columns}
    return Raw(
        name="",
        columns=tuple(by_name),
        rows=len(frame),
        load=lambda names: {name: frame[by_name[name]].tolist() for name in names},
        class_orders={
            name: order
            for name, own in by_name.items()
            if getattr(frame.dtypes[own], "ordered", False)
            and (order := named_order(frame.dtypes[own].categories.tolist())) is not None
        },
    )


def _hugging_face(dataset: Any) -> Raw:
    # A list of class ids, one a word, has the names one level further in.
    inner = {name: getattr(feature, "feature", feature) for name, feature in dataset.features.items()}
    class_names = {
        name: tuple(feature.names) for name, feature in inner.items() if hasattr(feature, "int2str")
    }

    def load(names: Sequence[str]) -> Mapping[str, Column]:
        table = dataset.select_columns(list(names)).with_format("arrow")[:]
        return {name: table.column(name) for name in names}

    return Raw(
        name="",
        columns=tuple(dataset.column_names),
        rows=len(dataset),
        load=load,
        class_names=class_names,
    )


def without_class_names(data: Any, columns: Sequence[str]) -> Any:
    """Rows of token ids of `datasets`, with these columns, whose class ids are numbers and nothing else; others as they
    are.
    """
    library = type(data).__module__.partition(".")[0]
    if library != "datasets" or "input_ids" not in getattr(data, "column_names", ()):
        return data
    raw = _hugging_face(data)
    wanted = [name for name in columns if name in raw.columns]
    return pa.table(dict(raw.load(wanted))) if {*raw.class_names} & {*wanted} else data


def class_names(data: Any, column: str) -> tuple[str, ...]:
    """What a dataset calls the class ids of a column; empty where it does not say."""
    feature = (getattr(data, "features", None) or {}).get(column)
    return tuple(getattr(getattr(feature, "feature", feature), "names", None) or ())


def column_values(data: Any) -> dict[str, Any]:
    """The columns of a mapping: of `DataFrame.to_dict()`, where each is a mapping from row to value, the values.

    Raises:
        DataError: a column without order, or one by rows beside others that are not, or of other rows.
    """
    found = {str(name): data[name] for name in data.keys()}  # noqa: SIM118 (BatchEncoding iterates over more)
    for name, values in found.items():
        if isinstance(values, (set, frozenset)):
            raise one_error("", name, "this column is a set, which has no order; use a list")
    by_row = [name for name, values in found.items() if isinstance(values, Mapping)]
    if not by_row:
        return found
    rows = list(found[by_row[0]])
    for name, values in found.items():
        if not isinstance(values, Mapping):
            raise one_error(
                "", name, f"a list, and column {by_row[0]!r} is a mapping from row to value; use lists"
            )
        if list(values) != rows:
            what = f"a mapping from other rows than those of column {by_row[0]!r}; use lists of one length"
            raise one_error("", name, what)
    return {name: list(values.values()) for name, values in found.items()}


def _columns(data: Mapping[Any, Any]) -> Raw:
    data = column_values(data)
    lengths = {str(name): len(values) for name, values in data.items() if hasattr(values, "__len__")}
    if len(lengths) != len(data) or len(set(lengths.values())) > 1:
        raise one_error(
            "", "", f"found a mapping whose columns are of unequal length: {lengths or list(data)}"
        )
    by_name = {str(name): values for name, values in data.items()}
    return Raw(
        name="",
        columns=tuple(by_name),
        rows=next(iter(lengths.values()), 0),
        load=lambda names: {name: list(by_name[name]) for name in names},
    )


def _row(row: Any, number: int, positions: Sequence[str]) -> Mapping[str, Any]:
    """A row as a dictionary; tuples take the roles in order: (text, label)."""
    if isinstance(row, Mapping) or hasattr(row, "keys"):
        return {str(name): plain(row[name]) for name in row.keys()}  # noqa: SIM118 (BatchEncoding iterates over more)
    if isinstance(row, (tuple, list)) and 0 < len(row) <= len(positions):
        return dict(zip(positions, map(plain, row), strict=False))
    shown = f"a tuple of {len(row)}" if isinstance(row, (tuple, list)) else type(row).__name__
    wanted = ", ".join(positions)
    raise one_error(f"row {number + 1}", "", f"found {shown}; expected a dictionary, or a tuple ({wanted})")

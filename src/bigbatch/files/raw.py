"""Raw: a source whose columns still have their own names and types. What every reader returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bigbatch.files.class_names import label_of

Column = pa.ChunkedArray | list[Any]
"""Arrow where the source has types, a list of Python values where every row may have its own."""

_FEATURES, _ORDERS = b"huggingface", b"bigbatch.class_orders"
"""Keys of a schema's metadata: the one of `datasets`, and our own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """One file or object, its columns loaded only when asked for."""

    name: str
    """What messages call it: the path as typed; empty for objects."""
    columns: tuple[str, ...]
    rows: int
    load: Callable[[Sequence[str]], Mapping[str, Column]]
    """The named columns."""
    numbers: np.ndarray | None = None
    """(rows,) int64 row numbers as people count them; None counts from `first_number`."""
    first_number: int = 1
    """2 when the source has a header row, which people count too."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For columns that hold class ids with known names (`datasets.ClassLabel`)."""
    class_orders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For columns that hold classes by name, in an order of their own (an ordered Categorical)."""
    warnings: tuple[str, ...] = ()
    nameless: bool = False
    """Whether the columns have the names that every such file gives them (text files, CoNLL), and no names of the
    user's."""
    lacks: Callable[[str], Sequence[int]] = lambda column: ()
    """Rows that have no such column at all, where rows need not have the same ones."""
    folder: Path | None = None
    """That paths in its columns start from, and must not leave; None: it is no file."""

    @property
    def row_numbers(self) -> np.ndarray:
        """(rows,) int64."""
        return np.arange(self.rows) + self.first_number if self.numbers is None else self.numbers

    def where(self, row: int) -> str:
        """`tweets.csv:812`, or `row 812` for an object."""
        number = int(self.row_numbers[row])
        return f"{self.name}:{number}" if self.name else f"row {number}"


def from_table(name: str, table: pa.Table, **about: Any) -> Raw:
    """A Raw over an Arrow table in memory."""
    return Raw(
        name=name,
        columns=tuple(table.column_names),
        rows=table.num_rows,
        load=lambda names: {column: table.column(column) for column in names},
        class_orders={
            **written_orders(table.schema),
            **{
                column: order
                for column in table.column_names
                if (order := order_of(table.column(column))) is not None
            },
        },
        **{"class_names": written_class_names(table.schema), **about},
    )


def to_table(raw: Raw) -> pa.Table:
    """All columns, with what is known of their classes, for `from_table` in another process.

    Raises:
        ArrowInvalid, ArrowTypeError: a column of different types.
    """
    features = {
        name: {"_type": "ClassLabel", "names": list(names)} for name, names in raw.class_names.items()
    }
    about = {
        _FEATURES: json.dumps({"info": {"features": features}}),
        _ORDERS: json.dumps({name: list(order) for name, order in raw.class_orders.items()}),
    }
    return pa.table(dict(raw.load(raw.columns))).replace_schema_metadata(about)


def order_of(column: pa.ChunkedArray) -> tuple[str, ...] | None:
    """The class names of an ordered dictionary column, which is what an ordered Categorical becomes."""
    if not (pa.types.is_dictionary(column.type) and column.type.ordered) or not column.num_chunks:
        return None
    return named_order(column.unify_dictionaries().chunk(0).dictionary.to_pylist())


def named_order(values: Sequence[Any]) -> tuple[str, ...] | None:
    """Categories by their class names; None when one of them is no class."""
    try:
        names = [label_of(value) for value in values]
    except ValueError:
        return None
    return tuple(dict.fromkeys(name for name in names if name is not None))


def written_class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Names of class ids that `datasets` writes into the metadata of its Parquet and Arrow files."""
    try:
        written = json.loads((schema.metadata or {}).get(_FEATURES, b"{}"))
        features = written["info"]["features"]
        inner = {name: _innermost(feature) for name, feature in features.items()}
        return {
            name: tuple(map(str, feature["names"]))
            for name, feature in inner.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}


def written_orders(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """What `to_table` wrote of orders."""
    try:
        written = json.loads((schema.metadata or {}).get(_ORDERS, b"{}"))
        return {name: tuple(map(str, order)) for name, order in written.items()}
    except (ValueError, RecursionError, TypeError, AttributeError):
        return {}


def _innermost(feature: Any) -> Mapping[str, Any]:
    """The feature of a list's entries; datasets wrote lists as `[feature]` and writes them as Sequence or List."""
    inner: Any = feature[0] if isinstance(feature, list) and feature else feature
    return inner.get("feature", inner)


def from_dicts(name: str, rows: Sequence[Mapping[str, Any]], **about: Any) -> Raw:
    """A Raw over dictionaries; a key that a row lacks is None there."""
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return Raw(
        name=name,
        columns=columns,
        rows=len(rows),
        load=lambda names: {column: [row.get(column) for row in rows] for column in names},
        lacks=lambda column: [number for number, row in enumerate(rows) if column not in row],
        **about,
    )

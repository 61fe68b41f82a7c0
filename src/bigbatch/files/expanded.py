"""How large Arrow columns become once every row holds its own value, found without making any.

A dictionary holds a value once, however many rows point to it; runs and views do the same. A file of 20 kB can hold one
text of 16 MiB for a million rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from bigbatch.files.contents import most_bytes, too_much
from bigbatch.stored import Damaged


def check_expanded(table: pa.Table | pa.RecordBatch, size_bytes: int, before_bytes: int = 0) -> int:
    """Bytes of a table's values when written out, with those before.

    Args:
        table: a table, or a batch of one.
        size_bytes: of the file.
        before_bytes: of the batches before it.

    Raises:
        Damaged: more than a file of this size may hold.
    """
    most, total = most_bytes(size_bytes), before_bytes
    for column in table.columns:
        for array in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            total += int(_sizes(array).sum()) if len(array) and _shares(array.type) else array.nbytes
            if total > most:
                raise Damaged(too_much(size_bytes, most))
    return total


def _shares(kind: Any) -> bool:
    """Whether rows of a type can share values."""
    kinds = (pa.types.is_dictionary, pa.types.is_run_end_encoded, pa.types.is_union, _is_view, _is_list_view)
    if any(test(kind) for test in kinds):
        return True
    if isinstance(kind, pa.BaseExtensionType):
        return _shares(kind.storage_type)
    return any(_shares(kind.field(number).type) for number in range(kind.num_fields))


def _is_view(kind: Any) -> bool:
    return pa.types.is_string_view(kind) or pa.types.is_binary_view(kind)


def _is_list_view(kind: Any) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def _sizes(array: Any) -> np.ndarray:
    """(rows,) float64 bytes of every value; whole numbers could overflow."""
    kind = array.type
    if not len(array):
        return np.zeros(0)
    if pa.types.is_union(kind):
        raise Damaged("holds a column of Arrow's union type; expected one type a column")
    if isinstance(kind, pa.BaseExtensionType):
        return _sizes(array.storage)
    if pa.types.is_dictionary(kind):
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        known = _sizes(array.dictionary)
        return known[indices] if len(known) else np.zeros(len(array))  # no values: all rows are null
    if pa.types.is_run_end_encoded(kind):
        ends = array.run_ends.to_numpy(zero_copy_only=False)
        runs = np.searchsorted(ends, array.offset + np.arange(len(array)), side="right")
        return _sizes(array.values)[runs]
    if _is_view(kind):  # 16 bytes each, of which the first four are the length
        views = np.frombuffer(array.buffers()[1], "<i4")[::4]
        return views[array.offset : array.offset + len(array)].astype(np.float64)
    if _is_list_view(kind):
        starts, counts = array.offsets.to_numpy()[: len(array)], array.sizes.to_numpy()
        return _between(array.values, starts, starts + counts)
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or kind in (pa.large_string(), pa.large_binary()):
        width = "<i4" if pa.types.is_string(kind) or pa.types.is_binary(kind) else "<i8"
        offsets = np.frombuffer(array.buffers()[1], width)[array.offset : array.offset + len(array) + 1]
        return np.diff(offsets).astype(np.float64)
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy()  # of a slice: into all values
        values = (
            pa.StructArray.from_arrays([array.keys, array.items], ["k", "v"])
            if pa.types.is_map(kind)
            else array.values
        )
        return _between(values, offsets[:-1], offsets[1:])
    if pa.types.is_fixed_size_list(kind):
        ends = (array.offset + np.arange(len(array) + 1)) * kind.list_size
        return _between(array.values, ends[:-1], ends[1:])
    if pa.types.is_struct(kind):
        return sum((_sizes(array.field(number)) for number in range(kind.num_fields)), np.zeros(len(array)))
    return np.full(len(array), array.nbytes / max(1, len(array)))


def _between(values: Any, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of the sizes of neighbouring values."""
    sums = np.concatenate([[0.0], np.cumsum(_sizes(values))])
    return sums[ends] - sums[starts]

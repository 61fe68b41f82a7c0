"""Tables of several files as one, where they are of one kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from bigbatch.data.tables import DataTable
from bigbatch.files.problems import one_error


def join_tables(parts: Sequence[DataTable]) -> DataTable:
    """One table of several files, in order. A column that only some files have is null in the others."""
    if len(parts) == 1:
        return parts[0]
    if len({part.tokenised for part in parts}) > 1:
        raise one_error("data", "", "some files hold token ids and others text; use one kind")
    if len({part.has_class_ids for part in parts}) > 1:
        raise one_error(
            "data", "labels", "some files hold class ids and others names of classes; use one kind"
        )
    firsts = np.cumsum([0, *map(len, parts)])
    return DataTable(
        rows=pa.concat_tables([part.rows for part in parts], promote_options="permissive"),
        origin=tuple((part.origin[0][0], int(first)) for part, first in zip(parts, firsts[:-1], strict=True)),
        numbers=np.concatenate([part.row_numbers for part in parts]),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        tokenised=parts[0].tokenised,
        classes=_common_classes(parts),
        multi_hot=_all_multi_hot(parts),
        files=all(part.files for part in parts),
    )


def _common_classes(parts: Sequence[DataTable]) -> tuple[str, ...] | None:
    """The order that the files declare, where they do not contradict each other."""
    declared = {part.classes for part in parts}
    return parts[0].classes if len(declared) == 1 else None


def _all_multi_hot(parts: Sequence[DataTable]) -> bool:
    """Whether labels are lists of zeros and ones, in all files or in none, and equally long."""
    kinds = {part.classes if part.multi_hot else None for part in parts}
    if len(kinds) > 1:
        names = ", ".join(
            f"{part.where(0)} {len(part.classes or ())} places"
            if part.multi_hot
            else f"{part.where(0)} names"
            for part in parts
            if len(part)
        )
        raise one_error("data", "label", f"labels are lists of zeros and ones of different kinds: {names}")
    return parts[0].multi_hot

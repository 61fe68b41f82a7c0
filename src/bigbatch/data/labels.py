"""Label sets: which classes there are, and in which order the model's outputs stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from bigbatch.data.problems import listed, nearest, one_error
from bigbatch.data.tables import DataTable
from bigbatch.data.values import label_of, plain

Kind = Literal["single", "multi", "regression", "tags"]
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")


def label_role(task: Any) -> str | None:
    """The role that holds classes, if the task reads one."""
    return next((name for name, role in task.roles.items() if role.kind in ("label", "labels", "tags")), None)


def kind_of(task: Any) -> Kind:
    """The task's kind; one that does not say it is told by the kinds of its columns."""
    if hasattr(task, "kind"):
        return task.kind
    kinds = {role.kind for role in task.roles.values()}
    if "label" in kinds:
        return "single"
    return "multi" if "labels" in kinds else "tags" if "tags" in kinds else "regression"


@dataclass(frozen=True)
class LabelSet:
    """Class names in the order of the model's outputs; empty for regression."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, label: Any) -> int:
        """Class id of a label in any form that a source may have: "3", 3, 3.0, True.

        Raises:
            KeyError: there is no such class; the message names the nearest.
        """
        name = label_of(plain(label))
        if name in self._ids:
            return self._ids[name]
        raise KeyError(
            f"no class {name!r}{nearest(str(name), self.names) or '.'} There are: {listed(self.names)}"
        )

    @property
    def id2label(self) -> dict[int, str]:
        """As `config.json` of a Hugging Face model has it."""
        return dict(enumerate(self.names))

    @cached_property
    def _ids(self) -> dict[str | None, int]:
        return {name: index for index, name in enumerate(self.names)}


def find_labels(
    table: DataTable, role: str = "label", kind: Kind = "single", keep: Sequence[str] | None = None
) -> LabelSet:
    """The classes of a split: integers in numerical order, anything else in the order of its characters.

    Args:
        table: the training split; rows of token ids have class ids in `labels`, whatever `role` says.
        role: the column.
        kind: `regression` has no classes.
        keep: an order that is given (the task's `labels`, a model's head); it may name classes that the data lacks.

    Raises:
        DataError: the data has a class that `keep` lacks, or a class id below 0 other than -100.
    """
    if kind == "regression":
        return LabelSet(())
    names = _class_ids(table, kind) if table.tokenised else sorted_labels(distinct_labels(table, role))
    if keep is None:
        return LabelSet(tuple(names))
    kept = LabelSet(tuple(str(label_of(plain(name))) for name in keep))
    if table.tokenised:
        if len(names) > len(kept):
            raise one_error("labels", "", f"class id {len(names) - 1}, but there are {len(kept)} classes")
        return kept
    missing = [name for name in names if name not in kept.names]
    if missing:
        what = f"the data has {listed(missing)}, which is not among the labels given: {listed(kept.names)}"
        raise one_error(first_with(table, role, missing[0]), role, what)
    return kept


def distinct_labels(table: DataTable, role: str) -> list[str]:
    """Class names that occur, in no particular order; missing ones left out."""
    names = {label_of(plain(value)) for value in flat(table.rows.column(role)).unique().to_pylist()}
    return [name for name in names if name is not None]


def flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The entries of a column of lists, one behind the other; other columns as they are."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return column
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], column.type.value_type)


def sorted_labels(names: Sequence[str]) -> list[str]:
    """Numerically when all are integers, else by code points."""
    return sorted(names, key=int) if all(map(is_integer_name, names)) else sorted(names)


def is_integer_name(name: str) -> bool:
    """Whether a class name is an integer in its usual form: 007 is not."""
    return _INTEGER.fullmatch(name) is not None


def first_with(table: DataTable, role: str, name: str) -> str:
    """`file:row` of the first row that has this label."""
    for row, value in enumerate(table.rows.column(role).to_pylist()):
        if name in (
            [label_of(plain(part)) for part in value] if isinstance(value, list) else [label_of(value)]
        ):
            return table.where(row)
    raise AssertionError(f"label {name!r} was found in the table before")


def _class_ids(table: DataTable, kind: Kind) -> list[str]:
    """Names "0", "1", … for class ids of rows of token ids."""
    if "labels" not in table.rows.column_names:
        raise one_error(
            table.where(0) if len(table) else "data", "labels", "rows of token ids need a column labels"
        )
    column = table.rows.column("labels")
    if kind == "multi":
        return [str(number) for number in range(len(column[0]) if len(column) else 0)]
    ids = np.array(flat(column).drop_null().to_pylist())
    wrong = ids[(ids < 0) & (ids != -100)] if ids.size else ids
    if wrong.size:
        raise one_error("data", "labels", f"class id {wrong[0]}; expected 0, 1, 2, … or -100 for none")
    return [str(number) for number in range(int(ids.max(initial=-1)) + 1)]

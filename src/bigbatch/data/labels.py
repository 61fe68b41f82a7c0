"""Label sets: which classes there are, and in which order the model's outputs stand for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from bigbatch.data.tables import DataTable
from bigbatch.files.class_names import NOT_COUNTED, label_of
from bigbatch.files.problems import listed, nearest, one_error, shown_names
from bigbatch.protocols import Role

Kind = Literal["single", "multi", "regression", "tags", "classes"]
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")


def label_role(roles: Mapping[str, Role]) -> str | None:
    """The role that holds classes, if the task reads one."""
    return next((name for name, role in roles.items() if role.has_classes), None)


def kind_of(roles: Mapping[str, Role]) -> Kind:
    """What a task's columns say that it learns: `regression` where they hold no classes."""
    kinds = {role.kind for role in roles.values()}
    if "label" in kinds:
        return "single"
    if "labels" in kinds:
        return "multi"
    return "tags" if "tags" in kinds else "classes" if "classes" in kinds else "regression"


@dataclass(frozen=True)
class LabelSet:
    """Class names in the order of the model's outputs; empty for regression."""

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def id_of(self, label: Any) -> int:
        """Class id of a label in any form that a source may have: "3", 3, 3.0, True; -100 for what is not counted.

        Raises:
            KeyError: there is no such class; the message names the nearest.
        """
        name = label_of(label)
        if name in self._ids:
            return self._ids[name]
        if name == NOT_COUNTED:
            return int(NOT_COUNTED)
        raise KeyError(
            f"no class {name!r}{nearest(str(name), self.names) or '.'} There are: {listed(self.names)}"
        )

    @property
    def id2label(self) -> dict[int, str]:
        """As `config.json` of a Hugging Face model has it."""
        return dict(enumerate(self.names))

    @cached_property
    def _ids(self) -> dict[str | None, int]:
        # A model's own names may be written otherwise than a class's: `True`.
        return {class_name(name): index for index, name in enumerate(self.names)}


def find_labels(
    table: DataTable, role: str = "label", kind: Kind = "single", keep: Sequence[str] | None = None
) -> LabelSet:
    """The classes of a split: in the order that the source declares, else integers in numerical order and anything
    else in the order of its characters.

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
    role = "labels" if table.tokenised else role
    names = _class_ids(table, kind) if table.has_class_ids else _named_classes(table, role)
    if keep is None:
        return LabelSet(tuple(names))
    kept = LabelSet(tuple(map(class_name, keep)))
    if len(set(kept.names)) < len(kept):
        raise one_error("labels", role, f"two of these names are one class: {listed(list(map(str, keep)))}")
    if NOT_COUNTED in kept.names:
        what = f"{NOT_COUNTED} marks what is neither learnt nor scored; it is the name of no class"
        raise one_error("labels", role, what)
    if table.has_class_ids:
        used = _class_ids(table, kind, declared=False)
        if len(used) > len(kept):
            raise one_error("labels", "", f"class id {len(used) - 1}, but there are {len(kept)} classes")
        return kept
    missing = [name for name in sorted_labels(distinct_labels(table, role)) if name not in kept.names]
    if missing:
        what = f"the data has {listed(missing)}, which is not among the labels given: {listed(kept.names)}"
        raise one_error(first_with(table, role, missing[0]), role, what)
    return kept


def class_name(name: Any) -> str:
    """The class that a name of a label list or of a model's head stands for.

    Raises:
        DataError: it stands for none.
    """
    try:
        found = label_of(name)
    except ValueError:
        found = str(name)  # a model may call its outputs as it likes
    if found is None:
        raise one_error("labels", "", f"{name!r} is the name of no class")
    return found


def matched(
    table: DataTable, role: str | None, kind: Kind, labels: LabelSet, train: DataTable | None = None
) -> DataTable:
    """The table with its labels called as the classes that they are to be held against.

    Lists of zeros and ones are called by their places until somebody knows the names; and true and false may be
    written 1 and 0 elsewhere.

    Args:
        table: of any split, or to evaluate.
        role: the column.
        kind: of the task.
        labels: the classes.
        train: the rows that they come from, if those are there.

    Raises:
        DataError: lists of zeros and ones of another length, or where training has names.
    """
    role = "labels" if table.tokenised and role is not None else role
    if role is None or kind == "regression" or role not in table.rows.column_names:
        return table
    known = [class_name(name) for name in labels.names]
    if table.has_class_ids:
        _check_order(table, role, known, train)
        return table
    if table.multi_hot:
        found = table.classes or ()
        if train is not None and not train.multi_hot:
            what = (
                "lists of zeros and ones, but the training rows have names or class ids; use one of the two "
                '(class ids as names: ["0", "1"])'
            )
            raise one_error(table.where(0), role, what)
        if train is None and _may_be_ids(table, role) and known == ["0", "1"]:
            what = (
                "every list is [0, 1] or [1, 0]: multi-hot, or class ids? The model's classes 0 and 1 do not tell; "
                'write names: ["0"], ["1"] or ["0", "1"]'
            )
            raise one_error(table.where(0), role, what)
        if len(found) != len(known):
            what = f"lists of {len(found)} zeros and ones, but there are {len(known)} labels: {listed(known)}"
            raise one_error(table.where(0) if len(table) else "data", role, what)
        return _renamed(table, role, dict(zip(found, known, strict=True)))
    present = set(distinct_labels(table, role))
    if train is not None and train.multi_hot and present and all(map(is_integer_name, {*present, *known})):
        what = "class ids, but the training rows are lists of zeros and ones; use one of the two"
        raise one_error(table.where(0), role, what)
    strange = present - set(known)
    if (
        strange
        and table.tokenised
        and table.classes
        and len(table.classes) <= len(known)
        and _nameless(known)
    ):
        return _renamed(table, role, dict(zip(table.classes, known, strict=False)))
    for written in ({"1": "true", "0": "false"}, {"true": "1", "false": "0"}):
        if strange and strange <= set(written) and set(known) == set(written.values()):
            return _renamed(table, role, written)
    return table


def _check_order(table: DataTable, role: str, known: Sequence[str], train: DataTable | None) -> None:
    """Refuse class ids without names where the order of training's own is not that of the model."""
    declared = None if train is None or not train.tokenised or train.has_class_ids else train.classes
    if declared is not None and list(declared) != list(known):
        what = (
            f"class ids without names: training's stand in the order {shown_names(declared)}, the model's in "
            f"{shown_names(known)}; use names of classes, or a ClassLabel"
        )
        raise one_error(table.where(0) if len(table) else "data", role, what)


def _may_be_ids(table: DataTable, role: str) -> bool:
    """Whether lists of zeros and ones may as well be class ids: two places, of which each row has one."""
    rows = table.rows.column(role).to_pylist()
    return len(table.classes or ()) == 2 and all(ones is not None and len(ones) == 1 for ones in rows)


def _nameless(names: Sequence[str]) -> bool:
    """Whether classes are called by their ids: `0`, `1`, …, or `LABEL_0`, `LABEL_1`, …"""
    return all(name in (str(index), f"LABEL_{index}") for index, name in enumerate(names))


def _renamed(table: DataTable, role: str, names: Mapping[str, str]) -> DataTable:
    column = table.rows.column(role)
    if all(name == other for name, other in names.items()):
        return table
    renamed = [
        [names.get(name, name) for name in value] if isinstance(value, list) else names.get(value, value)
        for value in column.to_pylist()
    ]
    place = table.rows.column_names.index(role)
    rows = table.rows.set_column(place, role, pa.chunked_array([pa.array(renamed, column.type)]))
    classes = None if table.classes is None else tuple(names.get(name, name) for name in table.classes)
    return replace(table, rows=rows, classes=classes)


def _named_classes(table: DataTable, role: str) -> list[str]:
    """The order that the source declares, where it has all classes; else sorted."""
    found = distinct_labels(table, role)
    declared = list(table.classes or ())
    return declared if declared and set(found) <= set(declared) else sorted_labels(found)


def distinct_labels(table: DataTable, role: str) -> list[str]:
    """Class names that occur, in no particular order; those that are missing or not counted left out."""
    names = {label_of(value) for value in flat(table.rows.column(role)).unique().to_pylist()}
    return [name for name in names if name is not None and name != NOT_COUNTED]


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
    """`file:row` of the first row that has this label.

    Args:
        table: rows, each with its place.
        role: `label`, `labels` or `tags`.
        name: of a class that occurs in it.
    """
    for row, value in enumerate(table.rows.column(role).to_pylist()):
        if name in map(label_of, value if isinstance(value, list) else [value]):
            return table.where(row)
    raise AssertionError(f"label {name!r} was found in the table before")


def _class_ids(table: DataTable, kind: Kind, *, declared: bool = True) -> list[str]:
    """Names of the class ids of rows of token ids: those that the source declares, else "0", "1", …"""
    if "labels" not in table.rows.column_names:
        raise one_error(
            table.where(0) if len(table) else "data", "labels", "rows of token ids need a column labels"
        )
    column = table.rows.column("labels")
    if kind == "multi":
        found = len(column[0]) if len(column) else 0
    else:
        ids = np.array(flat(column).drop_null().to_pylist())
        wrong = ids[(ids < 0) & (ids != int(NOT_COUNTED)) | (ids != np.floor(ids))] if ids.size else ids
        if wrong.size:
            raise one_error("data", "labels", f"class id {wrong[0]}; expected 0, 1, 2, … or -100 for none")
        found = int(ids.max(initial=-1)) + 1
    names = table.classes if declared else None
    if names and found > len(names):
        what = f"class id {found - 1}, but the column has {len(names)} names: {listed(names)}"
        raise one_error("data", "labels", what)
    return list(names) if names else [str(number) for number in range(found)]

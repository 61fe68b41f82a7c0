"""What is wrong with the splits, found before update 1: errors all at once, the rest as counted warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bigbatch.data.columns import ID
from bigbatch.data.labels import Kind, LabelSet, class_name, distinct_labels, flat, is_integer_name
from bigbatch.data.sources import is_empty_text
from bigbatch.data.suspicious import suspicious_rows
from bigbatch.data.tables import DataTable
from bigbatch.data.tags import iob_warnings, unequal_rows
from bigbatch.data.values import LARGEST_NUMBER, too_large
from bigbatch.errors import Problem
from bigbatch.files.class_names import LOOKS_MISSING, NOT_COUNTED
from bigbatch.files.problems import data_error, listed
from bigbatch.protocols import Role

_THINGS = {"text": "text", "image": "image", "messages": "conversation"}
_KINDS: dict[Kind, Any] = {
    "single": "label", "multi": "labels", "regression": "number", "tags": "tags", "classes": "classes"
}  # fmt: skip
_COUNTED: Mapping[str, str] = {"tags": "words", "classes": "boxes"}
"""Kind of role -> what has a class, where it is not a row."""


def check_splits(
    train: DataTable,
    validation: Mapping[str, DataTable],
    test: DataTable | None,
    *,
    kind: Kind,
    labels: LabelSet,
    roles: Mapping[str, Role] | None = None,
    doubles: bool = True,
) -> list[str]:
    """Refuse data that cannot be trained on; count what only looks wrong.

    Errors: zero rows, empty text, a missing label, a number that is not finite, a single class, a label that training
    never sees. Warnings: rows shared by training and another split, equal texts with different labels, ids that
    occur twice, labels that mix numbers and words, rows that are hardly meant (`suspicious`).

    Args:
        train: the training rows.
        validation: name -> rows.
        test: rows, or None.
        kind: of the task.
        labels: the classes; those that the recipe lists may be missing in training, with a warning.
        roles: what the task reads; by default `text` and a `label` of this kind.
        doubles: whether to look for rows that occur more than once, for which memory holds them all.

    Returns:
        Warnings in the user's words, those of reading first.

    Raises:
        DataError: all errors, with file and row.
    """
    roles = roles or {"text": Role(meaning="the text"), "label": Role(meaning="the label", kind=_KINDS[kind])}
    others = {_split_name(name): table for name, table in validation.items()}
    if test is not None:
        others["test"] = test
    splits = others if train.stream is not None else {"train": train, **others}
    problems: list[Problem] = []
    for name, table in splits.items():
        problems += _row_problems(name, table, roles)
    warnings = [warning for table in splits.values() for warning in table.warnings]
    if not problems and kind != "regression":
        problems += _class_problems(splits, kind, labels, roles, train)
    if problems:
        raise data_error(problems)
    if train.stream is not None:
        return warnings
    if kind == "regression":
        warnings += _same_number(train, roles)
    else:
        warnings += _label_warnings(train, labels, roles)
    warnings += _double_warnings(train, others, roles) if doubles else []
    return warnings + suspicious_rows(train, others, roles, doubles=doubles)


def _split_name(name: str) -> str:
    return "validation" if name == "main" else f"validation.{name}"


def _place(split: str, table: DataTable, row: int) -> str:
    return table.where(row) if table.origin else f"{split} {table.where(row)}"


def _target_role(table: DataTable, roles: Mapping[str, Role]) -> str | None:
    """The column with the targets."""
    target = next((role for role, about in roles.items() if not about.is_read and about.required), None)
    return "labels" if table.tokenised and target is not None else target


# ---------------------------------------------------------------- rows


def _row_problems(split: str, table: DataTable, roles: Mapping[str, Role]) -> list[Problem]:
    """Rows that lack something, and splits without rows."""
    if len(table) == 0:
        return [
            Problem(where=table.origin[0][0] if table.origin else split, what=f"no rows to use as {split}")
        ]
    if table.tokenised:
        roles = {"labels": Role(meaning="class ids", kind="label")} if _target_role(table, roles) else {}
    found: list[tuple[int, str, str]] = []
    for role, about in roles.items():
        if about.required:
            found += [(row, role, what) for row, what in _bad_values(table, role, about)]
    found += unequal_rows(table, roles)
    return [
        Problem(where=_place(split, table, row), key=role, what=what) for row, role, what in sorted(found)
    ]


def _bad_values(table: DataTable, role: str, about: Role) -> Iterable[tuple[int, str]]:
    """(row, what) for values that are missing, empty or not finite."""
    if role not in table.rows.column_names:
        return [(0, "the data has no such column")]
    column = table.rows.column(role)
    if about.is_read:
        thing = _THINGS.get(about.kind, "sentence")
        what = f"empty {thing}; remove the row, or set data.empty_text: drop to leave such rows out"
        return [(int(row), what) for row in np.flatnonzero(is_empty_text(column))]
    missing = column.is_null().to_numpy()
    bad = [
        (int(row), f"missing {'label' if about.kind in ('label', 'labels') else about.kind}")
        for row in np.flatnonzero(missing)
    ]
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        for row in np.flatnonzero(~np.isfinite(values) & ~missing):
            bad.append((int(row), f"{values[row]}: expected a finite number"))
        for row in np.flatnonzero(np.isfinite(values) & (np.abs(values) > LARGEST_NUMBER)):
            bad.append((int(row), too_large(values[row])))
    return bad


# ---------------------------------------------------------------- classes


def _class_problems(
    splits: Mapping[str, DataTable],
    kind: Kind,
    labels: LabelSet,
    roles: Mapping[str, Role],
    train: DataTable,
) -> list[Problem]:
    """A single class, and labels that training never sees."""
    role = _target_role(train, roles)
    if role is None:
        return []
    things = _COUNTED.get(kind, "rows")
    counts = {name: _class_counts(table, kind, role) for name, table in splits.items()}
    problems = []
    seen = counts.get("train", {})
    if train.stream is None and len(seen) < (1 if kind in ("multi", "classes") else 2):
        one = "box" if kind == "classes" else things.removesuffix("s")
        what = f"every {one} has the label {next(iter(seen))!r}" if seen else f"no {one} has a label"
        problems.append(
            Problem(where=_source(splits["train"]), key=role, what=f"{what}; there is nothing to learn")
        )
    for name, table in splits.items():
        # Rows of token ids have class ids where others have names.
        known = (
            set(map(str, range(len(labels))))
            if table.has_class_ids
            else {class_name(name) for name in labels.names}
        )
        for label, count in counts[name].items():
            if label not in known:
                first = _first_row(table, role, label)
                what = f"label {label!r} ({count:,} {things} of {name}) does not occur in the training data"
                problems.append(Problem(where=_place(name, table, first), key=role, what=what))
    return problems


def _source(table: DataTable) -> str:
    return table.origin[0][0] if table.origin else "train"


def _class_counts(table: DataTable, kind: Kind, role: str) -> dict[str, int]:
    """Rows of each class, most frequent first."""
    values = table.rows.column(role)
    if table.has_class_ids and kind == "multi":
        width = len(values[0])
        sums = np.array(values.to_pylist(), np.float64).clip(0).sum(axis=0)
        return {str(index): int(sums[index]) for index in range(width)}
    counted = Counter(
        str(value) for value in flat(values).to_pylist() if value is not None and str(value) != NOT_COUNTED
    )
    return dict(counted.most_common())


def _first_row(table: DataTable, role: str, label: str) -> int:
    for row, value in enumerate(table.rows.column(role).to_pylist()):
        if label in (map(str, value) if isinstance(value, list) else (str(value),)):
            return row
    raise AssertionError(f"label {label!r} was counted before")


def _label_warnings(train: DataTable, labels: LabelSet, roles: Mapping[str, Role]) -> list[str]:
    """Classes without rows, and names that look like a mistake."""
    role = _target_role(train, roles)
    if role is None or train.has_class_ids:
        return []
    seen = distinct_labels(train, role)
    kind = next(about.kind for about in roles.values() if about.kind in _KINDS.values())
    thing = {"tags": "word", "classes": "box"}.get(kind, "row")
    warnings = iob_warnings(train, roles)
    absent = [name for name in labels.names if class_name(name) not in seen]
    if absent:
        warnings.append(f"no training {thing} has the label {listed(absent)}; the model cannot learn it")
    numbers = [name for name in seen if is_integer_name(name)]
    if 0 < len(numbers) < len(seen):
        words = sorted(set(seen) - set(numbers))
        warnings.append(
            f"labels mix numbers ({listed(sorted(numbers), 3)}) and words ({listed(words, 3)}); is that meant?"
        )
    unsaid = sorted(name for name in seen if name.lower() in LOOKS_MISSING)
    if unsaid:
        warnings.append(
            f"{listed(unsaid)}: as text these are classes like any other; an empty cell is a missing label"
        )
    odd = sorted(name for name in seen if "," in name)
    if kind == "labels" and odd and not _several(train, role):
        warnings.append(
            f"{len(odd):,} labels contain a comma, such as {odd[0]!r}: several labels are separated by |"
        )
    return warnings


def _several(train: DataTable, role: str) -> bool:
    """Whether any row has more than one label."""
    return any(len(names) > 1 for names in train.rows.column(role).to_pylist())


def _same_number(train: DataTable, roles: Mapping[str, Role]) -> list[str]:
    role = _target_role(train, roles)
    if role is None or any(about.kind in ("answers", "fold") for about in roles.values()):
        return []
    values = flat(train.rows.column(role)).unique()
    if len(values) != 1:
        return []
    return [f"every training row has the same number, {values[0].as_py()}; there is nothing to learn"]


# ---------------------------------------------------------------- doubles


def _double_warnings(
    train: DataTable, others: Mapping[str, DataTable], roles: Mapping[str, Role]
) -> list[str]:
    """Rows shared by splits, equal texts with different labels, ids that occur twice."""
    keys = _keys(train, roles)
    known = set(keys)
    # A molecule was often looked at more than once, and never moves in quite the same way.
    folded = any(about.kind == "fold" for about in roles.values())
    warnings = _conflicts(train, keys, None if folded else _target_role(train, roles))
    for name, table in others.items():
        shared = [row for row, key in enumerate(_keys(table, roles)) if key in known]
        if shared:
            part = 100 * len(shared) / len(table)
            warnings.append(
                f"{len(shared):,} rows of {name} ({part:.1f} %) are also in train, so its figures flatter; "
                f"the first: {_place(name, table, shared[0])}"
            )
    for name, table in {"train": train, **others}.items():
        if ID in table.rows.column_names:
            ids = [value for value in table.rows.column(ID).to_pylist() if value is not None]
            doubles = [value for value, count in Counter(ids).items() if count > 1]
            if doubles:
                warnings.append(
                    f"{len(doubles):,} ids of {name} occur more than once, such as {doubles[0]!r}"
                )
    return warnings


def _keys(table: DataTable, roles: Mapping[str, Role]) -> Sequence[Any]:
    """What makes two rows the same: all their texts, or their token ids."""
    if "input_ids" in table.rows.column_names:
        return [tuple(ids) for ids in table.rows.column("input_ids").to_pylist()]
    texts = [role for role, about in roles.items() if about.is_read and role in table.rows.column_names]
    columns = [table.rows.column(role).to_pylist() for role in texts]
    columns = [[_key(part) for part in column] for column in columns]
    return list(zip(*columns, strict=True))


def _key(value: object) -> object:
    """Of a sentence its words, of an image the hash of its file."""
    if isinstance(value, dict):
        return value["sha256"]
    return tuple(value) if isinstance(value, list) else value


def _conflicts(train: DataTable, keys: Sequence[Any], role: str | None) -> list[str]:
    """Equal texts in training whose labels differ."""
    if role is None or len(set(keys)) == len(keys):
        return []
    counts = Counter(keys)
    first: dict[Any, dict[str, int]] = {}
    """Text -> label -> its first row, for texts that occur more than once."""
    for row, (key, value) in enumerate(zip(keys, train.rows.column(role).to_pylist(), strict=True)):
        if counts[key] > 1:
            first.setdefault(key, {}).setdefault(repr(value), row)
    clashing = [key for key, by_label in first.items() if len(by_label) > 1]
    if not clashing:
        return []
    places = [_place("train", train, row) for row in list(first[clashing[0]].values())[:2]]
    return [
        f"{len(clashing):,} texts occur with different labels ({sum(counts[key] for key in clashing):,} rows), "
        f"the first: {places[0]} and {places[1]}"
    ]

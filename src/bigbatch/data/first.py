"""The first row of what is given to train on, before anybody has said what its columns mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bigbatch.data.objects import names_files
from bigbatch.errors import DataError
from bigbatch.files.kinds import find_files, read_file
from bigbatch.files.plain import plain
from bigbatch.remote.addresses import is_address
from bigbatch.turns import FORMS, holds_conversations

_MOST_BYTES = 2**24
"""Of a line that is looked at."""


def are_conversations(rows: object, columns: object = None) -> bool:
    """Whether the first row of a dataset in memory, or of files, holds the turns of a conversation: by its columns, or
    by those that the caller names.
    """
    if isinstance(columns, Mapping):
        return any(not {*form} - {*columns} for form in FORMS)
    return holds_conversations(first_row(rows))


def task_by_rows(
    task: dict[str, object] | None, rows: object, columns: object = None
) -> dict[str, object] | None:
    """What a head learns of such rows: a causal model what the assistant says, if they are conversations; of pairs of
    answers, which is the better one.

    Args:
        task: that the head is for, as a recipe has it.
        rows: a dataset in memory, or files.
        columns: role -> column, where the caller names them.
    """
    if task == {"name": "clm"} and are_conversations(rows, columns):
        return {"name": "chat"}
    if task and {"chosen", "rejected"} <= set(columns if isinstance(columns, Mapping) else first_row(rows)):
        return {"name": "prefer" if task["name"] == "clm" else "reward"}
    return task


def first_row(rows: object) -> Mapping[str, object]:
    """Column -> value of a dataset in memory, or of the first of some files; empty where there is none that can be
    read: whoever reads all rows says what is wrong. Nothing is fetched.
    """
    return _of_file(rows) if names_files(rows) else _of_memory(rows)


def _of_memory(rows: object) -> Mapping[str, object]:
    by_number: object = getattr(rows, "iloc", rows)
    getitem: Callable[[int], object] | None = getattr(by_number, "__getitem__", None)
    try:
        first = {} if getitem is None or isinstance(rows, (str, Mapping)) else getitem(0)
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    keys: Callable[[], Iterable[str]] | None = getattr(first, "keys", None)
    values: Callable[[str], object] | None = getattr(first, "__getitem__", None)
    return {} if keys is None or values is None else {str(name): values(name) for name in keys()}


def _of_file(rows: object) -> Mapping[str, object]:
    entry = rows[0] if isinstance(rows, (list, tuple)) else rows
    path = str(getattr(entry, "path", entry))
    if is_address(path):
        return {}
    try:
        name, file = find_files(path, Path())[0]
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            with file.open("rb") as lines:
                line = next(
                    (each for each in iter(lambda: lines.readline(_MOST_BYTES), b"") if each.strip()), b""
                )
            found = json.loads(line)
            return found if isinstance(found, dict) else {}
        raw = read_file(name, file, "utf-8")
        loaded = raw.load(list(raw.columns)) if raw.rows else {}
        return {
            column: plain(values[0] if isinstance(values, list) else values.slice(0, 1).to_pylist()[0])
            for column, values in loaded.items()
        }
    except (DataError, OSError, ValueError, RecursionError):
        return {}

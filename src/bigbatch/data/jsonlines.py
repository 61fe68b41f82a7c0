"""JSON Lines (and a JSON array of objects): one problem per bad line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bigbatch.data.delimited import check_mark, not_utf8
from bigbatch.data.problems import data_error, one_error
from bigbatch.data.raw import Raw, from_dicts
from bigbatch.errors import Problem


def read_json_lines(name: str, content: bytes, encoding: str) -> Raw:
    """Objects, one a line; empty lines are skipped. Row numbers are line numbers.

    Values keep their own types: Arrow's reader would take texts that look like dates for dates, and stop at the
    first column of mixed types instead of naming all rows.

    Raises:
        DataError: every malformed line, with its number and byte offset.
    """
    offset = check_mark(name, content, encoding)
    if content[offset:].lstrip()[:1] == b"[":
        return _array(name, content[offset:], encoding)
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, line in enumerate(content[offset:].split(b"\n"), start=1):
        if line.strip():
            row, fault = _parse(line, encoding)
            if fault is None:
                rows.append(row)
                numbers.append(number)
            else:
                what = f"{fault[1]} (byte offset {offset + fault[0]:,})"
                problems.append(Problem(where=f"{name}:{number}", what=what))
        offset += len(line) + 1
    if problems:
        raise data_error(problems)
    return from_dicts(name, rows, numbers=np.array(numbers, np.int64))


def _parse(line: bytes, encoding: str) -> tuple[dict[str, Any], tuple[int, str] | None]:
    """The object, or where in the line and why there is none."""
    try:
        text = line.decode("latin-1" if encoding == "latin-1" else "utf-8")
        row = json.loads(text)
    except UnicodeDecodeError as error:
        return {}, (error.start, not_utf8(line[error.start]))
    except json.JSONDecodeError as error:
        before = error.doc[: error.pos].encode("latin-1" if encoding == "latin-1" else "utf-8")
        return {}, (len(before), f"not JSON: {error.msg}")
    except RecursionError:
        return {}, (0, "not JSON that can be read: nested too deeply")
    if not isinstance(row, dict):
        return {}, (0, f"expected an object {{…}} on every line, found {type(row).__name__}")
    return row, None


def _array(name: str, content: bytes, encoding: str) -> Raw:
    try:
        rows = json.loads(content.decode("latin-1" if encoding == "latin-1" else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise one_error(name, "", f"not JSON: {error}") from error
    wrong = [number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]
    if wrong:
        raise data_error(
            [Problem(where=f"{name}:{number}", what="expected an object {…}") for number in wrong]
        )
    return from_dicts(name, rows)

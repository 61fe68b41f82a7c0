"""JSON Lines, an array of objects, or objects over several lines each: one problem per bad line, or one in all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bigbatch.errors import Problem
from bigbatch.files.coco import holds_coco, read_coco
from bigbatch.files.delimited import check_mark, not_utf8
from bigbatch.files.line_numbers import Lines
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.raw import Raw, from_dicts
from bigbatch.files.squad import holds_questions, read_questions
from bigbatch.protocols import Row

_LINE_END = re.compile(rb"\r\n|\n|\r")
_RETURN = "within a text it is written as the two characters \\r"
_NEXT = re.compile(r"[ \t\r\n]*")


def read_json_lines(name: str, content: bytes, encoding: str) -> Raw:
    """Objects, one a line; empty lines are skipped. Row numbers are line numbers.

    Values keep their own types: Arrow's reader would take texts that look like dates for dates, and stop at the
    first column of mixed types instead of naming all rows.

    Args:
        name: of the file, for messages.
        content: the file, unpacked; an array of objects is taken, too.
        encoding: of text.

    Raises:
        DataError: every malformed line, with its number and byte offset.
    """
    offset = check_mark(name, content, encoding)
    if content[offset:].lstrip()[:1] == b"[":
        return _array(name, content[offset:], encoding)
    problems: list[Problem] = []
    lines = Lines(content)
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for number, (start, line) in enumerate(_lines(content, offset), start=1):
        if not line.strip():
            continue
        row, fault = _parse(line, encoding)
        if fault is None:
            rows.append(row)
            numbers.append(number)
        else:
            end = start + len(line) + 1
            stray = "" if content[end : end + 1] == b"\n" else lines.stray_return(end, 0, _RETURN)
            real = lines.number(start)
            at = "" if real == number else f"line {real:,}, "
            what = f"{fault[1]}{stray} ({at}byte offset {start + fault[0]:,})"
            problems.append(Problem(where=f"{name}:{number}", what=what))
    if problems and content[offset:].lstrip()[:1] == b"{":
        found = _spread(name, content[offset:], encoding, nothing_else=not rows)
        if found is not None:
            return found
    if problems:
        raise data_error(problems)
    return _raw(name, rows, numbers)


def _raw(name: str, rows: Sequence[Row], numbers: list[int] | None = None) -> Raw:
    """Objects as rows; a file of questions has a row for each of them, one of images with boxes one for each image."""
    if holds_questions(rows):
        return read_questions(name, rows)
    if holds_coco(rows):
        return read_coco(name, rows[0])
    return from_dicts(name, rows, **({} if numbers is None else {"numbers": np.array(numbers, np.int64)}))


def _lines(content: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line), ended as in every other file."""
    for end in _LINE_END.finditer(content, start):
        yield start, content[start : end.start()]
        start = end.end()
    yield start, content[start:]


def _spread(name: str, content: bytes, encoding: str, *, nothing_else: bool) -> Raw | None:
    """Objects that are written over several lines each; None where the file is no such.

    Raises:
        DataError: the file starts as one, no line is an object of its own, and something is wrong.
    """
    try:
        text = content.decode("latin-1" if encoding == "latin-1" else "utf-8")
    except UnicodeDecodeError:
        return None
    decoder, rows, numbers, place = json.JSONDecoder(), [], [], 0
    try:
        while (place := _NEXT.match(text, place).end()) < len(text):  # type: ignore[union-attr]
            row, end = decoder.raw_decode(text, place)
            if not isinstance(row, dict) or (not rows and "\n" not in text[place:end]):
                return None
            rows.append(row)
            numbers.append(text.count("\n", 0, place) + 1)
            place = end
    except (ValueError, RecursionError) as error:
        if not nothing_else or "\n" not in text.strip():
            return None
        what = f"not JSON: {error}; expected an object {{…}} on every line, or an array [{{…}}, {{…}}]"
        raise one_error(name, "", what) from None
    inside = [key for key, value in rows[0].items() if isinstance(value, list) and _all_objects(value)]
    if len(rows) == 1 and inside and not holds_questions(rows) and not holds_coco(rows):
        what = f"one object, with rows under {inside[0]!r}; expected these rows alone, as an array [{{…}}, {{…}}]"
        raise one_error(name, "", what)
    return _raw(name, rows, numbers)


def _all_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


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
    except ValueError as error:  # a number of thousands of digits
        return {}, (0, f"not JSON that can be read: {error}")
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
    return _raw(name, rows)

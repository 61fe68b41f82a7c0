"""Predictions as JSON Lines or CSV, or all of them as one JSON value. A file is complete or absent, and never
replaces another one.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from bigbatch.errors import DiskError, UsageError
from bigbatch.protocols import Row
from bigbatch.written import publish

Write = Callable[[Mapping[str, Any]], None]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@contextmanager
def open_output(
    out: Path | TextIO | None, source: Path | None = None, *, whole: Whole | None = None
) -> Iterator[Write]:
    """A function that writes one prediction; the file appears under its name once all are written.

    Args:
        out: `.jsonl` or `.csv` file, or a text stream that gets JSON Lines (None: standard output).
        source: the input file, which is never overwritten.
        whole: what makes one JSON value of all predictions, for a `.json` file.

    Raises:
        UsageError: the file exists, is the input, or has another suffix.
        DiskError: it cannot be written.
    """
    if out is None or not isinstance(out, Path):
        yield _json_lines(sys.stdout if out is None else out)
        return
    check_output(out, source, whole=whole)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    formats = _FORMATS if whole is None else {**_FORMATS, ".json": whole}
    try:
        with temporary.open("x+", encoding="utf-8", newline="") as file:
            write = formats[out.suffix.lower()](file)
            yield write
            if isinstance(write, OneValue):
                write.end()
            file.flush()
            os.fsync(file.fileno())
        try:
            publish(temporary, out)
        except FileExistsError:
            _refuse_existing(out, source)
            raise
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (temporary, out):
            raise
        raise DiskError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(out: Path, source: Path | None = None, *, whole: Whole | None = None) -> None:
    """Refuse a file that could not be written, or that is there.

    Args:
        out: the file.
        source: the input file.
        whole: what `.json` is for; None: it is not.

    Raises:
        UsageError: the file exists, is the input, or has another suffix.
    """
    if out.suffix.lower() not in (*_FORMATS, *((".json",) if whole else ())):
        raise UsageError(
            f"{out}: cannot write {out.suffix or 'a file without suffix'}; expected .jsonl or .csv"
            f"{f', or .json for {whole.holds}' if whole else ''}"
        )
    _refuse_existing(out, source)


def _refuse_existing(out: Path, source: Path | None) -> None:
    if source is not None and out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"{out} is the input; choose another name for the predictions")
    if os.path.lexists(out):
        raise UsageError(f"{out} exists and is not overwritten; remove it or choose another name")


def _json_lines(file: TextIO) -> Write:
    def write(prediction: Mapping[str, Any]) -> None:
        file.write(json_line(prediction))

    return write


def json_line(record: Mapping[str, object]) -> str:
    """A record as a line of JSON Lines, with nothing in it that a terminal obeys."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n"


def _csv_rows(file: TextIO) -> Write:
    rows = csv.writer(file, lineterminator="\n")
    header: list[str] = []

    def write(prediction: Mapping[str, Any]) -> None:
        flat = _flat(prediction)
        new = [name for name in flat if name not in header]
        if new:
            header.extend(new)
            _rewrite_header(file, [safe_cell(name) for name in header], len(new))
        rows.writerow([safe_cell(flat.get(name, "")) for name in header])

    return write


_FORMATS: dict[str, Callable[[TextIO], Write]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": _csv_rows,
}


@runtime_checkable
class OneValue(Protocol):
    """Writes predictions as parts of one JSON value."""

    def __call__(self, prediction: Row, /) -> None:
        """The next one."""
        ...

    def end(self) -> None:
        """Nothing comes any more."""
        ...


@dataclass(frozen=True)
class Whole:
    """A form of a whole file."""

    make: Callable[[TextIO], OneValue]
    holds: str
    """In words."""

    def __call__(self, file: TextIO) -> OneValue:
        """Ready to write into a file."""
        return self.make(file)


def _rewrite_header(file: TextIO, header: Sequence[Any], new: int) -> None:
    """Put a header with some more columns at its end over what was written: rows need not have the same fields.

    Each row is one line, since line breaks within cells are escaped.
    """
    file.seek(0)
    lines = file.read().split("\n")[1:-1]
    file.seek(0)
    file.truncate()
    csv.writer(file, lineterminator="\n").writerow(header)
    file.writelines(f"{line}{',' * new}\n" for line in lines)


def _flat(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """`probabilities` as a column for each label, several labels with `|` between them."""
    flat: dict[str, Any] = {}
    for name, value in prediction.items():
        if isinstance(value, Mapping):
            flat.update({f"probability_{label}": share for label, share in value.items()})
        else:
            flat[name] = _joined(value) if isinstance(value, (list, tuple)) else value
    return flat


def _joined(values: Sequence[Any]) -> str:
    """Names with `|` between them; objects, such as entities, as JSON."""
    if any(isinstance(value, Mapping) for value in values):
        return json.dumps(values, ensure_ascii=False)
    return "|".join("" if value is None else str(value) for value in values)


def safe_cell(value: Any) -> Any:
    """A cell that no spreadsheet runs as a formula and no terminal obeys.

    Text that starts with `=`, `+`, `-` or `@` and is no number gets a leading apostrophe; control characters are
    written as escapes.
    """
    if not isinstance(value, str):
        return value
    visible = _CONTROL.sub(lambda found: _escape(found[0]), value)
    runs = visible.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(visible.strip())
    return f"'{visible}" if runs else visible


def _escape(character: str) -> str:
    return f"\\x{ord(character):02x}" if ord(character) < 0x100 else f"\\u{ord(character):04x}"

"""Rows of a file or of standard input, streamed: one at a time, each with its place for messages."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from bigbatch.data.columns import pick_columns
from bigbatch.data.conll import sentences
from bigbatch.data.delimited import delimiter_of
from bigbatch.data.files import CONLL
from bigbatch.errors import DataError, Problem, UsageError
from bigbatch.protocols import Role

Format = Literal["csv", "tsv", "jsonl", "conll", "text"]
_READ = ("text", "words")
"""Kinds of roles that the model reads."""
PlacedRow = tuple[str, Mapping[str, Any]]
"""`new.csv:12` (the header is row 1), and role -> value."""

_FORMATS: Mapping[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "text",
    **dict.fromkeys(CONLL, "conll"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RowReader:
    """How the rows of one source are found."""

    name: str
    """Of the source, for messages."""
    format: Format
    columns: Mapping[str, str]
    """Role -> column, for the roles that have another name than their own."""
    roles: Mapping[str, Role]
    """What the task reads."""

    def rows(self, stream: TextIO) -> Iterator[PlacedRow]:
        """Every row, in order.

        Raises:
            DataError: a malformed row, with its place; no column for the text.
        """
        readers = {"text": self._lines, "jsonl": self._objects, "conll": self._sentences}
        rows = readers.get(self.format, self._cells)(stream)
        seen: dict[str, None] = {}
        picked: dict[str, str] = {}
        for place, row in rows:
            if not row.keys() <= seen.keys():  # JSON rows need not all have the same keys
                seen |= dict.fromkeys(row)
                picked = self._pick(list(seen)) | picked
            yield place, {role: row[column] for role, column in picked.items() if column in row}

    def _pick(self, available: list[str]) -> dict[str, str]:
        """Role -> column of this source; targets are not read, and numbers are if they are there."""
        # A column of text that the recipe names has to be there, also that of a role which training may do without.
        read = {
            name
            for name, role in self.roles.items()
            if role.kind in _READ and not role.absent_when_predicting
        }
        roles = {
            name: Role(
                meaning=role.meaning,
                kind=role.kind,
                required=role.required and name in read,
            )
            for name, role in self.roles.items()
            if role.kind not in ("label", "labels", "tags") and name != "label"
        }
        wanted = {
            role: column
            for role, column in self.columns.items()
            if role == "id" or (role in roles and (role in read or column in available))
        }
        return pick_columns(available, wanted, roles, self.name)

    def _lines(self, stream: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(self._decoded(stream), start=1):
            yield f"{self.name}:{number}", {read_role(self.roles): line.rstrip("\r\n")}

    def _sentences(self, stream: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
        for lines in sentences(self._decoded(stream)):
            yield f"{self.name}:{lines[0][0]}", {"words": [columns[0] for _, columns in lines]}

    def _objects(self, stream: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(self._decoded(stream), start=1):
            if not line.strip():
                continue
            place = f"{self.name}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _error(place, f"not JSON: {error}") from None
            if not isinstance(row, dict):
                raise _error(place, f'found {type(row).__name__}; expected an object such as {{"text": …}}')
            yield place, row

    def _cells(self, stream: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
        lines = self._decoded(stream)
        first = next(lines, "")
        delimiter = delimiter_of(first.encode("utf-8", "replace"), self.format == "tsv").decode()
        cells = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
        number, header = 0, None
        while True:
            number += 1
            try:
                row = next(cells)
            except StopIteration:
                return
            except csv.Error as error:
                hint = "; write it as JSON Lines" if "field limit" in str(error) else ""
                raise _error(f"{self.name}:{number}", f"{error}{hint}") from None
            if not row:
                continue
            if header is None:
                header = row
                self._check_header(header)
            elif len(row) != len(header):
                raise _error(f"{self.name}:{number}", f"{len(row)} fields, expected {len(header)}")
            else:
                yield f"{self.name}:{number}", dict(zip(header, row, strict=True))

    def _check_header(self, header: list[str]) -> None:
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise _error(f"{self.name}:1", f"column {', '.join(twice)} occurs twice")

    def _decoded(self, stream: TextIO) -> Iterator[str]:
        lines, number = iter(stream), 0
        while True:
            number += 1
            try:
                line = next(lines)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                what = f"not {error.encoding}: {error.reason}; give the file's encoding, such as latin-1"
                raise _error(f"{self.name}: near line {number}", what) from None
            yield line


@contextmanager
def open_source(
    source: Path | TextIO | None, *, roles: Mapping[str, Role], columns: Mapping[str, str], encoding: str
) -> Iterator[Iterator[PlacedRow]]:
    """Rows of a file, or of a text stream (None: standard input).

    A file's suffix says its format. A stream is JSON Lines when it starts with `{`, CSV when its first line names the
    text column, else one text a line.

    Raises:
        UsageError: no such file, or an unknown suffix.
        DataError: a malformed row.
    """
    if source is None or not isinstance(source, Path):
        stream = sys.stdin if source is None else source
        name = "stdin" if source is None else str(getattr(stream, "name", "stream"))
        first = stream.readline()
        text = read_role(roles)
        kind = _sniffed(first, columns.get(text, text))
        reader = RowReader(name=name, format=kind, columns=_named(kind, columns), roles=roles)
        yield reader.rows(_Continued(first, stream))  # type: ignore[arg-type]
        return
    suffix = source.suffix.lower()
    if suffix not in _FORMATS:
        raise UsageError(
            f"{source}: cannot read {suffix or 'a file without suffix'}; expected {', '.join(_FORMATS)}"
        )
    kind = _FORMATS[suffix]
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    reader = RowReader(name=source.name, format=kind, columns=_named(kind, columns), roles=roles)
    try:
        file = source.open(encoding=codec, newline="" if kind in ("csv", "tsv") else None)
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror}") from None
    with file:
        yield reader.rows(file)


def read_role(roles: Mapping[str, Role]) -> str:
    """The role that a bare text stands for: the first one that the model reads."""
    return next((name for name, role in roles.items() if role.kind in _READ), "text")


def _named(kind: Format, columns: Mapping[str, str]) -> Mapping[str, str]:
    """Formats without names of columns have their own."""
    return {} if kind in ("text", "conll") else columns


class _Continued(io.TextIOBase):
    """A stream whose first line has been read already."""

    def __init__(self, first: str, rest: TextIO) -> None:
        self._lines = itertools.chain([first] if first else [], rest)

    def __iter__(self) -> _Continued:
        return self

    def __next__(self) -> str:
        return next(self._lines)


def _sniffed(first: str, text_column: str) -> Format:
    start = first.lstrip("\ufeff").strip()
    if start.startswith("{"):
        return "jsonl"
    for kind, delimiter in (("csv", ","), ("csv", ";"), ("tsv", "\t")):
        if text_column in [cell.strip().strip('"') for cell in start.split(delimiter)]:
            return kind  # type: ignore[return-value]
    return "text"


def _error(place: str, what: str) -> DataError:
    return DataError([Problem(where=place, what=what)])

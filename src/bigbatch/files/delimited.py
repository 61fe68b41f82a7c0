"""CSV and TSV. Arrow's reader for good files; an exact scan that names every bad row of the others.

Arrow reads an unclosed quote to the end of the file, and text after a closing quote, without a word; so the
quoting is checked first, by one regular expression at C speed. Where anything is wrong, the file is scanned field by
field and all bad rows are reported with row number (the header is row 1) and byte offset.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import csv

from bigbatch.errors import Problem
from bigbatch.files.line_numbers import Lines
from bigbatch.files.problems import data_error, one_error
from bigbatch.files.raw import Column, Raw

_BOM = b"\xef\xbb\xbf"
_MOST_BYTES = 2**31 - 1


@dataclass(frozen=True)
class _Grammar:
    """Compiled expressions for one delimiter."""

    delimiter: bytes
    quotes: bool
    """Whether a field may stand in quotes; else they are characters."""
    whole: re.Pattern[bytes]
    """Matches as far as the quoting is right; the file must end with a line end."""
    quoted: re.Pattern[bytes]
    plain: re.Pattern[bytes]


def _grammar(delimiter: bytes, quotes: bool) -> _Grammar:
    d = re.escape(delimiter)
    # Possessive quantifiers: no backtracking, so time is linear in the file.
    quoted, plain = rb'"(?:[^"]++|"")*+"', rb"[^" + d + rb"\r\n]*+"
    field = rb"(?:" + quoted + rb"|(?!\")" + plain + rb")" if quotes else plain
    return _Grammar(
        delimiter=delimiter,
        quotes=quotes,
        whole=re.compile(rb"(?:" + field + rb"(?:" + d + rb"|\r\n|\n|\r))*+"),
        quoted=re.compile(quoted),
        plain=re.compile(plain),
    )


@dataclass(frozen=True)
class _Record:
    """One row as bytes: where its fields lie, or what is wrong with it."""

    start: int
    fields: tuple[tuple[int, int], ...]
    end: int
    fault: tuple[int, str] | None = None
    """(byte offset, what) of broken quoting."""


def read_delimited(name: str, content: bytes, encoding: str, tab: bool, quoting: str = "minimal") -> Raw:
    """The rows of a CSV or TSV file.

    Args:
        name: for messages.
        content: the whole file.
        encoding: `utf-8` (a byte order mark is stripped), `utf-8-sig` or `latin-1`.
        tab: fields are separated by tabs; otherwise by commas, or by semicolons when the header has only those.
        quoting: `minimal`: fields may stand in quotes; `none`: quotes are characters like any other.

    Raises:
        DataError: every malformed row, with its number and byte offset.
    """
    skipped = check_mark(name, content, encoding)
    data = content[skipped:]
    if not data.strip():
        raise one_error(name, "", "the file is empty; expected a header line and rows")
    data = data.rstrip(b"\r\n") + b"\n"
    grammar = _grammar(delimiter_of(data.lstrip(b"\r\n").splitlines()[0], tab), quoting != "none")
    header, body_start = _header(name, data, grammar, encoding)
    body = data[body_start:]
    if _suspicious(data, encoding, grammar):
        raise data_error(_diagnose(name, data, grammar, header, encoding, skipped))
    table, ragged = _parse(body, grammar, len(header), encoding)
    if ragged or table is None:
        problems = _diagnose(name, data, grammar, header, encoding, skipped)
        raise data_error(problems or [Problem(where=name, what=f"not readable as CSV: {ragged}")])
    index = {column: number for number, column in enumerate(header) if column}

    def load(names: Sequence[str]) -> Mapping[str, Column]:
        return {column: table.column(index[column]) for column in names}

    return Raw(name=name, columns=tuple(index), rows=table.num_rows, load=load, first_number=2)


def delimiter_of(header: bytes, tab: bool) -> bytes:
    """What separates the fields: a tab, a comma, or a semicolon when the header has only those."""
    if tab:
        return b"\t"
    return b";" if b"," not in header and b";" in header else b","


def check_mark(name: str, content: bytes, encoding: str) -> int:
    """Length of the byte order mark; a mark that contradicts the encoding is an error.

    Args:
        name: of the file, for messages.
        content: the file, unpacked.
        encoding: as `data.encoding` has it.

    Returns:
        Bytes, 0 without a mark.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise one_error(name, "", "the file is UTF-16; save it as UTF-8")
    if not content.startswith(_BOM):
        return 0
    if encoding == "latin-1":
        raise one_error(name, "data.encoding", "latin-1, but the file starts with a UTF-8 mark; use utf-8")
    return len(_BOM)


def _suspicious(data: bytes, encoding: str, grammar: _Grammar) -> bool:
    """Whether quoting, NUL bytes or the encoding need a closer look."""
    matched = grammar.whole.match(data)
    if b"\0" in data or matched is None or matched.end() != len(data):
        return True
    return encoding != "latin-1" and _bad_utf8(data) is not None


def _bad_utf8(data: bytes) -> int | None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return None


def _parse(data: bytes, grammar: _Grammar, columns: int, encoding: str) -> tuple[pa.Table | None, str]:
    """Arrow's table, all columns as text, and the first complaint."""
    ragged: list[str] = []

    def skip(row: csv.InvalidRow) -> str:
        ragged.append(f"{row.actual_columns} fields, expected {row.expected_columns}")
        return "skip"

    names = [str(number) for number in range(columns)]
    if not data.strip(b"\r\n"):
        return pa.table({name: pa.chunked_array([[]], pa.large_string()) for name in names}), ""
    if encoding == "latin-1":
        data = data.decode("latin-1").encode()
    try:
        table = csv.read_csv(
            io.BytesIO(data),
            # One block: a long text may be larger than any fixed block.
            read_options=csv.ReadOptions(column_names=names, block_size=min(len(data) + 1, _MOST_BYTES)),
            parse_options=csv.ParseOptions(
                delimiter=grammar.delimiter.decode(),
                quote_char='"' if grammar.quotes else False,
                newlines_in_values=True,
                invalid_row_handler=skip,
                ignore_empty_lines=columns > 1,
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        return None, str(error)
    return table, ragged[0] if ragged else ""


def _header(name: str, data: bytes, grammar: _Grammar, encoding: str) -> tuple[list[str], int]:
    """Column names, and where the rows begin."""
    record = next(_scan(data, grammar))
    if record.fault:
        what = f"{record.fault[1]} (byte offset {record.fault[0]:,}){_hint(grammar)}"
        raise one_error(f"{name}:1", "", what)
    header = [_text(data[start:end], encoding, grammar).strip() for start, end in record.fields]
    named = [column for column in header if column]
    doubles = sorted({column for column in named if named.count(column) > 1})
    if doubles:
        raise one_error(
            f"{name}:1", doubles[0], "this column is in the header twice; every name must be its own"
        )
    return header, record.end


def _text(field: bytes, encoding: str, grammar: _Grammar) -> str:
    if grammar.quotes and field.startswith(b'"'):
        field = field[1:-1].replace(b'""', b'"')
    return field.decode("latin-1" if encoding == "latin-1" else "utf-8", "replace")


def _scan(data: bytes, grammar: _Grammar) -> Iterator[_Record]:
    """All records, broken ones with their fault; after a fault, scanning goes on at the next line."""
    position = 0
    while position < len(data):
        if data[position] in b"\r\n":  # an empty line
            position += 1
            continue
        record = _record(data, position, grammar)
        yield record
        position = record.end


def _record(data: bytes, start: int, grammar: _Grammar) -> _Record:
    fields: list[tuple[int, int]] = []
    position = start
    while True:
        if grammar.quotes and data[position : position + 1] == b'"':
            match = grammar.quoted.match(data, position)
            after = data[match.end() : match.end() + 1] if match else b""
            if match is None or after not in (grammar.delimiter, b"\n", b"\r"):
                return _broken(data, start, position, match)
        else:
            match = grammar.plain.match(data, position)
            assert match is not None, "the expression for a plain field matches nothing at all too"
            after = data[match.end() : match.end() + 1]
        fields.append(match.span())
        position = match.end() + 1
        if after != grammar.delimiter:
            if data[match.end() : position + 1] == b"\r\n":
                position += 1
            return _Record(start, tuple(fields), position)


def _broken(data: bytes, start: int, opening: int, match: re.Match[bytes] | None) -> _Record:
    """A quote that never closes, or text behind a closing one; the next record starts at the next line."""
    # A field with line ends in it and text behind it: its quote was not closed and met the next one in the file.
    unclosed = match is None or b"\n" in match[0]
    what = (
        "a quote is opened and never closed"
        if unclosed
        else 'text after a closing quote; a quote inside quotes is written twice ("")'
    )
    line_end = data.find(b"\n", opening)
    end = len(data) if line_end < 0 else line_end + 1
    return _Record(start, (), end, (opening if unclosed or match is None else match.end(), what))


def _diagnose(
    name: str, data: bytes, grammar: _Grammar, header: list[str], encoding: str, skipped: int
) -> list[Problem]:
    """Every bad row, in order; with its line where that is another number, as after texts of several lines."""
    problems, lines = [], Lines(data)
    for number, record in enumerate(_scan(data, grammar), start=1):
        fault = record.fault
        column = ""
        if fault is None and len(record.fields) != len(header):
            found = f"{len(record.fields)} fields, but the header has {len(header)}"
            fault = (record.start, found + _stray(lines, record.end, skipped))
        elif fault is None:
            column, fault = _bad_field(data, record, header, encoding)
        if fault is not None:
            hint = _hint(grammar) if record.fault and not problems else ""
            line = lines.number(record.start)
            place = "" if line == number else f"line {line:,}, "
            what = f"{fault[1]} ({place}byte offset {fault[0] + skipped:,}){hint}"
            problems.append(Problem(where=f"{name}:{number}", key=column, what=what))
    return problems


def _stray(lines: Lines, end: int, skipped: int) -> str:
    remedy = "put the field that holds it between quotes, or replace it by a blank"
    return lines.stray_return(end, skipped, remedy)


def _hint(grammar: _Grammar) -> str:
    """How a file is read whose quotes are bare, which is usual where tabs separate."""
    if grammar.delimiter != b"\t":
        return ""
    return "; where quotes are characters like any other, set data.quoting: none (predict, evaluate: --quoting none)"


def _bad_field(
    data: bytes, record: _Record, header: list[str], encoding: str
) -> tuple[str, tuple[int, str] | None]:
    """The first field with a NUL byte or bytes that are not UTF-8."""
    for (start, end), column in zip(record.fields, header, strict=True):
        field = data[start:end]
        nul = field.find(b"\0")
        if nul >= 0:
            return column, (start + nul, "a NUL byte; the file is damaged, or is not text")
        bad = None if encoding == "latin-1" else _bad_utf8(field)
        if bad is not None:
            return column, (start + bad, not_utf8(field[bad]))
    return "", None


def not_utf8(byte: int) -> str:
    """What to say about a byte that is not UTF-8."""
    return f"byte 0x{byte:02X} is not UTF-8; if the file is Latin-1, set data.encoding: latin-1"

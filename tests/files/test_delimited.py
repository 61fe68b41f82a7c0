"""CSV and TSV: good files as they are, bad rows by number and byte offset."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import DataError
from bigbatch.files.delimited import read_delimited


def columns(content: bytes, encoding: str = "utf-8", tab: bool = False) -> dict[str, list[str]]:
    raw = read_delimited("a.csv", content, encoding, tab)
    loaded = raw.load(raw.columns)
    found = {name: loaded[name].to_pylist() for name in raw.columns}
    assert all(len(values) == raw.rows for values in found.values())
    return found


def problems(content: bytes, encoding: str = "utf-8", tab: bool = False) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_delimited("a.csv", content, encoding, tab)
    return str(caught.value).splitlines()


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)
SPECIAL = st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", " ", "a,b", '"x', 'x"', "é\t", "", ";"])


@given(
    rows=st.lists(st.lists(CELL | SPECIAL, min_size=3, max_size=3), min_size=1, max_size=8),
    tab=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    mark=st.booleans(),
    last_end=st.booleans(),
)
def test_whatever_a_csv_writer_writes_is_read_back(
    rows, tab: bool, line_end: str, mark: bool, last_end: bool
):
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t" if tab else ",", lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "label", "extra"], *rows])
    written = file.getvalue() if last_end else file.getvalue().removesuffix(line_end)
    content = (b"\xef\xbb\xbf" if mark else b"") + written.encode()
    found = columns(content, tab=tab)
    assert list(found) == ["text", "label", "extra"]
    assert [list(row) for row in zip(*found.values(), strict=True)] == rows


def test_quotes_inside_a_field_empty_lines_and_semicolons():
    assert columns(b'text,label\n5" screen,"say ""hi"""\n\n,2\n') == {
        "text": ['5" screen', ""],
        "label": ['say "hi"', "2"],
    }
    assert columns(b"text;label\n1,5;a\n") == {"text": ["1,5"], "label": ["a"]}
    assert columns(b"text\na\n") == {"text": ["a"]}
    assert columns(b"text,label") == {"text": [], "label": []}


def test_an_unnamed_index_column_is_no_mistake():
    assert columns(b",text,label\n0,a,1\n1,b,2\n") == {"text": ["a", "b"], "label": ["1", "2"]}


def test_latin_1_by_key():
    content = "text,label\ncafé,1\n".encode("latin-1")
    assert columns(content, "latin-1")["text"] == ["café"]
    assert problems(content) == [
        "a.csv:2: text: byte 0xE9 is not UTF-8; if the file is Latin-1, set data.encoding: latin-1 (byte offset 14)"
    ]


NUL = "a NUL byte; the file is damaged, or is not text"
UNCLOSED = "a quote is opened and never closed"
BAD = {
    "ragged": (
        b"text,label\na,1\nb\nc,2,3\nd,4\n",
        [
            "a.csv:3: 1 fields, but the header has 2 (byte offset 15)",
            "a.csv:4: 3 fields, but the header has 2 (byte offset 17)",
        ],
    ),
    "unclosed quote": (b'text,label\na,1\n"b,2\nc,3\n', [f"a.csv:3: {UNCLOSED} (byte offset 15)"]),
    "unclosed quote that meets another": (
        b'text,label\n"a,1\nb,2\n"c",3\nd\n',
        [f"a.csv:2: {UNCLOSED} (byte offset 11)", "a.csv:5: 1 fields, but the header has 2 (byte offset 26)"],
    ),
    "unclosed at the very end": (b'text,label\na,"1\n', [f"a.csv:2: {UNCLOSED} (byte offset 13)"]),
    "text after a quote": (
        b'text,label\n"a" b,1\n',
        ['a.csv:2: text after a closing quote; a quote inside quotes is written twice ("") (byte offset 14)'],
    ),
    "NUL": (b"text,label\na,1\nb\0b,2\n", [f"a.csv:3: text: {NUL} (byte offset 16)"]),
    "NUL in a column that is not read": (
        b"text,label,x\na,1,\0\n",
        [f"a.csv:2: x: {NUL} (byte offset 17)"],
    ),
    "offsets count the mark and CRLF": (
        b"\xef\xbb\xbftext,label\r\na,1\r\nb\r\n",
        ["a.csv:3: 1 fields, but the header has 2 (byte offset 20)"],
    ),
    "rows after a value of two lines": (
        b'text,label\n"a\nb",1\nc\n',
        ["a.csv:3: 1 fields, but the header has 2 (line 4, byte offset 19)"],
    ),
    "rows after empty lines": (
        b"\n\ntext,label\na,1\n\nb\n",
        ["a.csv:3: 1 fields, but the header has 2 (line 6, byte offset 18)"],
    ),
    "a bare carriage return within a field": (
        b"text,label\r\na b\rc,1\r\nd\r\n",
        [
            "a.csv:2: 1 fields, but the header has 2; it ends in a bare carriage return (\\r, byte offset 15), and lines "
            "here end in \\n: put the field that holds it between quotes, or replace it by a blank (byte offset 12)",
            "a.csv:4: 1 fields, but the header has 2 (line 3, byte offset 21)",
        ],
    ),
    "one behind the mark": (
        b"\xef\xbb\xbftext,label\na\r,1\n",
        [
            "a.csv:2: 1 fields, but the header has 2; it ends in a bare carriage return (\\r, byte offset 15), and lines "
            "here end in \\n: put the field that holds it between quotes, or replace it by a blank (byte offset 14)"
        ],
    ),
    "lines that all end so": (
        b"text,label\ra,1\rb\r",
        ["a.csv:3: 1 fields, but the header has 2 (byte offset 15)"],
    ),
    "header twice": (
        b"text,label,text\na,1,b\n",
        ["a.csv:1: text: this column is in the header twice; every name must be its own"],
    ),
    "empty": (b"", ["a.csv: the file is empty; expected a header line and rows"]),
    "only line ends": (b"\n\r\n", ["a.csv: the file is empty; expected a header line and rows"]),
    "UTF-16": ("text,label\n".encode("utf-16"), ["a.csv: the file is UTF-16; save it as UTF-8"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_name_the_row_and_the_byte(name: str):
    content, expected = BAD[name]
    assert problems(content) == expected


def test_a_mark_contradicts_latin_1():
    assert problems(b"\xef\xbb\xbftext\na\n", "latin-1") == [
        "a.csv: data.encoding: latin-1, but the file starts with a UTF-8 mark; use utf-8"
    ]


def test_twenty_are_shown_and_all_are_counted():
    lines = problems(b"text,label\n" + b"a\n" * 1051)
    assert len(lines) == 21
    assert lines[0].startswith("a.csv:2: ") and lines[19].startswith("a.csv:21: ")
    assert lines[20] == "and 1,031 more"


def test_the_row_number_is_what_a_spreadsheet_shows():
    raw = read_delimited("a.csv", b'text,label\n"a\nb",1\nc,2\n', "utf-8", False)
    assert [raw.where(row) for row in range(2)] == ["a.csv:2", "a.csv:3"]

"""Lines as editors count them, in every reader of text, and carriage returns that end a row by mistake."""

from __future__ import annotations

import pytest

from bigbatch.errors import DataError
from bigbatch.files.kinds import read_content
from bigbatch.files.line_numbers import Lines

LATIN = "byte 0xE9 is not UTF-8; if the file is Latin-1, set data.encoding: latin-1"


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\nc", [1, 1, 2, 2, 3]),
        (b"a\r\nb\r\n", [1, 1, 1, 2, 2, 2]),
        (b"a\rb\rc", [1, 1, 2, 2, 3]),
        (b"a\rb\n\nc", [1, 1, 1, 1, 2, 3]),
    ],
)
def test_numbers_of_lines(data, lines):
    counted = Lines(data)
    assert [counted.number(offset) for offset in range(len(lines))] == lines


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"a\rb\xe9\rc\r", [f"a.txt: {LATIN} (line 2, byte offset 3)"]),
        ("b.txt", b"\xef\xbb\xbfa\r\nb\xe9\r\n", [f"b.txt: {LATIN} (line 2, byte offset 7)"]),
        (
            "c.jsonl",
            b'{"text": "a\rb"}\n{"text": "b"}\n{"text": }\n',
            [
                "c.jsonl:1: not JSON: Unterminated string starting at; it ends in a bare carriage return (\\r, byte offset "
                "11), and lines here end in \\n: within a text it is written as the two characters \\r (byte offset 9)",
                "c.jsonl:2: not JSON: Expecting value (line 1, byte offset 12)",
                "c.jsonl:4: not JSON: Expecting value (line 3, byte offset 39)",
            ],
        ),
        (
            "d.jsonl",
            b'{"text": "a"}\r{"text": }\r',
            ["d.jsonl:2: not JSON: Expecting value (byte offset 23)"],
        ),
        (
            "e.jsonl",
            b'{"text": "a"}\r\n{"text": }\r\n',
            ["e.jsonl:2: not JSON: Expecting value (byte offset 24)"],
        ),
    ],
)
def test_places_in_text_files(name, content, said):
    with pytest.raises(DataError) as caught:
        read_content(name, content, name[1:], "utf-8")
    assert str(caught.value).splitlines() == said

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigbatch.errors import DataError
from bigbatch.files.jsonlines import read_json_lines


def problems(content: bytes) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_json_lines("a.jsonl", content, "utf-8")
    return str(caught.value).splitlines()


VALUE = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",)))


@given(rows=st.lists(st.dictionaries(st.sampled_from(["text", "label", "x"]), VALUE, min_size=1), min_size=1))
def test_values_keep_their_types_and_rows_their_lines(rows):
    content = b"\n\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
    raw = read_json_lines("a.jsonl", content, "utf-8")
    loaded = raw.load(raw.columns)
    assert raw.rows == len(rows)
    for number, row in enumerate(rows):
        for name in raw.columns:
            value = loaded[name][number]
            assert value == row.get(name) and type(value) is type(row.get(name))
        assert raw.where(number) == f"a.jsonl:{2 * number + 1}"


BYTE, SECOND = b"\xe9", b'{"b"'


def test_bad_lines_are_named():
    content = b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "\xc3\xa9", oops}\n[1]\n{"text": "\xe9"}\r\n{"a": 1}{"b": 2}\n'
    at = {part: content.index(part) for part in (b"oops", b"[1]", BYTE, SECOND)}
    assert problems(content) == [
        f"a.jsonl:3: not JSON: Expecting property name enclosed in double quotes (byte offset {at[b'oops']})",
        f"a.jsonl:4: expected an object {{…}} on every line, found list (byte offset {at[b'[1]']})",
        "a.jsonl:5: byte 0xE9 is not UTF-8; if the file is Latin-1, set data.encoding: latin-1 "
        f"(byte offset {at[BYTE]})",
        f"a.jsonl:6: not JSON: Extra data (byte offset {at[SECOND]})",
    ]


def test_a_bomb_of_brackets_is_a_bad_line():
    assert problems(b'{"a": ' + b"[" * 100_000 + b"\n") == [
        "a.jsonl:1: not JSON that can be read: nested too deeply (byte offset 0)"
    ]


def test_an_array_of_objects_is_taken_too():
    raw = read_json_lines("a.json", b'  [{"text": "a"}, {"text": "b", "label": 1}]', "utf-8")
    assert raw.load(["text", "label"]) == {"text": ["a", "b"], "label": [None, 1]}
    assert problems(b"[1, {}]") == ["a.jsonl:1: expected an object {…}"]
    assert problems(b"[{},") == ["a.jsonl: not JSON: Expecting value: line 1 column 5 (char 4)"]


def test_objects_over_several_lines_are_rows():
    rows = [{"text": "a", "label": 1}, {"text": "b {", "label": None}]
    content = "\n".join(json.dumps(row, indent=2) for row in rows).encode()
    raw = read_json_lines("a.json", content, "utf-8")
    assert raw.load(["text", "label"]) == {"text": ["a", "b {"], "label": [1, None]}
    assert [raw.where(row) for row in range(2)] == ["a.json:1", "a.json:5"]
    assert read_json_lines("a.json", content[: content.index(b"}") + 1], "utf-8").rows == 1


def test_what_is_wrong_with_them_is_one_error():
    content = json.dumps({"text": "a", "label": 1}, indent=2).encode()
    (found,) = problems(content[:-3])
    assert found.startswith("a.jsonl: not JSON: ") and "line 3" in found and "an array [{…}, {…}]" in found
    inside = json.dumps({"data": [{"text": "a"}, {"text": "b"}]}, indent=2).encode()
    assert problems(inside) == [
        "a.jsonl: one object, with rows under 'data'; expected these rows alone, as an array [{…}, {…}]"
    ]
    assert len(problems(b'{"a": 1}{"b": 2}\n{"a": 1}{"b": 2}\n')) == 2, "two objects a line: each is named"


def test_numbers_without_end_are_bad_lines():
    (found,) = problems(b'{"a": ' + b"1" * 5000 + b"}\n")
    assert found.startswith("a.jsonl:1: not JSON that can be read: Exceeds the limit")

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from bigbatch.stored import (
    MOST_DEPTH,
    Damaged,
    check_plain,
    json_value,
    open_plain,
    read_bytes,
    read_json,
    read_object,
    read_text,
)


@pytest.mark.parametrize("read", [check_plain, open_plain, read_bytes, read_text, read_json, read_object])
def test_what_is_no_plain_file_is_named_at_once(tmp_path, monkeypatch, read):
    """None of these may be waited for: a pipe without a writer, a device without an end."""
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe")
    os.mkdir("folder")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket")
    os.symlink("/dev/zero", "link")
    expected = {
        "pipe": "named pipe", "folder": "folder", "socket": "socket", "link": "device", "/dev/zero": "device"
    }  # fmt: skip
    for name, kind in expected.items():
        with pytest.raises(Damaged, match=kind):
            read(Path(name))
    with pytest.raises(FileNotFoundError):
        read(Path("nothing"))
    with pytest.raises(Damaged, match="name"):
        read(Path("a\0b"))
    listening.close()


def test_a_link_to_a_plain_file_is_read(tmp_path):
    (tmp_path / "real").write_bytes(b'{"a": 1}')
    os.symlink("real", tmp_path / "link")
    assert read_object(tmp_path / "link") == {"a": 1}


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    """3 GB that take no room on the disk, and a limit that is met to the byte."""
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(Damaged, match=r"has 2\.8 GiB; at most 64\.0 MiB are read"):
        read_bytes(tmp_path / "sparse")
    (tmp_path / "small").write_bytes(b"1234")
    assert read_bytes(tmp_path / "small", most_bytes=4) == b"1234"
    with pytest.raises(Damaged, match="at most"):
        read_bytes(tmp_path / "small", most_bytes=3)


def test_a_file_that_says_it_is_empty_and_goes_on(monkeypatch, tmp_path):
    """As files of /proc: the size is no promise."""
    (tmp_path / "grows").write_bytes(b"x" * 100)
    real = os.fstat

    def says_nothing(handle):
        found = list(real(handle))
        found[6] = 0
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", says_nothing)
    with pytest.raises(Damaged, match="at most 50 B"):
        read_bytes(tmp_path / "grows", most_bytes=50)


@pytest.mark.parametrize(
    "text, what",
    [
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b"[" * 100 + b"]" * 100, "nested deeper"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper"),
        (b"[" + b"[],{}," * 6_000_000 + b"1]", "more than 10,000,000 values"),
        (b"9" * 5_000, "number of 5,000 digits"),
        (b"-" + b"9" * 50, "digits"),
        (b"1e400", "too large"),
        (b"[-1e999]", "too large"),
        (b"NaN", "NaN, which is no JSON"),
        (b"[Infinity]", "Infinity"),
        (b'"\xff"', "not UTF-8: byte 1 is 0xff"),
        (b'{"a": "\0"}', "not valid JSON"),
        (rb'{"a": "\u0000"}', "no file can hold"),
        (rb'{"a\ud800": 1}', "no file can hold"),
        (b'{"a": 1', "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\0\0\0\0", "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "not valid JSON"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_json_without_trust(text, what):
    with pytest.raises(Damaged, match=what):
        json_value(text)


def test_json_that_is_right_comes_out_as_it_went_in(tmp_path):
    deepest = json.loads("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    value = {"text": "ü 😀 \\ud800", "numbers": [1, -2.5, 10**30, 1e308], "none": None, "deep": deepest}
    for ascii_only in (False, True):  # 😀 as itself, and as two escapes
        (tmp_path / "right.json").write_text(json.dumps(value, ensure_ascii=ascii_only), encoding="utf-8")
        assert read_json(tmp_path / "right.json")["deep"] == deepest
        assert read_object(tmp_path / "right.json") == value
    assert json_value(b'\xef\xbb\xbf{"mark": true}') == {"mark": True}


@pytest.mark.parametrize(
    "text, kind", [("[1]", "a list"), ("null", "null"), ("3", "a number"), ('"a"', "a text")]
)
def test_an_object_is_asked_for(tmp_path, text, kind):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(Damaged, match=f"holds {kind}; expected a JSON object"):
        read_object(tmp_path / "other.json")

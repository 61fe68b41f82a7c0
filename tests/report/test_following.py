from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bigbatch.report.following import Follower, Mark
from bigbatch.stored import Damaged


def line(step: int, note: str = "") -> bytes:
    return json.dumps({"kind": "event", "step": step, "event": "note", "why": note}).encode() + b"\n"


def steps(follower: Follower, most_bytes: int = 2**23) -> list[int]:
    return [found["step"] for found in follower.look(most_bytes).lines]


def test_each_line_is_seen_once_however_it_arrives(tmp_path: Path) -> None:
    """A line in three pieces, a look after each byte."""
    path, whole, seen = tmp_path / "metrics.jsonl", b"".join(line(step, "é" * step) for step in range(20)), []
    follower = Follower(path)
    for byte in range(len(whole)):
        with path.open("ab") as file:
            file.write(whole[byte : byte + 1])
        if byte % 7 == 0:
            seen += steps(follower)
    assert seen + steps(follower) == list(range(20))
    assert follower.mark.offset == len(whole)


def test_a_large_file_takes_several_looks(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(line(step) for step in range(1000)) + line(1000, "x" * 5000))
    follower, seen, looks = Follower(path), [], 0
    while True:
        look = follower.look(1024)
        seen += [found["step"] for found in look.lines]
        looks += 1
        if not look.left_bytes:
            break
    assert seen == list(range(1001)) and looks > 50


@pytest.mark.parametrize("longer", [False, True])
def test_a_file_that_a_resume_put_in_its_place_is_read_anew(tmp_path: Path, longer: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + line(2) + line(3))
    follower = Follower(path)
    assert steps(follower) == [1, 2, 3]
    path.write_bytes(line(1) + line(2) + (line(2, "resumed: " + "x" * 99) if longer else b""))
    look = follower.look()
    assert look.anew and [found["step"] for found in look.lines] == ([1, 2, 2] if longer else [1, 2])
    assert not follower.look().anew


def test_a_mark_that_was_kept_goes_on_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + line(2))
    first = Follower(path)
    first.look()
    path.write_bytes(line(1) + line(2) + line(3))
    assert steps(Follower(path, Mark(first.mark.offset, first.mark.seal))) == [3]
    assert steps(Follower(path, Mark(first.mark.offset, "another file's"))) == [1, 2, 3]


def test_damaged_lines_are_passed_over_and_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + b"{]\n" + b"\xff\n" + line(2) + b'{"kind": "upd')
    look = Follower(path).look()
    assert [found["step"] for found in look.lines] == [1, 2]
    assert len(look.problems) == 2 and "it was left out" in look.problems[0]
    assert look.left_bytes == 13


def test_no_link_pipe_or_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(line(1))
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name, why in (("link", "is a link"), ("pipe", "is a named pipe"), (".", "is a folder")):
        with pytest.raises(Damaged, match=why):
            Follower(tmp_path / name).look()
    assert Follower(tmp_path / "none").look().lines == ()

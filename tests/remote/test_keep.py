"""The cache itself, with remotes that answer as they are told: locks, room, versions, what is left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from filelock import FileLock

from bigbatch.errors import DiskError, MachineError
from bigbatch.remote.addresses import address_of
from bigbatch.remote.keep import Answer, Interrupted, Patience, cache_root, kept, known

HERE = address_of("https://host/a.csv")
HURRIED = Patience(attempts=2, pause_seconds=0.0)


@dataclass
class Scripted:
    """A remote whose answers are written down; `asked` is what it was asked."""

    answers: list[Any]
    asked: list[tuple[int, str | None, str | None]] = field(default_factory=list)

    def open(self, start: int, tag: str | None, unless: str | None) -> Answer | None:
        self.asked.append((start, tag, unless))
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def answer(body: bytes, tag: str | None = '"1"', start: int = 0, **about: Any) -> Answer:
    return Answer(
        size_bytes=about.pop("size", start + len(body)), tag=tag, start=start, chunks=iter([body]), **about
    )


def broken(body: bytes) -> Iterator[bytes]:
    yield body
    raise Interrupted("the line broke")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_root()


def get(root, *answers: Any, said: Callable[[str], object] = lambda text: None):
    remote = Scripted(list(answers))
    return kept(HERE, remote, root, said, HURRIED), remote


def test_the_cache_is_closed_to_others_and_names_no_secret(root):
    path, _ = get(root, answer(b"rows"))
    assert root.stat().st_mode & 0o077 == 0 and path.parent.name == HERE.key
    assert {item.name for item in path.parent.iterdir()} == {path.name, "about.json"}
    found = known(HERE, root)
    assert found is not None and (found["bytes"], found["tag"], found["address"]) == (
        4,
        '"1"',
        "https://host/a.csv",
    )


def test_a_version_that_is_there_is_asked_for_and_kept(root):
    path, _ = get(root, answer(b"rows"))
    again, remote = get(root, None)
    assert again == path and remote.asked == [(0, None, '"1"')]


def test_a_part_of_another_version_is_thrown_away(root):
    lost = Answer(size_bytes=8, tag='"1"', start=0, chunks=broken(b"half"))
    path, remote = get(root, lost, answer(b"new rows", '"2"'))
    assert path.read_bytes() == b"new rows" and remote.asked[1] == (4, '"1"', None)
    with pytest.raises(MachineError, match="it has changed while it was fetched"):
        lost = Answer(size_bytes=8, tag='"3"', start=0, chunks=broken(b"half"))
        kept(
            address_of("https://host/b.csv"),
            Scripted([lost, answer(b"tail", '"4"', 4)]),
            root,
            print,
            HURRIED,
        )


@pytest.mark.parametrize("tag", [None, 'W/"1"'])
def test_without_a_strong_version_nothing_goes_on_in_the_middle(root, tag):
    lost = Answer(size_bytes=8, tag=tag, start=0, chunks=broken(b"half"))
    path, remote = get(root, lost, answer(b"all rows", tag))
    assert path.read_bytes() == b"all rows" and remote.asked[1] == (0, None, None)


def test_a_server_without_versions_is_asked_once_for_all_ranks_of_a_start(root):
    path, _ = get(root, answer(b"rows", None))
    assert get(root)[0] == path, "nobody is asked"
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert get(root, answer(b"more rows", None))[0].read_bytes() == b"more rows"


def test_what_is_too_large_for_the_disk_is_refused_before_a_byte_comes(root):
    def never() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    with pytest.raises(DiskError, match="XDG_CACHE_HOME names another place"):
        get(root, Answer(size_bytes=2**60, tag=None, start=0, chunks=never()))
    assert known(HERE, root) is None


def test_one_process_fetches_and_the_others_wait_for_it(root):
    lock, said, found = FileLock(root / f"{HERE.key}.lock"), [], []
    lock.acquire()
    waiting = threading.Thread(target=lambda: found.append(get(root, answer(b"rows"), said=said.append)[0]))
    waiting.start()
    while not said:
        time.sleep(0.01)
    assert "another process fetches it" in said[0] and not found
    lock.release()
    waiting.join()
    assert found[0].read_bytes() == b"rows"


def test_versions_that_nobody_reads_any_more_go(root):
    old, _ = get(root, answer(b"rows"))
    os.utime(old, (0, 0))
    new, _ = get(root, answer(b"other rows", '"2"'))
    assert new.read_bytes() == b"other rows" and not old.exists()


def test_ctrl_c_leaves_a_part_and_no_file(root):
    def interrupted() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(root, Answer(size_bytes=8, tag='"1"', start=0, chunks=interrupted()))
    assert known(HERE, root) is None
    path, remote = get(root, answer(b" way", '"1"', 4))
    assert path.read_bytes() == b"half way" and remote.asked == [(4, '"1"', None)]


def test_a_folder_that_others_can_change_is_no_cache(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MachineError, match=r"others may write .*; point XDG_CACHE_HOME to a folder of yours"):
        cache_root()

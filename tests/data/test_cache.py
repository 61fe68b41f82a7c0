"""The token cache's files: complete and unaltered, or not there."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from bigbatch.data import cache


def publish(root: Path, key: str = "k", values: tuple[int, ...] = (1, 2, 3)) -> Path:
    with cache.Writer(root, key) as writer:
        for value in values:
            writer.append("ids", np.array([value], np.int32))
            writer.append("rows", np.full((2, 3), value, np.float32))
        writer.append("none", np.empty((0, 4), np.int64))
        writer.publish({"count": len(values)})
        return root / key


def test_arrays_and_facts_come_back_mapped_and_read_only(tmp_path: Path):
    arrays, facts = cache.read(publish(tmp_path))
    assert facts == {"count": 3}
    assert arrays["ids"].tolist() == [1, 2, 3] and arrays["ids"].dtype == np.int32
    assert arrays["rows"].shape == (6, 3) and arrays["none"].shape == (0, 4)
    assert isinstance(arrays["ids"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), cache.Writer(tmp_path, "k") as writer:
        writer.append("ids", np.arange(3))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        cache.read(tmp_path / "k")


def damage(folder: Path) -> dict[str, object]:
    """Ways to harm an entry, by name."""
    ids, header = folder / "ids.bin", folder / "header.json"
    text = header.read_text()
    return {
        "a byte flipped": lambda: ids.write_bytes(bytes([ids.read_bytes()[0] ^ 1]) + ids.read_bytes()[1:]),
        "cut short": lambda: ids.write_bytes(ids.read_bytes()[:-1]),
        "emptied": lambda: ids.write_bytes(b""),
        "longer": lambda: ids.write_bytes(ids.read_bytes() + b"\0\0\0\0"),
        "file missing": lambda: ids.unlink(),
        "header missing": lambda: header.unlink(),
        "header cut": lambda: header.write_text(text[: len(text) // 2]),
        "header a list": lambda: header.write_text("[]"),
        "shape altered": lambda: header.write_text(text.replace("[\n    3\n   ]", "[\n    2\n   ]")),
        "facts altered": lambda: header.write_text(text.replace('"count": 3', '"count": 4')),
        "checksum missing": lambda: header.write_text(json.dumps({**json.loads(text), "checksum": None})),
        "a pickle": lambda: header.write_bytes(pickle.dumps(Canary(folder / "canary"))),
    }


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


WAYS = (
    "a byte flipped", "cut short", "emptied", "longer", "file missing", "header missing", "header cut",
    "header a list", "shape altered", "facts altered", "checksum missing", "a pickle",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_torn_or_altered_entry_is_noticed(tmp_path: Path, way: str):
    folder = publish(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)[way]()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} != before
    with pytest.raises(cache.Damaged):
        cache.read(folder)
    assert not (folder / "canary").exists()
    publish(tmp_path, values=(4, 5))
    assert cache.read(folder)[0]["ids"].tolist() == [4, 5]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_entry_under_another_key_is_not_believed(tmp_path: Path):
    publish(tmp_path).rename(tmp_path / "other")
    with pytest.raises(cache.Damaged):
        cache.read(tmp_path / "other")


def test_the_first_of_two_writers_wins_and_its_readers_keep_their_data(tmp_path: Path):
    with cache.Writer(tmp_path, "k") as slow:
        slow.append("ids", np.array([7]))
        arrays, _ = cache.read(publish(tmp_path))
        mine = slow.publish({})
    assert cache.read(tmp_path / "k")[0]["ids"].tolist() == [1, 2, 3] == arrays["ids"].tolist()
    assert mine["ids"].tolist() == [7]
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_half_written_entries_of_dead_processes_are_removed_and_young_ones_kept(tmp_path: Path):
    old, young = tmp_path / ".writing-old", tmp_path / ".writing-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "ids.bin").write_bytes(b"x")
    os.utime(old, (0, 0))
    publish(tmp_path)
    assert not old.exists() and young.exists()


def test_discarding_what_another_process_discarded_is_no_error(tmp_path: Path):
    cache.discard(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", "|O"), ("dtype", "O"), ("dtype", ">i4"), ("dtype", "<i4,<i4"), ("dtype", 3), ("shape", [-3]),
        ("shape", [10**18]), ("shape", []), ("shape", [True]), ("shape", 3), ("shape", [1.5]), ("sha256", None),
    ],
)  # fmt: skip
def test_a_header_that_no_writer_wrote_is_not_believed_whatever_its_checksum(tmp_path, key, value):
    folder = publish(tmp_path)
    header = json.loads((folder / "header.json").read_text())
    header["arrays"]["ids"][key] = value
    seal(folder, header)
    with pytest.raises(cache.Damaged):
        cache.read(folder)


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "x" * 200, "a\0b"])
def test_a_header_leads_nowhere_else(tmp_path, name):
    folder = publish(tmp_path)
    header = json.loads((folder / "header.json").read_text())
    (tmp_path / "outside.bin").write_bytes((folder / "ids.bin").read_bytes())
    header["arrays"][name] = header["arrays"]["ids"]
    seal(folder, header)
    with pytest.raises(cache.Damaged):
        cache.read(folder)


@pytest.mark.parametrize("name", ["header.json", "ids.bin"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "nested", "NaN", "1e400"])
def test_what_is_no_file_of_an_entry_is_not_waited_for(tmp_path, name, kind):
    path = publish(tmp_path) / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text({"nested": "[" * 100_000, "NaN": '{"a": NaN}', "1e400": '{"a": 1e400}'}[kind])
    with pytest.raises(cache.Damaged):
        cache.read(path.parent)


def seal(folder: Path, header: dict) -> None:
    """With the checksum of what is written."""
    header.pop("checksum")
    header["checksum"] = cache._checksum(header)
    (folder / "header.json").write_text(json.dumps(header))

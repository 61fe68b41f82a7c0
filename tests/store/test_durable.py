from __future__ import annotations

import errno
import json
import os

import pytest

from bigbatch.errors import DiskError
from bigbatch.store.durable import (
    FileOps,
    append_line,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    fsync_file,
    make_folders,
    nearest_folder,
    remove_tree,
)
from tests.store.crashes import Disk, FailingOps, RecordingOps, crash_states


def test_every_crash_leaves_the_old_bytes_or_the_new_ones(tmp_path):
    old, new = b"old contents", b"the new contents, longer"
    (tmp_path / "run").mkdir()
    atomic_write_bytes(tmp_path / "run" / "file", old)
    before, ops = Disk.of(tmp_path), RecordingOps()
    atomic_write_bytes(tmp_path / "run" / "file", new, ops=ops)
    found = []
    for number, (_, disk, unsynced) in enumerate(crash_states(before, ops.log)):
        disk.write_to(tmp_path / f"case-{number}", tmp_path, unsynced)
        found.append((tmp_path / f"case-{number}" / "run" / "file").read_bytes())
    assert set(found) == {old, new}
    assert found[-1] == new


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    atomic_write_text(tmp_path / "file", "old")
    for fail_at in range(1, 6):
        ops = FailingOps(fail_at)
        with pytest.raises(
            DiskError, match=r"cannot write .*file: No space left on device \(needs 3 B \(3 bytes\), .* free"
        ):
            atomic_write_text(tmp_path / "file", "new", ops=ops)
        assert (tmp_path / "file").read_text() in (("old", "new") if fail_at == 5 else ("old",))
        assert os.listdir(tmp_path) == ["file"]


def test_json_is_strict_and_readable(tmp_path):
    atomic_write_json(tmp_path / "a.json", {"größe": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"größe": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert "größe" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_an_append_that_fails_leaves_no_part_of_the_line(tmp_path):
    path = tmp_path / "lines"
    append_line(path, "first")
    with pytest.raises(DiskError):
        append_line(path, "second", ops=FailingOps(2))
    append_line(path, "third")
    fsync_file(path)
    assert path.read_text() == "first\nthird\n"


def test_a_write_that_the_system_takes_in_parts_is_finished(tmp_path):
    class Sips:
        """A file that takes three bytes at a time."""

        def __init__(self) -> None:
            self.taken = b""

        def write(self, data) -> int:
            self.taken += bytes(data[:3])
            return min(3, len(data))

    sips = Sips()
    FileOps().write(sips, b"ten bytes!")  # type: ignore[arg-type]
    assert sips.taken == b"ten bytes!"


def test_folders_are_made_with_their_parents_durably(tmp_path):
    ops = RecordingOps()
    make_folders(tmp_path / "a" / "b", ops=ops)
    make_folders(tmp_path / "a" / "b", ops=ops)
    kinds = [(op.kind, os.path.relpath(op.path, tmp_path)) for op in ops.log]
    assert kinds == [("mkdir", "a"), ("fsync_dir", "."), ("mkdir", "a/b"), ("fsync_dir", "a")]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way_of_a_folder_is_a_disk_error(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DiskError, match="file"):
        make_folders(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_another_process_may_make_the_folder_first(tmp_path):
    class Faster(FileOps):
        def mkdir(self, path):
            os.mkdir(path)
            raise FileExistsError(errno.EEXIST, "File exists", str(path))

    make_folders(tmp_path / "a", ops=Faster())
    assert (tmp_path / "a").is_dir()


def test_removing_a_tree_does_not_follow_links(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "tree" / "below").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "precious")
    (tmp_path / "tree" / "below" / "file").write_text("x")
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == ["precious"]
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_nearest_folder(tmp_path):
    assert nearest_folder(tmp_path / "a" / "b") == tmp_path
    assert nearest_folder(tmp_path) == tmp_path

"""Names that lead elsewhere: nothing there changes, nothing hangs, and modes are the user's."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from bigbatch import written
from bigbatch.data.cache import Writer
from bigbatch.errors import DiskError
from bigbatch.launch.endings import Ending, leave
from bigbatch.launch.worker import Worker
from bigbatch.report.page import write_atomic, write_figure
from bigbatch.run.beat import Beat
from bigbatch.store.directory import RunDirectory
from bigbatch.store.durable import append_line, atomic_write_text, fsync_file, make_folders
from bigbatch.store.journal import Journal
from bigbatch.store.lock import RunLock
from bigbatch.study.children import Work, _start

pytestmark = pytest.mark.skipif(os.name == "nt", reason="its links and pipes are others")


@pytest.fixture(autouse=True)
def in_time():
    """A pipe that nobody reads makes whoever opens it wait for ever."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for a pipe"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def victim(tmp_path) -> Path:
    """Somebody's folder, with a file in it."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    return folder


@pytest.fixture
def shared(tmp_path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def unharmed(folder: Path) -> bool:
    return os.listdir(folder) == ["file"] and (folder / "file").read_text() == "precious"


KINDS = ["link to a file", "link to a folder", "link to nothing", "pipe", "folder"]


def plant(path: Path, kind: str, victim: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(
            {"file": victim / "file", "folder": victim, "nothing": victim / "new"}[kind.split()[-1]]
        )


def _lock(folder: Path) -> None:
    with RunLock(folder):
        pass


def _worker(folder: Path) -> Worker:
    return Worker(folder=folder, rank=0, size=1, host="h", restart=0)


def _beat(folder: Path) -> None:
    beat = Beat()
    beat._folders = (folder,)
    beat._write()


APPENDED = {
    "metrics.jsonl": lambda folder: append_line(folder / "metrics.jsonl", "{}"),
    "synced.jsonl": lambda folder: fsync_file(folder / "synced.jsonl"),
    ".lock-guard": _lock,
    "x.log": lambda folder: _start(Work(name="x", words=["--version"], log=folder / "x.log")),
}
"""Name -> what opens the file as it is."""
REPLACED = {
    "status.json": lambda folder: RunDirectory(folder).write_status("running", 1),
    "recipe.yaml": lambda folder: atomic_write_text(folder / "recipe.yaml", "x"),
    "report.html": lambda folder: write_atomic(folder / "report.html", "x"),
    "beat-0000.json": _beat,
    "worker-0.json": lambda folder: _worker(folder).begin(),
    "ending-0-0.json": lambda folder: leave(folder, Ending(rank=0, host="h", pid=1, exit_code=0), 0),
}
"""Name -> what replaces the file."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", APPENDED)
def test_what_is_opened_as_it_is_must_be_a_plain_file(shared, victim, name, kind):
    plant(shared / name, kind, victim)
    with pytest.raises((DiskError, OSError), match=r"a link|a named pipe|a folder"):
        APPENDED[name](shared)
    assert unharmed(victim)


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_is_replaced_whatever_it_was(shared, victim, name, kind):
    plant(shared / name, kind, victim)
    REPLACED[name](shared)
    assert unharmed(victim)
    assert stat.S_ISREG((shared / name).lstat().st_mode) and (shared / name).stat().st_size


@pytest.mark.parametrize("name", [".tmp-lock.json", ".tmp-clock-PID", ".tmp-status.json", ".beat-0000.json"])
def test_temporary_names_cannot_be_foreseen(shared, victim, name):
    name = name.replace("PID", str(os.getpid()))
    (shared / name).symlink_to(victim / "file")
    (shared / "lock.json").write_text("{")
    os.utime(shared / "lock.json", (0, 0))
    _lock(shared)
    RunDirectory(shared).write_status("running", 1)
    _beat(shared)
    assert unharmed(victim)


@pytest.mark.parametrize("name", ["checkpoints", "code", "logs"])
def test_a_folder_of_a_run_that_leads_away_is_refused(shared, victim, name):
    (shared / name).symlink_to(victim)
    with pytest.raises(DiskError, match="it is a link"):
        make_folders(shared / name)
    with pytest.raises(OSError, match="is a link"):
        written.make_folder(shared / name)
    for work in (written.open_new, written.open_append, written.make_new_folder, written.remove):
        with pytest.raises(OSError, match="is a link"):
            work(shared / name / "file")
    with pytest.raises(OSError, match="is a link"):
        written.rename(shared / name / "file", shared / name / "other")
    assert unharmed(victim)


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "plan.json", "model", "lock.json", "logs", "checkpoints/step-000001", "code/own.py"],
)
def test_a_run_with_a_link_in_it_does_not_start(shared, victim, name):
    """Else what the link leads to would be shown, or copied to where its writer can read it."""
    path = shared / name
    path.parent.mkdir(exist_ok=True)
    directory = RunDirectory(shared)
    directory.refuse_links()
    path.symlink_to(victim)
    (shared / "notes").symlink_to(victim)  # the user's own
    with pytest.raises(DiskError, match=f"{name} is a link"):
        directory.refuse_links()


def test_folders_of_a_cache_and_of_figures_that_lead_away_are_refused(shared, victim):
    (shared / ".cache").symlink_to(victim)
    with pytest.raises(OSError, match="is a link"):
        Writer(shared / ".cache" / "tokens", "key")
    (shared / "figures").symlink_to(victim)
    with pytest.raises(OSError, match="is a link"):
        write_figure(shared / "figures" / "x.svg", None)  # type: ignore[arg-type]
    assert unharmed(victim)


def test_a_user_may_name_a_folder_by_a_link(shared, tmp_path):
    (tmp_path / "mine").symlink_to(shared)
    directory = RunDirectory(tmp_path / "mine")
    directory.create()
    with RunLock(tmp_path / "mine"):
        directory.write_status("running", 1)
    make_folders(tmp_path / "mine" / "runs" / "x")
    written.make_folders(tmp_path / "mine" / ".cache" / "tokens", ours=2)
    write_atomic(tmp_path / "mine" / "page.html", "x")
    assert {"status.json", "runs", ".cache", "page.html"} <= set(os.listdir(shared))


def test_a_journal_goes_on_in_place_and_a_failed_one_touches_no_link(shared, victim):
    journal = Journal(shared)
    journal.append({"kind": "event", "step": 1})
    (shared / "metrics.jsonl").unlink()
    (shared / "metrics.jsonl").symlink_to(victim / "file")
    with pytest.raises(DiskError):
        journal.append({"kind": "event", "step": 1})
    assert unharmed(victim)


def test_a_guard_of_another_users_is_still_a_guard(shared):
    """He made it with his umask, so that it can be read and not written."""
    (shared / ".lock-guard").touch(0o444)
    _lock(shared)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_modes_follow_the_umask(shared, umask):
    before = os.umask(umask)
    try:
        _lock(shared)
        for work in REPLACED.values():
            work(shared)
        append_line(shared / "metrics.jsonl", "{}")
        folder = written.new_folder(shared, "model-")
        os.close(os.open(folder / "model.safetensors", os.O_CREAT, 0o600))
        (folder / "1_Pooling").mkdir()
        os.close(os.open(folder / "1_Pooling" / "config.json", os.O_CREAT, 0o644))
        written.give_usual_modes(folder)
    finally:
        os.umask(before)
    for path in shared.rglob("*"):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_files_are_copied_into_a_folder_that_holds_more(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    (source / "a").write_text("new")
    (source / "inner" / "b").write_text("b")
    (source / "link").symlink_to(tmp_path / "elsewhere")
    target.mkdir()
    (target / "a").write_text("old")
    (target / "mine").write_text("mine")
    written.copy_files(source, target)
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {"a": "new", "inner/b": "b", "mine": "mine"}


def test_a_copy_never_goes_through_a_link(tmp_path):
    source, target, foreign = tmp_path / "source", tmp_path / "target", tmp_path / "foreign"
    source.mkdir()
    target.mkdir()
    (source / "a").write_text("new")
    foreign.write_text("foreign")
    (target / "a").symlink_to(foreign)
    written.copy_files(source, target)
    assert foreign.read_text() == "foreign" and (target / "a").read_text() == "new"

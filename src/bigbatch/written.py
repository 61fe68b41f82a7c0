"""Files as they are written here: what a name leads to elsewhere is never touched, and modes follow the user's umask.

A run directory may lie where others can write, and a name in it may be a link to somebody's file, a pipe that nobody
reads, or a folder that leads away. So a new file is made where nothing was (`O_EXCL`), an old one is appended to only
if it is a plain file (`O_NOFOLLOW`), nothing is ever emptied, and the folder that holds it is itself no link. Whoever
replaces a file writes another one beside it and renames.

A user may name a folder by a link; see `as_named`. What lies below it is ours.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"
"""Prefix of names that no reader looks at and that the next start removes."""
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_FOLDER_FLAGS = (
    getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
)
_BY_FOLDER = os.open in os.supports_dir_fd and os.rename in os.supports_dir_fd
"""Whether the system can be told a name within an open folder, which nobody can exchange in between."""


def as_named(path: Path) -> Path:
    """A path that a user typed, with the links on the way to its folder followed; its own name is not."""
    return Path(os.path.realpath(path.parent)) / path.name


def open_new(path: Path, *, buffering: int = -1) -> BinaryIO:
    """A file where there was nothing, for writing.

    Raises:
        FileExistsError: there is something, be it a link that leads nowhere.
        OSError: the folder is a link, or the disk.
    """
    handle = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    return open(path, "wb", buffering=buffering, opener=lambda *_: handle)


def open_append(path: Path, *, buffering: int = -1) -> BinaryIO:
    """The end of a plain file, which is made when there is none.

    Raises:
        OSError: a link, a pipe or something else; or the disk.
    """
    handle = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return open(path, "ab", buffering=buffering, opener=lambda *_: handle)


def open_kept(path: Path) -> BinaryIO:
    """A plain file as it is, to be locked: nothing is read or written. It may be another user's.

    Raises:
        OSError: a link, a pipe or something else; or the disk.
    """
    try:
        handle = _opened(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        handle = _opened(path, os.O_RDONLY)
    return open(path, "rb", buffering=0, opener=lambda *_: handle)


def replace_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """A reader sees the old file or the new one, never half of one.

    Args:
        path: what is there, be it a link, makes room.
        data: its new content.
        durable: whether it survives a power cut.
    """
    temporary = beside(path)
    try:
        with open_new(temporary) as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """`replace_bytes` of UTF-8; a half of a surrogate pair becomes a question mark.

    Args:
        path: what is there, be it a link, makes room.
        text: its new content.
        durable: whether it survives a power cut.
    """
    replace_bytes(path, text.encode("utf-8", "replace"), durable=durable)


def publish(temporary: Path, out: Path) -> None:
    """Give a finished file its name, unless somebody else took it meanwhile.

    Args:
        temporary: the file, in the same folder; it may stay under this name, too.
        out: its name from now on.

    Raises:
        FileExistsError: there is something, which is left as it is.
        OSError: the disk.
    """
    try:
        os.link(temporary, out)  # unlike a rename, a link never replaces a file
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(out):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(out)) from None
        os.rename(temporary, out)


def beside(path: Path) -> Path:
    """A name in the same folder that nobody has, and nobody can foresee."""
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")


def make_folder(path: Path) -> None:
    """One folder, if it is not there yet.

    Raises:
        OSError: something else is there, or a link; or the disk.
    """
    try:
        make_new_folder(path)
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise _refused(path) from None


def make_new_folder(path: Path) -> None:
    """One folder where there was nothing.

    Raises:
        FileExistsError: there is something.
        OSError: the folder above is a link, or the disk.
    """
    with _folder(path) as (name, folder):
        os.mkdir(name, dir_fd=folder)


def make_folders(path: Path, *, ours: int = 1) -> None:
    """A folder and what is missing above it.

    Args:
        path: the folder.
        ours: how many names at its end are our own, so that none of them may be a link; those above are the user's.
    """
    own = [path, *path.parents][: max(1, ours)]
    above = own[-1].parent
    above.mkdir(parents=True, exist_ok=True)
    real = Path(os.path.realpath(above))
    for part in reversed(own):
        real = real / part.name
        make_folder(real)


def new_folder(root: Path, prefix: str) -> Path:
    """A folder of a name that nobody can foresee. Unlike `tempfile.mkdtemp`'s its mode follows the umask."""
    path = root / f"{prefix}{secrets.token_hex(8)}"
    make_new_folder(path)
    return path


def rename(source: Path, target: Path) -> None:
    """In one step; a file at `target`, or a link, makes room."""
    with _folder(source) as (old, from_folder), _folder(target) as (new, to_folder):
        os.replace(old, new, src_dir_fd=from_folder, dst_dir_fd=to_folder)


def copy_files(source: Path, target: Path, *, shared: bool = False) -> None:
    """The plain files of a folder and of those in it, into another that may hold more; each is there whole or not.

    Args:
        source: the folder.
        target: the other.
        shared: without their bytes, where the disk can do so; for files that are replaced and never changed.
    """
    for file in sorted(source.rglob("*")):
        if file.is_symlink() or not file.is_file():
            continue
        place = target / file.relative_to(source)
        make_folders(place.parent)
        passing = beside(place)
        try:
            if not (shared and _linked(file, passing)):
                with file.open("rb") as old, open_new(passing) as new:
                    shutil.copyfileobj(old, new)
            rename(passing, place)
        except BaseException:
            with contextlib.suppress(OSError):
                remove(passing)
            raise


def _linked(file: Path, name: Path) -> bool:
    """Whether a file could be given a second name."""
    try:
        os.link(file, name, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    return True


def remove(path: Path) -> None:
    """A file, a link, or an empty folder."""
    with _folder(path) as (name, folder):
        try:
            os.unlink(name, dir_fd=folder)
        except (IsADirectoryError, PermissionError):
            if path.is_symlink() or not path.is_dir():
                raise
            os.rmdir(name, dir_fd=folder)


def give_usual_modes(folder: Path) -> None:
    """What a library wrote into a new folder of ours gets the mode that our own files have: some make theirs 0600."""
    probe = beside(folder / "mode")
    with open_new(probe) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    remove(probe)
    for path in folder.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            os.chmod(path, mode)


# ---------------------------------------------------------------- by the folder that holds it


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[tuple[str, int | None]]:
    """The name, and the folder that holds it; or the whole path, where the system knows no names within folders."""
    if not _BY_FOLDER:
        if path.parent.is_symlink():
            raise _refused(path.parent)
        yield os.fspath(path), None
        return
    try:
        handle = os.open(path.parent, _FOLDER_FLAGS)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise _refused(path.parent) from error
        raise
    try:
        yield path.name, handle
    except OSError as error:
        # The system names what it was told.
        if error.filename == path.name:
            error.filename = os.fspath(path)
        raise
    finally:
        os.close(handle)


def _opened(path: Path, flags: int) -> int:
    with _folder(path) as (name, folder):
        try:
            handle = os.open(name, flags | _FLAGS, 0o666, dir_fd=folder)
        except OSError as error:
            # ELOOP: a link. ENXIO: a pipe that nobody reads.
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise _refused(path) from error
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise _refused(path)
        return handle


def _refused(path: Path) -> OSError:
    try:
        mode = path.lstat().st_mode
    except OSError:
        mode = 0
    kinds = ((stat.S_ISLNK, "a link"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISDIR, "a folder"))
    kind = next((words for test, words in kinds if test(mode)), "something else than was expected")
    return OSError(
        errno.ELOOP, f"{path} is {kind}, and nothing is written through it; remove it", os.fspath(path)
    )

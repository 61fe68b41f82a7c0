"""File operations that must survive a crash: the only place where the run room writes, renames and removes.

The rule behind all of them: write under a temporary name, fsync the file, rename, fsync the folder. Until the
last step the old state is what a reader finds, afterwards the new one; a mix never exists.

Every operation goes through a `FileOps`, so that tests can record what a save does, replay each prefix of it
as a crash, and make any single operation fail.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from bigbatch.errors import DiskError
from bigbatch.units import show_bytes
from bigbatch.written import (
    TEMPORARY as TEMPORARY,
)
from bigbatch.written import (
    as_named,
    beside,
    make_new_folder,
    open_append,
    open_new,
    remove,
    rename,
)

Buffer = bytes | bytearray | memoryview


class FileOps:
    """The primitive operations. Nothing is durable before `fsync` (contents) and `fsync_dir` (names)."""

    def open(self, path: Path, *, append: bool = False) -> BinaryIO:
        """Create a file where there was nothing, or open a plain one to append, for unbuffered writing."""
        return (open_append if append else open_new)(path, buffering=0)

    def write(self, handle: BinaryIO, data: Buffer) -> None:
        """Write all of `data`: the system may take a large buffer in several parts."""
        rest = memoryview(data)
        while len(rest):
            rest = rest[handle.write(rest) :]

    def fsync(self, handle: BinaryIO) -> None:
        """Force the file's contents to the disk."""
        if sys.platform == "darwin":  # its fsync stops at the drive's cache
            import fcntl

            fcntl.fcntl(handle.fileno(), fcntl.F_FULLFSYNC)
        else:
            os.fsync(handle.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Rename in one step; an existing file at `target` is replaced."""
        rename(source, target)

    def mkdir(self, path: Path) -> None:
        """Create one folder; its parent exists."""
        make_new_folder(path)

    def remove(self, path: Path) -> None:
        """Remove a file, or an empty folder."""
        remove(path)

    def fsync_dir(self, path: Path) -> None:
        """Force the names inside a folder to the disk."""
        if sys.platform == "win32":  # folders cannot be opened there; NTFS journals names itself
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


FILES = FileOps()
"""The real ones."""


def write_file(path: Path, chunks: Iterable[Buffer], *, ops: FileOps = FILES) -> None:
    """Write a file and force its contents to the disk; its name needs `fsync_dir` of the folder.

    Args:
        path: is replaced.
        chunks: of bytes, in order.
        ops: the calls to the system; tests plant faults in them.
    """
    with ops.open(path) as handle:
        for chunk in chunks:
            ops.write(handle, chunk)
        ops.fsync(handle)


def atomic_write_bytes(path: Path, data: Buffer, *, ops: FileOps = FILES) -> None:
    """Replace a file: after a crash it holds the old bytes or the new ones, never a part.

    Args:
        path: is replaced.
        data: the whole content.
        ops: the calls to the system; tests plant faults in them.

    Raises:
        DiskError: it could not be written; the old file is untouched.
    """
    temporary = beside(path)
    try:
        write_file(temporary, [data], ops=ops)
        ops.rename(temporary, path)
        ops.fsync_dir(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            ops.remove(temporary)
        raise disk_error(error, path, bytes_needed=len(data)) from error


def atomic_write_text(path: Path, text: str, *, ops: FileOps = FILES) -> None:
    """`atomic_write_bytes` of UTF-8 text.

    Args:
        path: of the file, in a folder that exists.
        text: all that it is to hold.
        ops: the calls of the system.
    """
    atomic_write_bytes(path, text.encode(), ops=ops)


def atomic_write_json(path: Path, value: object, *, ops: FileOps = FILES) -> None:
    """`atomic_write_bytes` of strict JSON (a NaN is a ValueError), indented for people.

    Args:
        path: of the file, in a folder that exists.
        value: what JSON can hold.
        ops: the calls of the system.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write_text(path, text + "\n", ops=ops)


def append_line(path: Path, line: str, *, ops: FileOps = FILES) -> None:
    """Append one line in one write. It survives a kill of the process; a power cut only after `fsync_file`.

    Args:
        path: of the file, which may not exist yet.
        line: without its end.
        ops: the calls of the system.

    Raises:
        DiskError: nothing, or no part of the line, is left behind.
    """
    data = line.encode() + b"\n"
    try:
        with ops.open(path, append=True) as handle:
            size = os.fstat(handle.fileno()).st_size
            try:
                ops.write(handle, data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(handle.fileno(), size)
                raise
    except OSError as error:
        raise disk_error(error, path, bytes_needed=len(data)) from error


def fsync_file(path: Path, *, ops: FileOps = FILES) -> None:
    """Force an existing file's contents and its name to the disk."""
    try:
        with ops.open(path, append=True) as handle:
            ops.fsync(handle)
        ops.fsync_dir(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error


def make_folders(path: Path, *, ops: FileOps = FILES) -> None:
    """Create a folder and its missing parents, durably. A parent may be a link, which is followed; the folder may not.

    Raises:
        DiskError: one of them cannot be created, or is a file.
    """
    if path.is_symlink():
        raise disk_error(
            OSError(errno.ELOOP, "it is a link, and nothing is written through it; remove it"), path
        )
    if path.is_dir():
        return
    if path.parent != path and not path.parent.is_dir():
        make_folders(path.parent, ops=ops)
    path = as_named(path) if path.parent.is_symlink() else path
    try:
        ops.mkdir(path)
        ops.fsync_dir(path.parent)
    except FileExistsError as error:  # another process was faster; a file of that name is an error
        if not path.is_dir():
            raise disk_error(error, path) from error
    except OSError as error:
        raise disk_error(error, path) from error


def remove_tree(path: Path, *, ops: FileOps = FILES) -> None:
    """Remove a file, or a folder with all that is in it; links are removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir()):
            remove_tree(entry, ops=ops)
    ops.remove(path)


def set_aside(path: Path, *, named: str | None = None, ops: FileOps = FILES) -> Path:
    """Give a damaged file (or what lies in its place) another name beside it: `plan.json.damaged-1`.

    Args:
        path: what is damaged.
        named: what the name begins with instead.
        ops: the file operations.

    Raises:
        DiskError: it cannot be renamed.
    """
    number = 1
    while os.path.lexists(target := path.with_name(f"{named or path.name}.damaged-{number}")):
        number += 1
    try:
        ops.rename(path, target)
        ops.fsync_dir(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    return target


def nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest parent that exists."""
    path = Path(os.path.abspath(path))
    while not path.exists():
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write where `path` is, or will be."""
    return shutil.disk_usage(nearest_folder(path)).free


def disk_error(error: OSError, path: Path, *, bytes_needed: int | None = None) -> DiskError:
    """The system's error in a user's words, with bytes needed and free when space can be the reason.

    Args:
        error: of the system.
        path: what could not be written.
        bytes_needed: shown beside what is free; None: not known.
    """
    message = f"cannot write {path}: {error.strerror or error}"
    if error.errno == errno.ELOOP:  # no matter of room
        return DiskError(message)
    if bytes_needed is not None:
        with contextlib.suppress(OSError):
            message += f" ({space(bytes_needed, free_bytes(path))})"
    return DiskError(f"{message}; make room, or set run.dir to a folder that can be written")


def space(bytes_needed: int, bytes_free: int) -> str:
    """`needs 1.2 GiB (1,288,490,189 bytes), 300.0 MiB (314,572,800 bytes) are free`."""
    needed, free = (f"{show_bytes(size)} ({size:,} bytes)" for size in (bytes_needed, bytes_free))
    return f"needs {needed}, {free} are free"

"""Rows of one file as the task reads them, on the disk: read once, then mapped, so that memory holds none of them.

::

    CACHE/<key>/rows.arrow     Arrow IPC, not packed: a column per role, and the number of each row in its file
    CACHE/<key>/about.json     {rows, digest, sha256, …}: what else a DataTable knows

The key is a hash of the file's bytes, of how it is read, and of the code that reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from typing_extensions import TypedDict

from bigbatch.data.tables import DataTable
from bigbatch.documents import checked
from bigbatch.errors import DiskError
from bigbatch.stored import Damaged, check_plain, open_plain, read_object
from bigbatch.written import make_folders, new_folder, open_new, replace_text

_NUMBER = "\x00number"
"""Name of the column of row numbers; no column of a user's has it."""


class _About(TypedDict):
    digest: str
    sha256: str
    bytes: int
    tokenised: bool
    multi_hot: bool
    files: bool
    classes: list[str] | None
    warnings: list[str]


def parked(
    path: Path, root: Path, how: Mapping[str, object], read: Callable[[], DataTable], name: str
) -> DataTable:
    """The rows of a file, mapped from the cache; read and written there where they are not yet.

    Args:
        path: the file.
        root: of the cache.
        how: all that decides what reading gives, as JSON.
        read: reads the file.
        name: what messages call it.

    Raises:
        DataError: the file cannot be read, or its rows are malformed.
        DiskError: the cache cannot be written.
    """
    folder = root / _key(path, how)
    with contextlib.suppress(OSError, Damaged, pa.ArrowException):
        return _mapped(folder, name)
    table = read()
    try:
        _write(table, root, folder)
        return _mapped(folder, name)
    except OSError as error:
        raise DiskError(f"rows cannot be kept in {root}: {error.strerror or error}") from error


def _key(path: Path, how: Mapping[str, object]) -> str:
    check_plain(path)
    with open_plain(path) as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    parts = [content, path.name, _code(), how]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:40]


@cache
def _code() -> str:
    """Hash of this room: another version may read otherwise."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _write(table: DataTable, root: Path, folder: Path) -> None:
    make_folders(root, ours=2)
    passing = new_folder(root, ".writing-")
    rows = table.rows.append_column(_NUMBER, pa.array(table.row_numbers.tolist(), pa.int64()))
    with open_new(passing / "rows.arrow") as file:
        with pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
        file.flush()
        os.fsync(file.fileno())
    with open_plain(passing / "rows.arrow") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    about: _About = {
        "digest": table.content_digest,
        "sha256": digest,
        "bytes": (passing / "rows.arrow").stat().st_size,
        "tokenised": table.tokenised,
        "multi_hot": table.multi_hot,
        "files": table.files,
        "classes": None if table.classes is None else list(table.classes),
        "warnings": list(table.warnings),
    }
    replace_text(passing / "about.json", json.dumps(about))
    try:
        os.rename(passing, folder)
    except OSError:  # another process was first; or what is there is damaged, and makes room
        with contextlib.suppress(OSError, Damaged, pa.ArrowException):
            _mapped(folder, "")
            shutil.rmtree(passing, ignore_errors=True)
            return
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(passing, folder)


def _mapped(folder: Path, name: str) -> DataTable:
    """An entry, once its bytes are those that were written.

    Raises:
        OSError, Damaged, pa.ArrowException: there is none, or a damaged one.
    """
    about, path = checked(read_object(folder / "about.json"), _About), folder / "rows.arrow"
    if check_plain(path) != about["bytes"]:
        raise Damaged("has another size")
    with open_plain(path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
            raise Damaged("was altered")
    rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    numbers = rows.column(_NUMBER).to_numpy()
    return DataTable(
        rows=rows.drop_columns([_NUMBER]),
        origin=((name, 0),),
        numbers=numbers.astype(np.int64),
        warnings=tuple(about["warnings"]),
        tokenised=about["tokenised"],
        classes=None if about["classes"] is None else tuple(about["classes"]),
        multi_hot=about["multi_hot"],
        files=about["files"],
        digest=about["digest"],
    )

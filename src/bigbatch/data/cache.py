"""The token cache's files: raw little-endian arrays and a JSON header, checksummed and written atomically.

::

    CACHE/<key>/header.json     {format, key, facts, arrays: {name: {dtype, shape, sha256}}, checksum}
    CACHE/<key>/<name>.bin      the array, C order
    CACHE/.writing-<random>/    an entry being written; renamed to its key when complete

Never pickle. A reader takes an entry only if every byte has its checksum; a writer never touches an entry that
another process completed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from bigbatch.documents import checked
from bigbatch.errors import DiskError
from bigbatch.stored import check_plain, open_plain, read_object
from bigbatch.written import make_folders, new_folder, open_new, replace_text

FORMAT = 2
_HEADER = "header.json"
_ABANDONED_SECONDS = 24 * 3600
"""Age at which a half-written entry belongs to a process that died."""


_Numbers = Literal["<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "|i1", "|u1", "|b1"]
"""Little-endian. Never `object`."""


class _Array(TypedDict):
    dtype: _Numbers
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**48)]], Field(min_length=1, max_length=4)]
    sha256: str


class _Header(TypedDict):
    """header.json, without its checksum."""

    facts: dict[str, object]
    arrays: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")], _Array]


class Damaged(Exception):
    """An entry is there but incomplete or altered; it is rebuilt."""


class Writer:
    """Fills one entry, some rows at a time; arrays grow along their first axis.

    A context manager: what is not published when it ends is removed.
    """

    def __init__(self, root: Path, key: str) -> None:
        make_folders(root, ours=2)
        _remove_abandoned(root)
        self._final = root / key
        self._key = key
        self._folder = new_folder(root, ".writing-")
        self._files: dict[str, Any] = {}
        self._arrays: dict[str, dict[str, Any]] = {}
        self._sums: dict[str, Any] = {}

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ):
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def append(self, name: str, rows: np.ndarray) -> None:
        """Add rows (n, ...) to the array `name`; dtype and trailing shape stay those of the first call."""
        rows = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
        if name not in self._files:
            self._files[name] = open_new(self._folder / f"{name}.bin")
            self._sums[name] = hashlib.sha256()
            self._arrays[name] = {"dtype": rows.dtype.str, "shape": [0, *rows.shape[1:]]}
        about = self._arrays[name]
        assert about["dtype"] == rows.dtype.str and about["shape"][1:] == list(rows.shape[1:]), name
        about["shape"][0] += len(rows)
        data = rows.tobytes()
        self._sums[name].update(data)
        try:
            self._files[name].write(data)
        except OSError as error:
            raise DiskError(f"token cache {self._final.parent}: {error}") from error

    def publish(self, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Make the entry durable and visible under its key; returns its arrays, memory-mapped read-only.

        When another process published the same key meanwhile, its entry stays; a damaged one is replaced.
        """
        for name, file in self._files.items():
            _sync(file)
            self._arrays[name]["sha256"] = self._sums[name].hexdigest()
        header = {"format": FORMAT, "key": self._key, "facts": dict(facts), "arrays": self._arrays}
        replace_text(self._folder / _HEADER, json.dumps({**header, "checksum": _checksum(header)}, indent=1))
        _sync_folder(self._folder)
        # Mapped before the renaming: whatever other processes do to the names, these bytes stay.
        arrays = {name: _map(self._folder / f"{name}.bin", about) for name, about in self._arrays.items()}
        self._rename()
        _sync_folder(self._final.parent)
        return arrays

    def _rename(self) -> None:
        try:
            os.rename(self._folder, self._final)
        except OSError:  # renaming onto a folder that is not empty fails
            if not self._final.exists():
                raise
            try:
                read(self._final)
            except Damaged:
                discard(self._final)
                with contextlib.suppress(OSError):  # another process replaced it in this moment
                    os.rename(self._folder, self._final)


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an entry, memory-mapped read-only, and its facts.

    Raises:
        FileNotFoundError: there is no such entry.
        Damaged: there is one, but it is torn or altered.
    """
    if not folder.exists():
        raise FileNotFoundError(folder)
    try:
        header = read_object(folder / _HEADER)
        checksum = header.pop("checksum", None)
        if checksum != _checksum(header) or (header.get("format"), header.get("key")) != (
            FORMAT,
            folder.name,
        ):
            raise Damaged("its header was altered")
        known = checked(header, _Header)
        for name, about in known["arrays"].items():
            _verify(folder / f"{name}.bin", about)
        arrays = {name: _map(folder / f"{name}.bin", about) for name, about in known["arrays"].items()}
    except (OSError, ValueError) as error:
        raise Damaged(f"it is incomplete ({error})") from error
    return arrays, known["facts"]


def discard(folder: Path) -> None:
    """Take a damaged entry away. Renamed first, so that no reader sees half of it."""
    grave = new_folder(folder.parent, ".writing-")
    with contextlib.suppress(FileNotFoundError):  # another process took it away first
        os.rename(folder, grave / "damaged")
    shutil.rmtree(grave, ignore_errors=True)


def _verify(path: Path, about: Mapping[str, Any]) -> None:
    expected = math.prod(about["shape"]) * np.dtype(about["dtype"]).itemsize
    found = check_plain(path)
    if found != expected:
        raise Damaged(f"{path.name} has {found:,} bytes instead of {expected:,}")
    with open_plain(path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
            raise Damaged(f"{path.name} was altered")


def _map(path: Path, about: Mapping[str, Any]) -> np.ndarray:
    shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
    if 0 in shape:  # an empty file cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", shape=shape)


def _checksum(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames and new names durable; some systems cannot open a folder, and then there is nothing to do."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(".writing-*"):
        try:
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue  # its owner finished in this moment

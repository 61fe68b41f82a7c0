"""The shards of a stream that lie on this machine: brought before they are needed, checked, mapped, and put away.

::

    needed (the next update)  |  ahead, in the arithmetic order, as far as the bound goes  |  all others: deleted

One thread brings what comes next. Whoever asks for a shard that is not there waits for it, or brings it. A file is the
one that the index names, by its SHA-256, or it is refused. What lies in a folder of this machine is read where it is.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bigbatch.data.published import Index, columns_of
from bigbatch.errors import BigbatchError, DataError, MachineError, Problem
from bigbatch.remote.addresses import is_address, shown
from bigbatch.remote.exact import Stopped, Wanted, beside, folder_of, one_file
from bigbatch.stored import Damaged, open_plain

Columns = Mapping[str, np.ndarray]
_PAUSE_SECONDS = 10.0
"""After which what could not be brought ahead of time is tried again."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where shards come from and go to."""

    index: Index
    root: Path
    """Of the copies; unused where the index lies in a folder of this machine."""
    bound_bytes: int
    """Of all copies."""
    wanted: Wanted
    """How files are asked for; its size and checksum are those of each shard."""
    problem: Callable[[int, Columns], str]
    """Why a shard's columns cannot be used; empty if they can."""


class Shelf:
    """Columns of shards, by number."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.index = store.index
        self.elsewhere = is_address(store.index.place)
        """Whether shards are copied here."""
        self._changed = threading.Condition()
        self._mapped: dict[int, Columns] = {}
        self._busy: set[int] = set()
        self._failed: dict[int, tuple[BigbatchError, float]] = {}
        self._needed: frozenset[int] = frozenset()
        self._coming: Iterable[int] = ()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._moved = 0

    # ------------------------------------------------------------ who reads

    def columns(self, shard: int) -> Columns:
        """The columns of a shard, mapped; brought now if they are not here.

        Raises:
            DataError: it is not the one that the index names.
            MachineError: it cannot be reached.
        """
        with self._changed:
            while shard in self._busy:
                self._changed.wait(0.2)
            if shard in self._mapped:
                return self._mapped[shard]
            self._busy.add(shard)
        try:
            found = self._brought(shard)
        finally:
            with self._changed:
                self._busy.discard(shard)
                self._changed.notify_all()
        with self._changed:
            self._mapped[shard] = found
            self._failed.pop(shard, None)
            self._changed.notify_all()
        return found

    def missing(self, shards: Iterable[int]) -> list[int]:
        """Those that are not here yet.

        Raises:
            BigbatchError: why one of them will not come.
        """
        with self._changed:
            found = [shard for shard in shards if shard not in self._mapped]
            for shard in found:
                if shard in self._failed:
                    raise self._failed.pop(shard)[0]
        return found

    def wait(self, seconds: float) -> None:
        """Until something came, or so long."""
        with self._changed:
            self._changed.wait(seconds)

    # ------------------------------------------------------------ who brings

    def seek(self, needed: Iterable[int], coming: Callable[[], Iterator[int]]) -> None:
        """Training is here now; shards are brought ahead from here on.

        Args:
            needed: by the next update.
            coming: shards from here on, in order, without an end.
        """
        ahead = self._within(needed, coming())
        with self._changed:
            self._needed, self._coming = frozenset(needed), ahead
            self._moved += 1
            self._changed.notify_all()
            if self._thread is None and not self._closed:
                # A daemon: a second Ctrl-C ends the process whatever a server does.
                self._thread = threading.Thread(target=self._bring, name="bigbatch-shelf", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Bring nothing more. What comes at this moment is left half-way, and kept for the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _within(self, needed: Iterable[int], coming: Iterator[int]) -> list[int]:
        """What is needed, and what comes next as far as the bound goes."""
        found = dict.fromkeys(needed)
        size = sum(self.index.shards[shard]["bytes"] for shard in found)
        seen: set[int] = set()
        for shard in coming:
            if len(seen) == len(self.index.shards):
                break
            seen.add(shard)
            if shard in found:
                continue
            size += self.index.shards[shard]["bytes"]
            if size > self._store.bound_bytes:
                break
            found[shard] = None
        return list(found)

    def _bring(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                ahead, moved = list(self._coming), self._moved
                now = time.monotonic()
                left = [each for each in ahead if each not in self._mapped]
                due = [
                    each for each in left if now - self._failed.get(each, (None, -1e9))[1] > _PAUSE_SECONDS
                ]
            self._put_away(set(ahead))
            if due:
                self._tried(due[0])
                continue
            with self._changed:
                self._changed.wait_for(
                    lambda moved=moved: self._closed or self._moved != moved,
                    timeout=_PAUSE_SECONDS / 4 if left else None,
                )

    def _tried(self, shard: int) -> None:
        """Bring one; what keeps it away is for whoever needs it."""
        try:
            self.columns(shard)
        except Stopped:
            return
        except BigbatchError as error:
            self._note(shard, error)
        except Exception as error:
            self._note(shard, MachineError(f"{self._place(shard)}: {type(error).__name__}: {error}"))

    def _note(self, shard: int, error: BigbatchError) -> None:
        with self._changed:
            self._failed[shard] = (error, time.monotonic())
            self._changed.notify_all()

    def _put_away(self, kept: set[int]) -> None:
        """Copies that are not wanted now. Whoever reads one of them at this moment goes on: it is mapped."""
        with self._changed:
            for shard in [each for each in self._mapped if each not in kept]:
                del self._mapped[shard]
        if not self.elsewhere or not self._store.root.is_dir():
            return
        folders = {self._folder(shard).name for shard in kept}
        for folder in self._store.root.iterdir():
            if folder.is_dir() and folder.name not in folders:
                shutil.rmtree(folder, ignore_errors=True)

    # ------------------------------------------------------------ one shard

    def _place(self, shard: int) -> str:
        return shown(beside(self.index.place, self.index.shards[shard]["file"]))

    def _folder(self, shard: int) -> Path:
        return folder_of(beside(self.index.place, self.index.shards[shard]["file"]), self._store.root)

    def _brought(self, shard: int) -> Columns:
        about = self.index.shards[shard]
        place = beside(self.index.place, about["file"])
        remedy = "publish the tokens anew beside an index of their own, or put the file back"
        try:
            path = self._copied(place, about["bytes"], about["sha256"])
            # Opened before it is checked: whatever happens to the name, these bytes stay.
            columns = columns_of(path)
            size, digest = path.stat().st_size, digest_of(path)
            if (size, digest) != (about["bytes"], about["sha256"]):
                what = (
                    f"it is not the file that {self.index.shown} names ({size:,} bytes, sha256 {digest[:16]}…; "
                    f"expected {about['bytes']:,} bytes, {about['sha256'][:16]}…)"
                )
                self._forget(shard)
                raise Damaged(what)
            why = self._store.problem(shard, columns)
            if why:
                raise Damaged(why)
        except (OSError, Damaged) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise DataError([Problem(where=shown(place), what=f"{why}; {remedy}")]) from None
        return columns

    def _copied(self, place: str, size: int, digest: str) -> Path:
        if not self.elsewhere:
            return Path(place)
        wanted = replace(self._store.wanted, most_bytes=size, sha256=digest, going=lambda: not self._closed)
        return one_file(place, self._store.root, wanted)

    def _forget(self, shard: int) -> None:
        if self.elsewhere:
            shutil.rmtree(self._folder(shard), ignore_errors=True)


def digest_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The cache of what was fetched: a file is there whole, with its checksum, or it is not there.

::

    CACHE/<key>/about.json          what it is: shown address, version, size, sha256, name of its file
    CACHE/<key>/<sha256>-<name>     the file
    CACHE/<key>/part, part.json     what came so far of which version; the next attempt goes on there
    CACHE/<key>.lock                one process at a time; the others find what it left

The folder is its user's own (`private`): what a login let in, nobody else reads, and nobody else can put a file there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from typing_extensions import TypedDict

from bigbatch.documents import checked
from bigbatch.errors import DiskError, MachineError
from bigbatch.private import make_private, user_cache, why_not_private
from bigbatch.remote.addresses import Address, file_name, refused
from bigbatch.stored import Damaged, check_plain, open_plain, read_object
from bigbatch.units import show_bytes
from bigbatch.written import make_folder, open_append, open_new, remove, rename, replace_text

Say = Callable[[str], object]
_ABANDONED_SECONDS = 24 * 3600
"""Age of a file of an earlier version at which no process reads it any more."""
_FRESH_SECONDS = 60
_SPARE_BYTES = 2**28
"""Of the disk that stay free."""
_TOLD_SECONDS = 5.0


class Interrupted(Exception):
    """It did not come, or not all of it; trying again may help."""


@dataclass(frozen=True)
class Patience:
    """With slow servers and bad lines."""

    silent_seconds: float = 30.0
    """Without a byte."""
    slow_seconds: float = 60.0
    """In which at least `fewest_bytes` come."""
    fewest_bytes: int = 16_384
    attempts: int = 5
    pause_seconds: float = 1.0
    """Before the second attempt; twice as long before each further one."""


USUAL = Patience()


@dataclass
class Answer:
    """What a server sends."""

    size_bytes: int | None
    """Of the whole file; None: it does not say."""
    tag: str | None
    """What it calls this version; None: it does not say, and a broken-off transfer begins anew."""
    start: int
    """The first byte that comes."""
    chunks: Iterator[bytes]
    """Raise `Interrupted` where they break off."""
    suffix: str = ""
    """That the file's name lacks, by its kind."""
    close: Callable[[], object] = lambda: None


class Remote(Protocol):
    """A file elsewhere."""

    def open(self, start: int, tag: str | None, unless: str | None) -> Answer | None:
        """Ask for it.

        Args:
            start: bytes that are there already; they are of the version `tag`.
            tag: that version; None: nothing is there.
            unless: the version that needs no fetching.

        Returns:
            What comes; None: the version is still `unless`.
        """
        ...


class About(TypedDict):
    """about.json."""

    address: str
    tag: str | None
    bytes: int
    sha256: str
    file: str
    fetched_at: str


class _Part(TypedDict):
    address: str
    tag: str


def cache_root() -> Path:
    """`~/.cache/bigbatch/fetched`, or below `$XDG_CACHE_HOME`; made if it is missing.

    Raises:
        MachineError: others may write there, or it cannot be made.
    """
    root = Path()
    try:
        root = user_cache() / "fetched"
        make_private(root)
        why = why_not_private(root)
    except (OSError, RuntimeError) as error:
        why = str(error)
    if why:
        raise MachineError(
            f"data from elsewhere cannot be kept: {why}; point XDG_CACHE_HOME to a folder of yours that nobody else "
            "may write"
        )
    return root


def known(address: Address, root: Path) -> About | None:
    """What is there of it, whole; None: nothing."""
    try:
        return checked(read_object(root / address.key / "about.json"), About)
    except (OSError, Damaged, ValueError):
        return None


def kept(address: Address, remote: Remote, root: Path, say: Say, patience: Patience = USUAL) -> Path:
    """The file of an address in the cache, as it is there now; fetched where it is missing or has changed.

    Args:
        address: of the file.
        remote: how it is asked for.
        root: of the cache.
        say: told what is fetched, how far it is, and what was used instead.
        patience: with the server.

    Raises:
        DataError: there is no such file, or not for us.
        MachineError: it cannot be reached and was never fetched, or breaks off again and again.
        DiskError: no room.
    """
    folder, lock = root / address.key, FileLock(root / f"{address.key}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        say(f"{address.shown}: another process fetches it; waiting")
        lock.acquire()
    try:
        make_folder(folder)
        return _Entry(address, remote, folder, say, patience).current()
    except OSError as error:
        raise DiskError(f"{folder}: {error.strerror or error}") from error
    finally:
        lock.release()


@dataclass
class _Entry:
    address: Address
    remote: Remote
    folder: Path
    say: Say
    patience: Patience

    def current(self) -> Path:
        """What is there, if it is still current; else what is there now."""
        about = known(self.address, self.folder.parent)
        about = about if about is not None and self._whole(about) else None
        if about is not None and about["tag"] is None and self._is_fresh(about):
            return self.folder / about["file"]
        last = ""
        for attempt in range(self.patience.attempts):
            if attempt:
                time.sleep(self.patience.pause_seconds * 2 ** (attempt - 1))
                self.say(f"{self.address.shown}: {last}; trying again")
            try:
                found = self._attempt(None if about is None else about["tag"])
                return (
                    self.folder / about["file"]
                    if found is None and about is not None
                    else self._published(found)
                )
            except Interrupted as error:
                last = str(error)
                if about is not None:
                    break
        if about is not None:
            self.say(
                f"{self.address.shown}: {last}; what was fetched at {about['fetched_at']} is used as it is"
            )
            return self.folder / about["file"]
        raise MachineError(f"{self.address.shown}: {last}{self._so_far()}")

    def _attempt(self, unless: str | None) -> Answer | None:
        """Ask once, and write down what comes; None: nothing new."""
        start, tag = self._begun()
        answer = self.remote.open(start, tag, unless)
        if answer is None:
            return None
        try:
            self._write(answer, start, tag)
        finally:
            answer.close()
        return answer

    def _write(self, answer: Answer, start: int, tag: str | None) -> None:
        part = self.folder / "part"
        goes_on = bool(start) and answer.start == start and answer.tag == tag
        if answer.start and not goes_on:
            self._forget()
            raise Interrupted("it has changed while it was fetched")
        if not goes_on:
            self._forget()
            if answer.tag is not None:
                begun: _Part = {"address": self.address.shown, "tag": answer.tag}
                replace_text(self.folder / "part.json", json.dumps(begun))
        self._check_room(answer)
        said = "" if answer.size_bytes is None else f", {show_bytes(answer.size_bytes)}"
        self.say(f"fetching {self.address.shown}{said}" + (f", from byte {start:,} on" if goes_on else ""))
        with open_append(part) if goes_on else open_new(part) as file:
            try:
                for chunk in self._watched(answer, start if goes_on else 0):
                    file.write(chunk)
            except OverflowError:
                self._forget()
                raise refused(
                    self.address.full,
                    f"the server says {answer.size_bytes:,} bytes and sends more: whatever it is, it is not what was "
                    "announced",
                ) from None
            finally:
                file.flush()
                os.fsync(file.fileno())
        if answer.size_bytes is not None and part.stat().st_size != answer.size_bytes:
            raise Interrupted(f"{part.stat().st_size:,} of {answer.size_bytes:,} bytes came")

    def _watched(self, answer: Answer, done: int) -> Iterator[bytes]:
        """What comes, fast enough, with a word now and then."""
        since = told = time.monotonic()
        came, checked = 0, done
        for chunk in answer.chunks:
            came, done, now = came + len(chunk), done + len(chunk), time.monotonic()
            yield chunk
            if (
                done - checked >= _SPARE_BYTES // 2
            ):  # of a body without an announced end, and of a disk that others fill
                checked = done
                if shutil.disk_usage(self.folder).free < _SPARE_BYTES:
                    raise DiskError(
                        f"{self.address.shown}: {show_bytes(done)} came, and {self.folder} has less than "
                        f"{show_bytes(_SPARE_BYTES)} free; XDG_CACHE_HOME names another place"
                    )
            if now - told >= _TOLD_SECONDS:
                whole = answer.size_bytes
                of = "" if not whole else f" of {show_bytes(whole)} ({done / whole:.0%})"
                self.say(f"{self.address.name}: {show_bytes(done)}{of}")
                told = now
            if now - since >= self.patience.slow_seconds:
                if came < self.patience.fewest_bytes:
                    raise Interrupted(f"only {came:,} bytes came in {now - since:.0f} s")
                since, came = now, 0

    def _published(self, answer: Answer | None) -> Path:
        """The part is the file now; older versions stay while somebody may read them."""
        assert answer is not None
        part = self.folder / "part"
        with open_plain(part) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"{digest[:16]}-{file_name(self.address.path)}{answer.suffix}"
        size = part.stat().st_size
        rename(part, self.folder / name)
        about: About = {
            "address": self.address.shown,
            "tag": answer.tag,
            "bytes": size,
            "sha256": digest,
            "file": name,
            "fetched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        replace_text(self.folder / "about.json", json.dumps(about, indent=1))
        self._forget()
        for old in self.folder.iterdir():
            if (
                old.name not in (name, "about.json")
                and time.time() - old.lstat().st_mtime > _ABANDONED_SECONDS
            ):
                remove(old)
        return self.folder / name

    def _whole(self, about: About) -> bool:
        """Whether the file is there as it came."""
        path = self.folder / about["file"]
        try:
            if path.parent != self.folder or check_plain(path) != about["bytes"]:
                return False
            with open_plain(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == about["sha256"]
        except (OSError, Damaged):
            return False

    def _is_fresh(self, about: About) -> bool:
        """Whether another rank has just fetched it: of servers that name no versions, one file serves all."""
        return time.time() - (self.folder / about["file"]).stat().st_mtime < _FRESH_SECONDS

    def _begun(self) -> tuple[int, str | None]:
        """Bytes of a transfer that broke off, and of which version they are."""
        try:
            tag = checked(read_object(self.folder / "part.json"), _Part)["tag"]
            if tag.startswith("W/"):  # versions that are called so need not be equal byte for byte
                return 0, None
            return check_plain(self.folder / "part"), tag
        except (OSError, Damaged, ValueError):
            return 0, None

    def _forget(self) -> None:
        for name in ("part", "part.json"):
            with contextlib.suppress(FileNotFoundError):
                remove(self.folder / name)

    def _so_far(self) -> str:
        begun, _ = self._begun()
        return f"; {show_bytes(begun)} are kept, and the same command goes on there" if begun else ""

    def _check_room(self, answer: Answer) -> None:
        needed = (answer.size_bytes or 0) - answer.start + _SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise DiskError(
                f"{self.address.shown}: {show_bytes(answer.size_bytes or 0)} are to come, and {self.folder} has "
                f"{show_bytes(free)} free; XDG_CACHE_HOME names another place"
            )

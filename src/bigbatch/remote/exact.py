"""One file of which it is known beforehand how large it is, or may be: nothing else is written to the disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from typing_extensions import override

from bigbatch.errors import DataError, MachineError
from bigbatch.remote import hub
from bigbatch.remote.addresses import Address, address_of, refused
from bigbatch.remote.keep import USUAL, Answer, Patience, Remote, Say, kept, known


class Stopped(Exception):
    """Nobody wants it any more."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for, and how it may come."""

    most_bytes: int
    """More is refused before it is written."""
    sha256: str | None = None
    """Of its content: then `most_bytes` is its size, and a copy that is there is taken unasked; None: unknown."""
    say: Say = lambda text: None
    """Told what is fetched, and how far it is."""
    going: Callable[[], bool] = lambda: True
    """Asked between two chunks: False gives up."""
    patience: Patience = USUAL
    """With the server."""


@dataclass
class _Exact(Remote):
    """A file elsewhere that may not be another size."""

    remote: Remote
    address: Address
    wanted: Wanted

    @override
    def open(self, start: int, tag: str | None, unless: str | None) -> Answer | None:
        if not self.wanted.going():
            raise Stopped
        answer = self.remote.open(start, tag, unless)
        if answer is None:
            return None
        size, most = answer.size_bytes, self.wanted.most_bytes
        if size is not None and (size > most or (self.wanted.sha256 is not None and size != most)):
            answer.close()
            raise self._refused(f"the server announces {size:,} bytes")
        return replace(answer, chunks=self._chunks(answer))

    def _chunks(self, answer: Answer) -> Iterator[bytes]:
        came = answer.start
        for chunk in answer.chunks:
            came += len(chunk)
            if came > self.wanted.most_bytes:
                raise self._refused("more comes")
            if not self.wanted.going():
                raise Stopped
            yield chunk

    def _refused(self, what: str) -> DataError:
        bound = "the index says" if self.wanted.sha256 is not None else "it may have at most"
        return refused(self.address.full, f"{what}, and {bound} {self.wanted.most_bytes:,}")


def beside(text: str, name: str) -> str:
    """The address or path of a file in the same folder; a query belongs to one file, and is left out."""
    if "://" not in text:
        return str(Path(text).parent / name)
    scheme, _, rest = text.split("?")[0].split("#")[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{PurePosixPath(path).parent / name}".replace("/./", "/")


def one_file(text: str, root: Path, wanted: Wanted) -> Path:
    """A file of an address, in a cache of the caller's own.

    Args:
        text: `https://`, `http://`, `s3://`, `gs://` or `hf://datasets/`.
        root: the cache.
        wanted: its size, and who listens.

    Raises:
        DataError: it is not there, not for us, or of another size.
        MachineError: it cannot be reached.
        Stopped: nobody wants it any more.
    """
    address = address_of(text)
    about = known(address, root) if wanted.sha256 is not None else None
    if about is not None and about["sha256"] == wanted.sha256:
        path = root / address.key / about["file"]
        if path.parent == root / address.key and path.is_file() and path.stat().st_size == about["bytes"]:
            return path
    if address.scheme == "hf":
        return _of_hub(text, root / address.key, wanted)
    if address.scheme in ("http", "https"):
        from bigbatch.remote.web import Web

        remote: Remote = Web(address, wanted.patience)
    else:
        from bigbatch.remote.stores import Store

        remote = Store(address, wanted.patience)
    return kept(address, _Exact(remote, address, wanted), root, wanted.say, wanted.patience)


def _of_hub(text: str, folder: Path, wanted: Wanted) -> Path:
    """The hub's own client brings it; a hub that does not answer is asked as often as other servers."""
    attempts = wanted.patience.attempts
    for attempt in range(1, attempts + 1):
        if not wanted.going():
            raise Stopped
        try:
            return hub.one_file(text, folder, wanted.most_bytes)
        except MachineError as error:
            if attempt == attempts:
                raise
            wanted.say(f"{error}; trying again")
            time.sleep(wanted.patience.pause_seconds * 2 ** (attempt - 1))
    raise AssertionError("there is at least one attempt")


def folder_of(text: str, root: Path) -> Path:
    """Where `one_file` keeps it, for whoever clears it away."""
    return root / address_of(text).key

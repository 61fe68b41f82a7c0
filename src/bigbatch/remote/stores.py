"""S3 and Google Cloud Storage, by the clients that pyarrow brings along; who asks is found as their own tools find it.

Environment, `~/.aws` or `~/.config/gcloud`, the machine's role; public buckets need nobody. `AWS_ENDPOINT_URL` names
another server that speaks S3, as `STORAGE_EMULATOR_HOST` does for Google's.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from bigbatch.errors import DataError, MachineError
from bigbatch.remote.addresses import Address, refused
from bigbatch.remote.keep import Answer, Interrupted, Patience

_CHUNK_BYTES = 2**20
_SIGNS = "*?["
_LOGIN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role",
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
}


@dataclass
class Store:
    """A bucket's file, or its files below a folder or by a pattern."""

    address: Address
    patience: Patience

    @cached_property
    def place(self) -> str:
        """`bucket/path`, as pyarrow has it."""
        return f"{self.address.host}/{unquote(self.address.path)}"

    def open(self, start: int, tag: str | None, unless: str | None) -> Answer | None:
        """The file from a byte on; the store's ETag names a version.

        Args:
            start: bytes that are there already; they are of the version `tag`.
            tag: that version; None: nothing is there.
            unless: the version that needs no fetching.

        Returns:
            What comes; None: the version is still `unless`.
        """
        return self._asked(lambda system: self._open(system, start, tag, unless))

    def files(self, is_data: Callable[[str], bool]) -> list[str]:
        """Addresses of the files that a folder (`s3://bucket/folder/`) or a pattern stands for, by name.

        Raises:
            DataError: none.
            MachineError: the store does not answer, after all attempts.
        """
        for attempt in range(1, self.patience.attempts + 1):
            try:
                return self._asked(lambda system: self._files(system, is_data))
            except Interrupted as error:
                if not self.place.endswith("/") and not any(sign in self.place for sign in _SIGNS):
                    return [self.address.full]  # a copy of it may be here, which is asked next
                if attempt == self.patience.attempts:
                    raise MachineError(f"{self.address.shown}: {error}") from None
                time.sleep(self.patience.pause_seconds * 2 ** (attempt - 1))
        raise AssertionError("there is at least one attempt")

    def _files(self, system: fs.FileSystem, is_data: Callable[[str], bool]) -> list[str]:
        path = self.place
        pattern = next(
            (at for at, part in enumerate(path.split("/")) if any(sign in part for sign in _SIGNS)), None
        )
        if pattern is None and not path.endswith("/"):
            if system.get_file_info(path).type != fs.FileType.Directory:
                return [self.address.full]
            path += "/"
        folder = path.rstrip("/") if pattern is None else "/".join(path.split("/")[:pattern])
        wanted = re.compile(_matching(path) if pattern is not None else re.escape(path) + "[^/]+")
        found = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        names = sorted(
            each.path
            for each in found
            if each.type == fs.FileType.File
            and wanted.fullmatch(each.path)
            and (pattern is not None or is_data(each.path))
        )
        if not names:
            raise refused(self.address.full, "no file of data is there")
        return [f"{self.address.scheme}://{name.replace('%', '%25')}" for name in names]

    def _open(self, system: fs.FileSystem, start: int, tag: str | None, unless: str | None) -> Answer | None:
        about = system.get_file_info(self.place)
        if about.type != fs.FileType.File:
            raise refused(self.address.full, "no such file in the bucket")
        begun = start if start <= about.size else 0
        # Google's file that can be read from the middle stops all threads of Python while it asks; a stream does not.
        stream = self.address.scheme == "gs" and (not begun or _dated(about) != tag)
        if stream and unless is not None and _dated(about) == unless:
            return None
        file = (system.open_input_stream if stream else system.open_input_file)(self.place)
        found = self._version(file, about)
        if found is not None and found == unless:
            file.close()
            return None
        begun = begun if tag == found else 0
        if begun:
            file.seek(begun)
        return Answer(
            size_bytes=about.size,
            tag=found,
            start=begun,
            chunks=self._chunks(system, file, found),
            close=file.close,
        )

    def _version(self, file: pa.NativeFile, about: fs.FileInfo) -> str | None:
        if self.address.scheme == "gs":
            return _dated(about)
        known = {_text(name).lower(): _text(value) for name, value in (file.metadata() or {}).items()}
        return known.get("etag") or _dated(about)

    def _chunks(self, system: fs.FileSystem, file: pa.NativeFile, tag: str | None) -> Iterator[bytes]:
        """Its bytes; a file that is another one by then is begun anew."""
        try:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            after = system.get_file_info(self.place)
            if (
                after.type != fs.FileType.File
                or self._version(
                    file if self.address.scheme == "gs" else system.open_input_file(self.place), after
                )
                != tag
            ):
                raise Interrupted("it has changed while it was fetched")
        except (OSError, pa.ArrowException) as error:
            raise Interrupted(f"the transfer broke off ({type(error).__name__})") from None

    def _asked(self, question):
        """Ask as who we are; where we are nobody, as anybody."""
        try:
            return question(self._system(anonymous=False))
        except (OSError, pa.ArrowException) as error:
            first = self._meaning(error)
            if isinstance(first, Interrupted) or not _is_closed(str(error)):
                raise first from None
        try:
            return question(self._system(anonymous=True))
        except (OSError, pa.ArrowException):
            raise first from None

    def _system(self, *, anonymous: bool) -> fs.FileSystem:
        seconds = self.patience.silent_seconds
        if self.address.scheme == "gs":
            emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
            parts = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
            own = {"endpoint_override": parts.netloc, "scheme": parts.scheme} if emulator else {}
            return fs.GcsFileSystem(
                anonymous=anonymous or bool(emulator),
                # Google's own is a quarter of an hour; we try again ourselves, and say so.
                retry_time_limit=timedelta(seconds=seconds),
                **own,
            )
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        own = {"endpoint_override": parts.netloc, "scheme": parts.scheme} if endpoint else {}
        if region is None and not endpoint:
            region = fs.resolve_s3_region(self.address.host)
        return fs.S3FileSystem(
            anonymous=anonymous, region=region, connect_timeout=seconds, request_timeout=seconds, **own
        )

    def _meaning(self, error: Exception) -> DataError | Interrupted:
        """What a client's words mean; they themselves can hold who asked."""
        text = str(error)
        if _is_closed(text):
            return refused(
                self.address.full, f"the bucket does not let us read it; {_LOGIN[self.address.scheme]}"
            )
        if re.search(
            r"NO_SUCH_BUCKET|NoSuchBucket|bucket.*(does not|not) (exist|found)|Bucket '.*' not found",
            text,
            re.I,
        ):
            return refused(self.address.full, f"no such bucket: {self.address.host}")
        if re.search(r"NO_SUCH_KEY|RESOURCE_NOT_FOUND|NOT_FOUND|Path does not exist|\b404\b", text):
            return refused(self.address.full, "no such file in the bucket")
        return Interrupted(f"the store cannot be reached ({type(error).__name__})")


def _dated(about: fs.FileInfo) -> str | None:
    return None if about.mtime_ns is None else f"{about.mtime_ns} {about.size}"


def _is_closed(text: str) -> bool:
    return (
        re.search(
            r"ACCESS_DENIED|AccessDenied|INVALID_ACCESS_KEY|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN|"
            r"PERMISSION_DENIED|UNAUTHENTICATED|[Cc]redentials|\b40[13]\b",
            text,
        )
        is not None
    )


def _matching(pattern: str) -> str:
    """A pattern as a regular expression: `*` and `?` stay within a folder, `**` goes through them."""
    found = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.sub(
        r"\\\[(!?)(.*?)\\\]",
        lambda found: f"[{'^' if found[1] else ''}{found[2]}]",
        found.replace(r"\?", "[^/]"),
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

"""One file over HTTP: redirects that lead nowhere else, ranges that go on with the same file, what a status means.

Differences from what a browser does: no cookies, no other scheme than http and https, never from https to http, and a
password goes to the host that it was typed for alone.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import re
import socket
import ssl
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from bigbatch.errors import DataError
from bigbatch.remote.addresses import Address, quoted, refused
from bigbatch.remote.keep import Answer, Interrupted, Patience

MOST_REDIRECTS = 10
_CHUNK_BYTES = 2**18
_MOST_RATIO, _ALWAYS_BYTES = 200, 2**28
"""What a body that came packed may unpack to, as for packed files."""
_KINDS = {
    "text/csv": ".csv", "text/tab-separated-values": ".tsv", "application/json": ".json",
    "application/x-ndjson": ".jsonl", "application/jsonl": ".jsonl", "application/jsonlines": ".jsonl",
    "application/vnd.apache.parquet": ".parquet", "text/plain": ".txt",
}  # fmt: skip
"""Kinds of content -> suffix, for addresses whose file has none."""
_LOGIN = (
    "the server wants to know who asks; a presigned address or https://user:password@host/file says so (neither is "
    "shown or stored), or fetch the file yourself and name its path"
)
_STATUS = {
    401: _LOGIN,
    403: f"the server refuses it (403): {_LOGIN}; a presigned address may have expired",
    404: "no such file on the server (404)",
    410: "the file is gone (410)",
}


@dataclass
class _Line:
    """A connection with the head of an answer."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse
    sock: socket.socket

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@dataclass
class Web:
    """A file behind http:// or https://."""

    address: Address
    patience: Patience
    _began_inside: bool = field(default=False, init=False)
    """Whether the address itself is one of this machine's own network."""

    def open(self, start: int, tag: str | None, unless: str | None) -> Answer | None:
        """Ask for the file from a byte on.

        Args:
            start: bytes that are there already; they are of the version `tag`.
            tag: what the server called that version; None: nothing is there.
            unless: the version that needs no fetching.

        Returns:
            What comes; None: the version is still `unless`.

        Raises:
            DataError: there is no such file for us.
            Interrupted: trying again may help.
        """
        line = self._followed(self._headers(start, tag, unless))
        status = line.response.status
        try:
            if status == 304:
                line.close()
                return None
            if status == 416:  # it has become shorter than what is there
                line.close()
                return self.open(0, None, unless)
            self._check(line.response)
            return self._answer(line, start if status == 206 else 0)
        except BaseException:
            line.close()
            raise

    def _headers(self, start: int, tag: str | None, unless: str | None) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "bigbatch", "Accept": "*/*"}
        if start and tag is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": tag}
        if unless is not None:
            headers["If-None-Match" if unless.endswith('"') else "If-Modified-Since"] = unless
        return headers

    def _followed(self, headers: dict[str, str]) -> _Line:
        url, seen = quoted(self.address.full), []
        for _ in range(MOST_REDIRECTS + 1):
            connection = self._connection(url)
            try:
                line = self._got(connection, url, headers)
            except BaseException:
                connection.close()
                raise
            if line.response.status not in (301, 302, 303, 307, 308):
                return line
            line.close()
            seen.append(url)
            url = self._next(url, line.response.headers.get("Location", ""))
            if url in seen:
                raise self._refused("its redirects go round in a circle")
        raise self._refused(f"more than {MOST_REDIRECTS} redirects")

    def _next(self, url: str, location: str) -> str:
        try:
            target = quoted(urljoin(url, location))
            before, after = urlsplit(url), urlsplit(target)
            _ = after.port
        except ValueError:
            raise self._refused("a redirect that leads to no address") from None
        if after.scheme not in ("http", "https") or not after.netloc:
            raise self._refused(f"a redirect to {after.scheme or 'nowhere'}:, which is not followed")
        if before.scheme == "https" and after.scheme == "http":
            raise self._refused("a redirect from https to http, which anybody on the way could change")
        return target

    def _check_inside(self, connection: http.client.HTTPConnection, url: str) -> None:
        """A server outside may not send us to what only this machine or its network can reach: the metadata of a cloud,
        say, which would become a file of rows. Looked at where the connection went, whatever its name said.
        """
        host = urlsplit(url).hostname or ""
        inside = _is_inside(connection, host)
        if url == quoted(self.address.full):
            self._began_inside = inside
        elif inside and not self._began_inside:
            raise self._refused(f"a redirect into this machine's own network ({host})")

    def _connection(self, url: str) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        timeout = self.patience.silent_seconds
        proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
        if proxy:
            via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
            made = http.client.HTTPConnection(via.hostname or "", via.port, timeout=timeout)
            if parts.scheme == "https":
                made = http.client.HTTPSConnection(
                    via.hostname or "", via.port, timeout=timeout, context=ssl.create_default_context()
                )
            made.set_tunnel(
                host, port or (443 if parts.scheme == "https" else 80), _login(via.netloc, "Proxy-")
            )
            return made
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, port, timeout=timeout, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _got(self, connection: http.client.HTTPConnection, url: str, headers: dict[str, str]) -> _Line:
        parts, first = urlsplit(url), urlsplit(self.address.full)
        wanted = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        same = (parts.scheme, parts.hostname, parts.port) == (
            first.scheme.lower(),
            first.hostname,
            first.port,
        )
        login = _login(first.netloc) if same else {}
        try:
            connection.connect()
            self._check_inside(connection, url)
            connection.request("GET", wanted, headers={**headers, **login, "Connection": "close"})
            sock = connection.sock  # forgotten by http.client once the server says that it will close
            return _Line(connection, connection.getresponse(), sock)
        except ssl.SSLCertVerificationError as error:
            raise self._refused(f"its certificate is not trusted: {error.verify_message}") from None
        except socket.gaierror:
            raise Interrupted(f"no such host: {parts.hostname}") from None
        except TimeoutError:
            raise Interrupted(f"the server said nothing for {self.patience.silent_seconds:g} s") from None
        except http.client.HTTPException as error:
            raise Interrupted(f"its answer is no HTTP ({type(error).__name__})") from None
        except OSError as error:
            raise Interrupted(f"it cannot be reached ({error.strerror or type(error).__name__})") from None

    def _check(self, response: http.client.HTTPResponse) -> None:
        status = response.status
        if status == 429 or status >= 500:
            raise Interrupted(f"the server cannot answer now ({status} {response.reason})")
        if status not in (200, 206):
            raise self._refused(_STATUS.get(status, f"the server answers {status} {response.reason}"))
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml") and response.headers.get("Content-Type"):
            raise self._refused(
                "the server sends a web page, not a file: is this the page about it, or does it ask for a login?"
            )

    def _answer(self, line: _Line, start: int) -> Answer:
        response, headers = line.response, line.response.headers
        etag, changed = headers.get("ETag"), headers.get("Last-Modified")
        total = None
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", "").strip())
            if found is None or int(found[1]) != start:
                raise Interrupted("the server sends another part than was asked for")
            total = None if found[3] == "*" else int(found[3])
        length = None if response.chunked else response.length
        if total is None and length is not None:
            total = start + length
        packed = headers.get("Content-Encoding", "identity").strip().lower()
        chunks = _body(line, length)
        if packed not in ("identity", "") and not self.address.name.lower().endswith((".gz", ".gzip")):
            if packed not in ("gzip", "x-gzip") or start:
                raise self._refused(f"the server packs it ({packed}) although it was asked not to")
            chunks, total, etag, changed = self._unpacked(chunks), None, None, None
        suffix = "" if "." in self.address.name else _KINDS.get(headers.get_content_type(), "")
        return Answer(
            size_bytes=total, tag=etag or changed, start=start, chunks=chunks, suffix=suffix, close=line.close
        )

    def _unpacked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Gzip undone, with an end; a body that breaks off raises."""
        unpacker, taken, given = zlib.decompressobj(31), 0, 0
        for chunk in chunks:
            taken += len(chunk)
            while chunk:
                try:
                    found = unpacker.decompress(chunk, _CHUNK_BYTES)
                except zlib.error:
                    raise self._refused("the server says that it is packed (gzip), and it is not") from None
                chunk = unpacker.unconsumed_tail
                given += len(found)
                if given > max(_ALWAYS_BYTES, _MOST_RATIO * taken):
                    raise self._refused("it unpacks to far more than its size; unpack it first")
                yield found
                if not found and not chunk:
                    break
        if not unpacker.eof:
            raise Interrupted("the connection ended in the middle of a packed body")

    def _refused(self, what: str) -> DataError:
        return refused(self.address.full, what)


def _is_inside(connection: http.client.HTTPConnection, host: str) -> bool:
    """Whether a connection went to this machine, its network, or nowhere that the internet knows.

    Through a proxy: whether the host is such a number.
    """
    peer = host if getattr(connection, "_tunnel_host", None) else str(connection.sock.getpeername()[0])
    try:
        return not ipaddress.ip_address(peer.partition("%")[0]).is_global
    except (OSError, ValueError, IndexError):
        return False


def _login(netloc: str, prefix: str = "") -> dict[str, str]:
    """The header for a user and password in front of a host."""
    user, at, _ = netloc.rpartition("@")
    if not at:
        return {}
    coded = base64.b64encode(unquote(user).encode("utf-8")).decode("ascii")
    return {f"{prefix}Authorization": f"Basic {coded}"}


def _body(line: _Line, length: int | None) -> Iterator[bytes]:
    """What comes, compared with what was announced.

    Raises:
        Interrupted: less than that, or silence.
        OverflowError: more than that.
    """
    response, got = line.response, 0
    if length is not None:
        response.length = None  # so that more than was announced is seen
    try:
        while length is None or got < length:
            chunk = response.read1(_CHUNK_BYTES)
            if not chunk:
                break
            got += len(chunk)
            yield chunk
        got += length is not None and got == length and _says_more(line)
    except TimeoutError:
        raise Interrupted("the server fell silent") from None
    except (http.client.HTTPException, OSError) as error:
        raise Interrupted(f"the connection broke ({type(error).__name__})") from None
    finally:
        line.close()
    if length is not None and got != length:
        raise OverflowError(length) if got > length else Interrupted("the connection ended early")


def _says_more(line: _Line) -> bool:
    """Whether bytes come behind the announced end; the server was asked to close there, and need not do so at once."""
    line.sock.settimeout(0.2)
    with suppress(OSError, http.client.HTTPException):
        return bool(line.response.read1(1))
    return False

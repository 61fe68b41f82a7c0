"""Servers on the loopback: one that lies, stalls and breaks off as it is told; one that speaks S3; one like the hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Site:
    """Files by path, how the next answers are to be bad, and what was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    tricks: list[str] = field(default_factory=list)
    """Taken one a request: cut, silent, drip, more, other, busy, gzip, html, chunked, deny, gone,
    untagged."""
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    url: str = ""
    address: str = ""
    """Of one of its files, by the name that users write."""

    def tag(self, path: str) -> str:
        return f'"{hashlib.md5(self.files[path]).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, path = self.site, unquote(urlsplit(self.path).path)
        site.asked.append((self.path, dict(self.headers)))
        trick = site.tricks.pop(0) if site.tricks else ""
        if path in site.redirects:
            return self.answer(302, b"", Location=site.redirects[path])
        if trick in ("deny", "busy", "gone"):
            return self.answer({"deny": 403, "busy": 503, "gone": 410}[trick], b"")
        if path not in site.files:
            return self.answer(404, b"")
        body, tag = site.files[path], site.tag(path)
        if trick == "other":  # changed since the last byte that was sent
            site.files[path] = body = bytes(reversed(body))
            tag = site.tag(path)
        if trick != "untagged" and self.headers.get("If-None-Match") == tag:
            return self.answer(304, b"")
        start = 0
        if self.headers.get("Range") and self.headers.get("If-Range") == tag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        headers = {} if trick == "untagged" else {"ETag": tag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        if trick == "gzip":
            body, headers = gzip.compress(body), {"Content-Encoding": "gzip"}
        if trick == "html":
            headers["Content-Type"] = "text/html; charset=utf-8"
        self.answer(206 if start else 200, body[start:], trick, **headers)

    def trick(self) -> str:
        """The next one."""
        return self.site.tricks.pop(0) if self.site.tricks else ""

    def answer(self, status: int, body: bytes, trick: str = "", **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if trick == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(body) - (7 if trick == "more" else 0)))
        self.end_headers()
        half = len(body) // 2
        if trick == "chunked":
            self.wfile.write(b"%x\r\n%b\r\n" % (half, body[:half]))  # and never the rest
        elif trick in ("cut", "silent", "drip"):
            self.wfile.write(body[:half])
            self.wfile.flush()
            for _ in range({"cut": 0, "silent": 1, "drip": 8}[trick]):
                time.sleep(0.7 if trick == "silent" else 0.06)
                self.wfile.write(b"x" if trick == "drip" else b"")
                self.wfile.flush()
        else:
            self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], site: Site) -> Iterator[Site]:
    made = type("Handler", (handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield site
        server.shutdown()
        thread.join()


@contextmanager
def web() -> Iterator[Site]:
    with serving(_Handler, Site()) as site:
        yield site


class _Bucket(_Handler):
    """As much of S3 as a reader asks for: HEAD and GET of objects, the second list of a bucket. `/bucket/key` -> bytes."""

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.site.asked.append((self.path, dict(self.headers)))
        known = path in self.site.files
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", self.site.tag(path))
            self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(self.site.files.get(path, b""))))
        self.end_headers()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query, path = parse_qs(parts.query), unquote(parts.path)
        self.site.asked.append((self.path, dict(self.headers)))
        if "deny" in self.site.tricks:
            return self.answer(
                403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            )
        if "list-type" in query:
            bucket, prefix = path.strip("/"), query.get("prefix", [""])[0]
            found = [
                key.removeprefix(f"/{bucket}/")
                for key in sorted(self.site.files)
                if key.startswith(f"/{bucket}/")
            ]
            rows = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(self.site.files[f'/{bucket}/{key}'])}</Size>"
                "<LastModified>2026-11-30T00:00:00.000Z</LastModified></Contents>"
                for key in found
                if key.startswith(prefix)
            )
            text = f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
            return self.answer(200, text.encode(), Content_Type="application/xml")
        if path not in self.site.files:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        body, (first, last) = self.site.files[path], (0, None)
        if self.headers.get("Range"):
            first, last = (int(each) if each else None for each in self.headers["Range"][6:].split("-"))
        part = body[first : None if last is None else last + 1]
        about = {"ETag": self.site.tag(path), "Last_Modified": "Mon, 30 Nov 2026 00:00:00 GMT"}
        self.answer(
            206,
            part,
            self.trick(),
            Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(body)}",
            **about,
        )


@contextmanager
def bucket() -> Iterator[Site]:
    with serving(_Bucket, Site()) as site:
        yield site


class _Google(_Handler):
    """As much of Google Cloud Storage as a reader asks for. `/bucket/key` -> bytes."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.site.asked.append((self.path, dict(self.headers)))
        if self.site.tricks[:1] == ["busy"]:
            return self.answer(503, b"{}")
        path = unquote(parts.path)
        bucket, _, key = path.removeprefix("/download").removeprefix("/storage/v1/b/").partition("/o/")
        name = f"/{bucket}/{key}" if key else path
        if "prefix" in parse_qs(parts.query, keep_blank_values=True):
            return self.answer(
                200, b'{"kind": "storage#objects", "items": []}', Content_Type="application/json"
            )
        if name not in self.site.files:
            return self.answer(404, b'{"error": {"code": 404, "message": "No such object"}}')
        body = self.site.files[name]
        if key and "alt" not in parse_qs(parts.query):
            about = {"kind": "storage#object", "name": key, "bucket": bucket, "size": str(len(body)),
                     "updated": "2026-11-30T00:00:00Z", "timeCreated": "2026-11-30T00:00:00Z",
                     "etag": self.site.tag(name), "generation": "1"}  # fmt: skip
            return self.answer(200, json.dumps(about).encode(), Content_Type="application/json")
        first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        headers = {"Content_Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if first else {}
        self.answer(206 if first else 200, body[first:], self.trick(), **headers)


@contextmanager
def google() -> Iterator[Site]:
    with serving(_Google, Site()) as site:
        yield site


COMMIT = "c0ffee" * 6 + "c0ff"


class _Hub(_Handler):
    """A data set `org/name` of the hub: `/api/datasets/org/name/revision/REV` and `/datasets/org/name/resolve/REV/FILE`."""

    def do_HEAD(self) -> None:
        self.resolve(head=True)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.site.asked.append((self.path, dict(self.headers)))
        if path.startswith("/api/datasets/org/name"):
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            if revision not in ("main", "v1", COMMIT):
                return self.answer(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
            files = [{"rfilename": name.lstrip("/")} for name in sorted(self.site.files)]
            text = json.dumps(
                {"id": "org/name", "sha": COMMIT, "siblings": files, "private": False, "gated": False}
            )
            return self.answer(200, text.encode(), Content_Type="application/json")
        if path.startswith("/api/"):
            return self.answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        return self.resolve(head=False)

    def do_POST(self) -> None:
        """`paths-info`: how large files are."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.site.asked.append((self.path, dict(self.headers)))
        if self.site.tricks:
            return self.answer(503, b"{}")
        found = [
            {"type": "file", "oid": "0" * 40, "path": name, "size": len(self.site.files[f"/{name}"])}
            for name in asked["paths"]
            if f"/{name}" in self.site.files
        ]
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def resolve(self, *, head: bool) -> None:
        _, _, name = unquote(urlsplit(self.path).path).partition(f"/resolve/{COMMIT}")
        if name not in self.site.files:
            return self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
        body = self.site.files[name]
        self.close_connection = True
        self.send_response(200)
        for key, value in (
            ("ETag", self.site.tag(name)),
            ("X-Repo-Commit", COMMIT),
            ("Content-Length", str(len(body))),
        ):
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(b"" if head else body)


@contextmanager
def hub() -> Iterator[Site]:
    with serving(_Hub, Site()) as site:
        yield site

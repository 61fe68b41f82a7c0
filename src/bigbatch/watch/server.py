"""The server: 127.0.0.1, GET only, an address that holds a token. It knows runs by keys and is never told a path.

A page of another site that the same browser shows can send requests here: it does not know the token, and a request
whose `Host` is another name (as when a name is made to point at 127.0.0.1) is refused before the token is looked at.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from bigbatch.errors import UsageError
from bigbatch.watch.page import Page

_AT_ONCE = 8
"""Requests that are answered at the same time; more wait."""
_SOCKET_SECONDS = 20.0
_MOST_KEYS = 64
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class WatchServer(ThreadingHTTPServer):
    """Serves `Page` until it is shut down."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, roots: Sequence[Path], *, port: int = 0, token: str | None = None) -> None:
        """Listen on 127.0.0.1.

        Args:
            roots: run directories, or folders of them.
            port: 0 takes any that is free.
            token: part of the address; None draws one.

        Raises:
            UsageError: a folder that is none, or a port that is taken.
        """
        self.page = Page(roots)
        self.token = secrets.token_urlsafe(18) if token is None else token
        self.turns = BoundedSemaphore(_AT_ONCE)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UsageError(f"port {port}: {error.strerror}; name another one: --port N") from error

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: WatchServer  # type: ignore[assignment]
    server_version, sys_version, protocol_version = "bigbatch", "", "HTTP/1.1"
    timeout = _SOCKET_SECONDS

    def do_GET(self) -> None:
        with self.server.turns:
            try:
                self._answer()
            except OSError:
                raise  # the browser went away
            except Exception as error:
                # One run that cannot be drawn must not end the page of the others.
                self._say(
                    500, "text/plain", f"bigbatch could not show this: {type(error).__name__}: {error}\n"
                )

    def _answer(self) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Host", "") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return self._say(403, "text/plain", "This server answers as 127.0.0.1 and localhost only.\n")
        try:
            asked = urlsplit(self.path)
            keys = parse_qs(asked.query, max_num_fields=_MOST_KEYS).get("run", [])
        except ValueError:
            return self._say(400, "text/plain", "No such address.\n")
        _, token, *rest = (asked.path + "/").split("/", 2)
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._say(
                404, "text/plain", "Open the address that bigbatch watch printed: it holds a token.\n"
            )
        answers: dict[str, Callable[[Sequence[str]], None]] = {
            "": self._page, "view": self._view, "figures.json": self._figures,
        }  # fmt: skip
        answer = answers.get("".join(rest).strip("/"))
        return self._say(404, "text/plain", "No such page.\n") if answer is None else answer(keys)

    def _page(self, keys: Sequence[str]) -> None:
        nonce = secrets.token_urlsafe(18)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._say(200, "text/html", self.server.page.whole(keys, nonce), {"Content-Security-Policy": policy})

    def _view(self, keys: Sequence[str]) -> None:
        text = json.dumps(self.server.page.parts(keys))
        tag = '"' + hashlib.sha256(text.encode()).hexdigest()[:24] + '"'
        if self.headers.get("If-None-Match") == tag:
            return self._say(304, "application/json", "", {"ETag": tag})
        return self._say(200, "application/json", text, {"ETag": tag})

    def _figures(self, keys: Sequence[str]) -> None:
        self._say(200, "application/json", json.dumps(self.server.page.figures(keys)) + "\n")

    def _say(self, status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: an address holds the token."""


def watch(roots: Sequence[Path], *, port: int, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        roots: run directories, or folders of them.
        port: 0 takes any that is free.
        say: is told the address.

    Raises:
        UsageError: a folder that is none, or a port that is taken.
    """
    with WatchServer(roots, port=port) as server:
        own = server.server_address[1]
        say(
            f"{server.address}\nCtrl-C ends it; runs do not notice. From elsewhere: ssh -L {own}:127.0.0.1:{own} HOST, "
            "then the same address."
        )
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            say("no longer watching")

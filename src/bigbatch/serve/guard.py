"""In front of every path: who may ask (token, host), and how much (body, time, all bodies together)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bigbatch.serve.asking import GONE
from bigbatch.serve.figures import Figures
from bigbatch.serve.limits import Limits
from bigbatch.serve.refusals import Refused, answer_to

OPEN = ("/health", "/ready", "/")
"""Paths without a token: probes have none, and the page asks for it."""
_SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask."""

    tokens: Sequence[bytes] = ()
    """SHA-256 of each; none: everybody who reaches the socket."""
    only_loopback: bool = True
    """Whether requests have to name this machine itself: a page of somewhere else that had its name point here would
    name itself."""

    def check(self, path: str, headers: Headers) -> None:
        """Refuse strangers.

        Raises:
            Refused: 401 or 403.
        """
        if self.only_loopback and not self.tokens and not _is_loopback(headers.get("host", "")):
            raise Refused(
                403, "this server answers requests to localhost only; for others start it with --token-file"
            )
        if not self.tokens or path in OPEN:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogatepass")).digest()
        # All are compared, each in constant time.
        fits = [hmac.compare_digest(digest, known) for known in self.tokens]
        if kind.lower() != "bearer" or not any(fits):
            raise Refused(
                401, "expected the header Authorization: Bearer TOKEN, with a token of the server's file"
            )


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    name = name.strip("[]").lower()
    if name in ("localhost", "") or name.endswith(".localhost"):
        return bool(name)
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """An application behind it sees requests whose body is there, whole and small enough."""

    def __init__(
        self, app: ASGIApp, *, access: Access, limits: Limits, figures: Figures, paths: Sequence[str]
    ) -> None:
        """Put it in front.

        Args:
            app: behind it.
            access: who may ask.
            limits: how much.
            figures: that count answers.
            paths: that are counted by their names.
        """
        self._app, self._access, self._limits, self._figures = app, access, limits, figures
        self._paths = frozenset(paths)
        self._held = 0
        """Bytes of bodies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            else:
                await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_SAFE]}
            await send(message)

        held = _Held()
        try:
            await self._guarded(scope, receive, sending, held)
        except Refused as refused:
            status = refused.status
            if status != GONE:
                await answer_to(refused)(scope, receive, sending)
        finally:
            self._held -= held.bytes
            self._figures.answered(path, status, time.monotonic() - started)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, held: _Held) -> None:
        headers = Headers(scope=scope)
        self._access.check(scope["path"], headers)
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # Pages of elsewhere can send other types without being asked whether they may.
            raise Refused(415, "expected Content-Type: application/json")
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                body = await self._body(headers, receive, held)
        except TimeoutError:
            raise Refused(408, f"the body was not there within {self._limits.body_seconds:g} s") from None
        given = False

        async def receiving() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receiving, send)

    async def _body(self, headers: Headers, receive: Receive, held: _Held) -> bytes:
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._limits.body_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(GONE, "nobody waits any more")
            part = message.get("body", b"")
            held.bytes += len(part)
            self._held += len(part)
            if held.bytes > self._limits.body_bytes:
                raise self._too_large()
            if self._held > self._limits.bodies_bytes:
                raise Refused(429, "too much is being read at once; come back in 1 s", retry_after=1)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> Refused:
        return Refused(
            413, f"the body is larger than {self._limits.body_bytes} bytes (--max-body); send less at a time"
        )


class _Held:
    """Bytes of one body."""

    bytes = 0

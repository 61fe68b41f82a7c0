"""Sockets: where the server listens, and connections that say nothing."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from bigbatch.errors import MachineError, UsageError

HEAD_SECONDS = 10.0
"""A request's head has to be there so long after its first byte, and the first byte so long after the connection."""
UNREAD_SECONDS = 60
"""A client that takes nothing of what it is sent is left after so long."""


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound, and takes no connection yet.

    Args:
        host: a name or an address.
        port: 0: a free one.

    Raises:
        UsageError: no such host.
        MachineError: the port is taken, or not ours to take.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from None
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD_SECONDS)
    try:
        found.bind(address)
    except OSError as error:
        found.close()
        raise MachineError(
            f"{host}:{port}: {error.strerror}; choose another --port, or 0 for a free one"
        ) from None
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        return all(ip_address(str(each[4][0]).partition("%")[0]).is_loopback for each in found)
    except (OSError, ValueError):
        return False


class Patient(H11Protocol):
    """HTTP/1.1 with a bound on how long a head may take: uvicorn has none."""

    _slow: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        unfinished = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not unfinished:
            self._stop_waiting()
        elif self._slow is None:
            self._wait_for_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._slow = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

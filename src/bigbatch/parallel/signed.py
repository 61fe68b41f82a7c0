"""A connection on which every message carries a code that only holders of a secret key can make.

Both ends prove first that they hold the key, without showing it; the codes of messages are made with a key of this
connection alone and count them, so that nothing is forged, repeated or left out unnoticed. Nothing is encrypted.

Before the proof a stranger can send 64 bytes, and wait no longer than `PROOF_SECONDS`.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time

PROOF_SECONDS = 10.0
ANSWER_SECONDS = 60.0
_NONCE = _CODE = 32
_LENGTH = struct.Struct("!I")
_LONGEST_BYTES = 64 * 2**20


class NotSigned(OSError):
    """The other end does not hold the key, or somebody touched what it said."""


class Channel:
    """One end of a connection."""

    def __init__(self, connection: socket.socket, key: bytes, *, serves: bool) -> None:
        """Prove to each other that both hold the key; whoever serves shows no proof before it has seen one.

        Args:
            connection: open; belongs to this object from now on.
            key: at least 32 random bytes.
            serves: whether this is the end that was called.

        Raises:
            NotSigned: the other end does not hold the key.
            OSError: it did not answer in time, or is gone.
        """
        self._connection = connection
        self._sent = self._received = 0
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.monotonic() + PROOF_SECONDS
        mine = secrets.token_bytes(_NONCE)
        connection.settimeout(PROOF_SECONDS)
        connection.sendall(mine)
        theirs = self._exactly(_NONCE, until)
        both = theirs + mine if serves else mine + theirs
        if serves:
            self._demand(key, b"caller", both, until)
            connection.sendall(_code(key, b"server", both))
        else:
            connection.sendall(_code(key, b"caller", both))
            self._demand(key, b"server", both, until)
        session = _code(key, b"session", both)
        names = (b"from server", b"from caller")
        self._key_out, self._key_in = (_code(session, name) for name in (names if serves else names[::-1]))
        # Whoever serves answers within seconds; a caller may be silent for days.
        connection.settimeout(None if serves else ANSWER_SECONDS)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, message: bytes) -> None:
        """Raises OSError when the other end is gone."""
        assert len(message) <= _LONGEST_BYTES, len(message)
        head = _LENGTH.pack(len(message))
        code = _code(self._key_out, _count(self._sent), head, message)
        self._sent += 1
        self._connection.sendall(head + code + message)

    def receive(self) -> bytes:
        """The next message.

        Raises:
            NotSigned: its code is wrong.
            OSError: the other end is gone.
        """
        head = self._exactly(_LENGTH.size)
        (length,) = _LENGTH.unpack(head)
        if length > _LONGEST_BYTES:
            raise NotSigned(f"a message of {length} bytes")
        code = self._exactly(_CODE)
        message = self._exactly(length)
        if not hmac.compare_digest(code, _code(self._key_in, _count(self._received), head, message)):
            raise NotSigned("a message whose code is wrong")
        self._received += 1
        return message

    @property
    def address(self) -> str:
        """Of this end."""
        return str(self._connection.getsockname()[0])

    def close(self) -> None:
        """The other end finds out."""
        self._connection.close()

    def _demand(self, key: bytes, name: bytes, both: bytes, until: float) -> None:
        if not hmac.compare_digest(self._exactly(_CODE, until), _code(key, name, both)):
            raise NotSigned("the other end does not hold the key")

    def _exactly(self, count: int, until: float | None = None) -> bytes:
        found = bytearray()
        while len(found) < count:
            if until is not None:
                self._connection.settimeout(max(0.001, until - time.monotonic()))
            piece = self._connection.recv(min(count - len(found), 2**20))
            if not piece:
                raise ConnectionError("the other end closed the connection")
            found += piece
        return bytes(found)


def _code(key: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"\0".join(parts), "sha256")


def _count(number: int) -> bytes:
    return number.to_bytes(8, "big")

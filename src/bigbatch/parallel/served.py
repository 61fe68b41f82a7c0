"""Serves the words through which processes on several machines find each other, to holders of the key alone.

It listens on one address of this machine and keeps bytes by name in memory. Requests and answers are JSON; nothing
that is kept is ever looked into.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from bigbatch.parallel.signed import Channel

ADDRESS_FILE = "store.json"
WAIT_SECONDS = 1.0
"""Longest wait for a key within one request; whoever asks asks again, so that others can use its connection."""
STRANGERS = 64
"""Most connections that have proved nothing yet; one more ends the oldest of them."""


class Server:
    """Context manager: answers until it is closed."""

    def __init__(self, address: str, key: bytes) -> None:
        """Listen on a free port of one address.

        Raises:
            OSError: no interface of this machine has the address.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family, backlog=1024)
        self.address = address
        self.port: int = self._listener.getsockname()[1]
        self._key = key
        self._kept: dict[str, bytes] = {}
        self._changed = threading.Condition()
        self._strangers: dict[socket.socket, None] = {}
        self._closed = False
        threading.Thread(target=self._accept, name="meeting", daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No new connections."""
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # Too many open files, or a caller that is gone again: neither ends the service.
                time.sleep(0.05)
                continue
            with self._changed:
                self._strangers[connection] = None
                oldest = next(iter(self._strangers))
                crowded = len(self._strangers) > STRANGERS
            if crowded:
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # no more threads
                self._forget(connection)
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                channel = Channel(connection, self._key, serves=True)
            except OSError:
                return
            finally:
                self._forget(connection)
            with suppress(OSError):
                while True:
                    channel.send(json.dumps(self._answer(channel.receive())).encode())

    def _forget(self, connection: socket.socket) -> None:
        with self._changed:
            self._strangers.pop(connection, None)

    def _answer(self, request: bytes) -> object:
        """What a holder of the key asked for."""
        word, *given = json.loads(request)
        with self._changed:
            found = getattr(self, f"_on_{word}")(*given)
            self._changed.notify_all()
            return found

    def _on_set(self, pairs: dict[str, str]) -> None:
        self._kept.update({name: unpacked(value) for name, value in pairs.items()})

    def _on_get(self, names: list[str]) -> list[str] | None:
        """Values of all the names, or nothing when one of them is not there within a second."""
        if not self._changed.wait_for(lambda: all(name in self._kept for name in names), WAIT_SECONDS):
            return None
        return [packed(self._kept[name]) for name in names]

    def _on_has(self, names: list[str]) -> bool:
        return all(name in self._kept for name in names)

    def _on_add(self, name: str, amount: int) -> int:
        total = int(self._kept.get(name, b"0")) + amount
        self._kept[name] = str(total).encode()
        return total

    def _on_append(self, name: str, more: str) -> None:
        self._kept[name] = self._kept.get(name, b"") + unpacked(more)

    def _on_exchange(self, name: str, expected: str, wanted: str) -> str:
        """Write `wanted` where there is `expected`, or where nothing is and nothing was expected."""
        there = self._kept.get(name)
        if there == unpacked(expected) or (there is None and not expected):
            self._kept[name] = unpacked(wanted)
            return wanted
        return expected if there is None else packed(there)

    def _on_delete(self, name: str) -> bool:
        return self._kept.pop(name, None) is not None

    def _on_count(self) -> int:
        return len(self._kept)


def lead(folder: Path, address: str) -> Server:
    """Serve on one address of this machine, and leave the way there in the folder."""
    key = secrets.token_bytes(32)
    server = Server(address, key)
    content = {"address": address, "port": server.port, "key": key.hex()}
    temporary = folder / f".{ADDRESS_FILE}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file)
    os.replace(temporary, folder / ADDRESS_FILE)
    return server


def packed(value: bytes) -> str:
    """Bytes as JSON knows them."""
    return base64.b64encode(value).decode()


def unpacked(text: str) -> bytes:
    """The inverse of `packed`."""
    return base64.b64decode(text)

"""torch's `Store` over signed connections: what `served.Server` keeps, for holders of the key."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from torch.distributed import DistNetworkError, DistStoreError, Store  # pyright: ignore[reportPrivateImportUsage]

from bigbatch.parallel.served import packed, unpacked
from bigbatch.parallel.signed import Channel

_RETRY_SECONDS = 0.2


class SignedStore(Store):
    """One connection to the server; threads take turns."""

    timeout: timedelta
    """Longest wait for a key; `set_timeout` changes it."""

    def __init__(self, address: str, port: int, key: bytes, *, timeout: timedelta) -> None:
        """Connect, and prove to each other that both hold the key.

        Raises:
            DistNetworkError: nobody who holds the key answers within `timeout`.
        """
        super().__init__()
        self.set_timeout(timeout)
        self._where = f"{address}:{port}"
        self._turn = threading.Lock()
        self._channel = _connected(address, port, key, timeout.total_seconds())
        self.address_here = self._channel.address
        """Of this machine, on the way to the server."""

    def clone(self) -> SignedStore:
        """Itself: C++ asks for one more for each of its threads, and these take turns here."""
        return self

    def close(self) -> None:
        """Leave; what was said stays."""
        self._channel.close()

    def set(self, key: str, value: bytes | str) -> None:
        self._ask("set", {key: packed(_bytes(value))})

    def get(self, key: str) -> bytes:
        return self.multi_get([key])[0]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        return self._within(keys, self.timeout)

    def multi_set(self, keys: Sequence[str], values: Sequence[bytes | str]) -> None:
        pairs = zip(keys, values, strict=True)
        self._ask("set", {key: packed(_bytes(value)) for key, value in pairs})

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        self._within(keys, self.timeout if timeout is None else timeout)

    def check(self, keys: Sequence[str]) -> bool:
        return self._ask("has", list(keys))

    def add(self, key: str, amount: int) -> int:
        return self._ask("add", key, amount)

    def append(self, key: str, value: bytes | str) -> None:
        self._ask("append", key, packed(_bytes(value)))

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        """Put in another value if the present one is as expected, or if there is none and b"" is expected.

        Args:
            key: its name.
            expected: the value that is replaced.
            desired: what replaces it.

        Returns:
            The value after that; what was expected where there is none at all.
        """
        return unpacked(self._ask("exchange", key, packed(_bytes(expected)), packed(_bytes(desired))))

    def delete_key(self, key: str) -> bool:
        return self._ask("delete", key)

    def num_keys(self) -> int:
        return self._ask("count")

    def has_extended_api(self) -> bool:
        return True

    # C++ calls two of them by its own names.
    getNumKeys, deleteKey = num_keys, delete_key

    def _within(self, keys: Sequence[str], timeout: timedelta) -> list[bytes]:
        until = time.monotonic() + timeout.total_seconds()
        while True:
            found = self._ask("get", list(keys))
            if found is not None:
                return [unpacked(value) for value in found]
            if time.monotonic() > until:
                raise DistStoreError(f"after {timeout.total_seconds():g} s nobody has set {', '.join(keys)}")

    def _ask(self, word: str, *given: object) -> Any:
        request = json.dumps([word, *given]).encode()
        with self._turn:
            try:
                self._channel.send(request)
                return json.loads(self._channel.receive())
            except BaseException as error:
                # The answer may still come: whoever asks next must not take it for his own.
                self._channel.close()
                if isinstance(error, OSError):
                    raise DistNetworkError(f"{self._where}: {error}") from error
                raise


def _connected(address: str, port: int, key: bytes, seconds: float) -> Channel:
    def once() -> Channel:
        connection = socket.create_connection((address, port), timeout=10.0)
        try:
            return Channel(connection, key, serves=False)
        except OSError:
            connection.close()
            raise

    return tried(once, seconds, f"{address}:{port}")


Result = TypeVar("Result")


def tried(once: Callable[[], Result], seconds: float, what: str) -> Result:
    """What `once` returns, as soon as it raises no OSError.

    Args:
        once: one attempt.
        seconds: how long attempts go on.
        what: for the message.

    Raises:
        DistNetworkError: it still did after so long.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return once()
        except OSError as error:
            if time.monotonic() > until:
                raise DistNetworkError(f"{what}: {error}") from error
            time.sleep(_RETRY_SECONDS)


def _bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)

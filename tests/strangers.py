"""What another user of the machine, or of the network, can do to a port: listeners of processes, and attacks on them.

`python tests/strangers.py CANARY ADDRESS:PORT…` attacks: as `nobody`, where root runs it. Whoever unpickles what it says
creates the canary.
"""

from __future__ import annotations

import base64
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from torch.distributed import TCPStore

Run = Callable[..., "subprocess.CompletedProcess[str]"]
in_words = partial(subprocess.run, capture_output=True, text=True, timeout=300)

NOBODY = 65534
CROWD = 1100
"""Connections that say little, and more than a process may usually have."""


@dataclass(frozen=True, order=True)
class Listener:
    pid: int
    address: str
    port: int

    @property
    def reached_at(self) -> str:
        """By somebody on the same machine."""
        return "127.0.0.1" if self.address in ("0.0.0.0", "::") else self.address

    @property
    def is_local(self) -> bool:
        """Whether other machines cannot reach it."""
        return self.address.startswith("127.") or self.address == "::1"


def descendants(pid: int) -> set[int]:
    """A process and all that it started, directly or not."""
    children: dict[int, set[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, set()).add(int(folder.name))
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for each in new for child in children.get(each, ())} - found
    return found


def listeners(pids: set[int]) -> set[Listener]:
    """TCP sockets of these processes that wait for callers, read where the system keeps them."""
    found = set()
    for pid in pids:
        own = set()
        with suppress(OSError):
            for handle in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # closed in this moment
                    own.add(os.readlink(handle))
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                    words = line.split()
                    if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                        found.add(Listener(pid, *_where(words[1])))
    return found


def _where(text: str) -> tuple[str, int]:
    address, _, port = text.partition(":")
    raw = b"".join(struct.pack("<I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: str) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self._canary,)


def attack(address: str, port: int, canary: str) -> list[str]:
    """Everything that a stranger may say to a port; what came back and looks like somebody's data."""
    bomb = pickle.dumps(Bomb(canary))
    # First: torch's store does not always live through the rest.
    read = _as_store(address, port, bomb)
    texts = [
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4096),
        b"\0" * 4096,
        b"\xff" * 4096,
        bomb,
        base64.b64encode(bomb),
        struct.pack("!I", len(bomb)) + bomb,
        struct.pack("<Q", len(bomb)) + bomb,
        struct.pack("!I", 2**31 - 1) + b"half a message",
        os.urandom(32) + os.urandom(32) + struct.pack("!I", 8) + os.urandom(40),
    ]
    for text in texts:
        with suppress(OSError), socket.create_connection((address, port), timeout=2.0) as caller:
            caller.sendall(text)
            caller.settimeout(0.2)
            with suppress(TimeoutError):
                answer = caller.recv(4096)
                # A random number of 32 bytes is all that a stranger is told.
                read += [repr(answer)] if len(answer) > 32 else []
    crowd = []
    for number in range(CROWD):
        with suppress(OSError):
            caller = socket.create_connection((address, port), timeout=2.0)
            caller.sendall(texts[number % len(texts)][: number % 40])
            crowd.append(caller)
    time.sleep(1.0)
    for caller in crowd:
        caller.close()
    return read


def _as_store(address: str, port: int, bomb: bytes) -> list[str]:
    """As torch's own store would be read and written; in a child, since its client may wait for ever."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(5)
        with suppress(RuntimeError):
            store = TCPStore(
                address, port, is_master=False, timeout=timedelta(seconds=2), wait_for_workers=False
            )
            keys = store.list_keys()
            os.write(writer, f"keys {keys}".encode())
            for key in keys:
                store.set(key, base64.b64encode(bomb).decode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as told:
        return told.read().splitlines()


def attacked(found: Iterable[Listener], canary: Path, *, run: Run = in_words) -> list[str]:
    """Attack as another user, if that can be; what was read.

    Args:
        found: whom.
        canary: must not come into being.
        run: runs a command where the stranger is.
    """
    places = sorted({f"{each.reached_at}:{each.port}" for each in found})
    words = [sys.executable, "-P", __file__, str(canary), *places]
    done = run(words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def main(canary: str, places: Sequence[str]) -> None:
    """Attack all places at once, each in a child, and print what was read."""
    "name".encode("idna")  # loads its module, which nobody may not read
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 2 * CROWD), most))
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    children = []
    for place in places:
        if child := os.fork():
            children.append(child)
            continue
        host, _, number = place.rpartition(":")
        print("".join(f"{place}: {line}\n" for line in attack(host, int(number), canary)), end="", flush=True)
        os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

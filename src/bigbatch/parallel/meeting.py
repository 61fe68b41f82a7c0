"""Where the processes of a group find each other, in the launch folder, which nobody else may enter.

::

    store.json          address, port and key of the server, written by the machine that leads; absent on one machine
    ranks-1f6a09c2.file of one start of the workers on one machine: what they tell each other
    ranks-1f6a09c2      of one start on several: no file, the prefix of their words on the server

Whoever can read the folder is trusted, and nobody else: on one machine nothing listens for this, and on several the
server answers those who hold the key.
"""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import FileStore, HashStore, PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from bigbatch.errors import MachineError
from bigbatch.parallel.served import ADDRESS_FILE, lead
from bigbatch.parallel.store import SignedStore, tried
from bigbatch.places import Place
from bigbatch.recipe.layers import MEETING_VARIABLE
from bigbatch.stored import read_object

ALONE, LEAD, JOIN = "alone", "lead", "join"
"""Ways to meet: on this machine alone; as the machine with the server; as another one."""
FILE = ".file"
BACKEND = "bigbatch"
"""How torchrun is told of this rendezvous."""
_JOIN_SECONDS = 120.0
_KEPT: list[Store] = []
"""Stores written in Python that C++ holds: it knows their C++ half alone, which is of no use without the other."""


def joined(folder: Path, timeout: timedelta) -> SignedStore:
    """Connect to the server that the folder names, as soon as it does.

    Raises:
        MachineError: others may write into the folder.
        DistError: nobody leads within two minutes, or does not answer.
    """

    def read() -> dict[str, Any]:
        refuse_open_folder(folder)
        os.listdir(folder)  # on a shared disk a file that was missing is else taken for missing for a while
        return read_object(folder / ADDRESS_FILE)

    found = tried(read, _JOIN_SECONDS, f"{folder / ADDRESS_FILE}")
    return SignedStore(found["address"], found["port"], bytes.fromhex(found["key"]), timeout=timeout)


def refuse_open_folder(folder: Path) -> None:
    """The key in it is worth as much as the folder's modes.

    Raises:
        MachineError: it belongs to somebody else, or others may enter it.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise MachineError(
            f"{folder}: expected a folder of user {os.getuid()} that nobody else may enter (mode 0700), found mode "
            f"{stat.filemode(found.st_mode)} of user {found.st_uid}"
        )


def store_of(place: Place, timeout: timedelta, *, native: bool) -> Store:
    """Where the ranks of one start find each other.

    Args:
        place: of this rank, with its meeting.
        timeout: longest wait for another rank.
        native: whether threads of C++ will use it, which must not wait for Python.
    """
    assert place.meeting is not None
    folder = place.meeting.parent
    if place.meeting.suffix == FILE:
        tried(lambda: refuse_open_folder(folder), _JOIN_SECONDS, str(folder))
        store = FileStore(str(place.meeting))
        store.set_timeout(timeout)
        return store
    signed = joined(folder, timeout)
    _KEPT.append(signed)
    named = PrefixStore(place.meeting.name, signed)
    return bound_store(named, signed.address_here, place.rank, timeout) if native else named


def bound_store(signed: Store, address: str, rank: int, timeout: timedelta) -> Store:
    """Torch's own store on one address of rank 0's machine, instead of on all interfaces.

    Args:
        signed: tells the others where it is.
        address: of this machine.
        rank: of this process.
        timeout: of the store.
    """
    if rank:
        host, _, port = signed.get("bound").decode().rpartition(":")
        return TCPStore(host, int(port), is_master=False, timeout=timeout)
    listener = socket.create_server(
        (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
    )
    port = listener.getsockname()[1]
    handle = listener.detach()
    store = TCPStore(
        address, port, is_master=True, timeout=timeout, wait_for_workers=False, master_listen_fd=handle
    )
    signed.set("bound", f"{address}:{port}")
    return store


class Rendezvous(RendezvousHandler):
    """Torchrun's own, through a store of ours; each round tells its workers where they meet.

    Its state travels as a pickle: only between those who hold the key, or not at all.
    """

    def __init__(
        self,
        folder: Path,
        way: str,
        address: str,
        environ: MutableMapping[str, str],
        parameters: RendezvousParameters,
    ) -> None:
        """Lead, join or stay alone.

        Args:
            folder: of the launch.
            way: ALONE, LEAD or JOIN.
            address: of this machine, for the others.
            environ: that the workers get.
            parameters: torchrun's.
        """
        self._folder, self._alone, self._environ = folder, way == ALONE, environ
        if way == LEAD:
            lead(folder, address)
        self.store = HashStore() if self._alone else joined(folder, timedelta(seconds=60))
        parameters.local_addr = address
        # Else it opens a store of its own for the workers, on all interfaces.
        environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        self._inner = create_handler(
            self.store, C10dRendezvousBackend(self.store, parameters.run_id), parameters
        )

    def next_rendezvous(self) -> RendezvousInfo:
        found = self._inner.next_rendezvous()
        if found.rank == 0:
            found.store.set("meeting", secrets.token_hex(8))
        name = found.store.get("meeting").decode()
        self._environ[MEETING_VARIABLE] = str(self._folder / f"ranks-{name}{FILE if self._alone else ''}")
        # Nobody listens there: ranks that were not told where they meet must not wait for each other.
        nowhere = RendezvousStoreInfo(master_addr="127.0.0.1", master_port=0)
        return RendezvousInfo(found.store, found.rank, found.world_size, nowhere)

    def get_backend(self) -> str:
        return BACKEND

    def is_closed(self) -> bool:
        return self._inner.is_closed()

    def set_closed(self) -> None:
        self._inner.set_closed()

    def num_nodes_waiting(self) -> int:
        return self._inner.num_nodes_waiting()

    def get_run_id(self) -> str:
        return self._inner.get_run_id()

    def shutdown(self) -> bool:
        return self._inner.shutdown()

    @property
    def use_agent_store(self) -> bool:
        return False

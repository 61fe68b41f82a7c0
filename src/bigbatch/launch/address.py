"""How other machines reach this one: its address towards them, and the interface that has it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

LOOPBACK = "127.0.0.1"
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables that tell the collectives which interface to use."""
_SIOCGIFADDR = 0x8915


def address_towards(peer: str, environ: Mapping[str, str]) -> str:
    """This machine's address on the way to another one; nothing is sent.

    Where the other one's name is not known here: the address that SSH came to.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])
    words = environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else LOOPBACK


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address; None where the system does not say."""
    with suppress(ImportError):
        import fcntl

        for _, name in socket.if_nameindex():
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                packed = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(packed[20:24]) == address:
                    return name
    return None


def kept_to(address: str) -> dict[str, str]:
    """Variables that keep the collectives to the interface with this address."""
    interface = interface_of(address)
    return dict.fromkeys(INTERFACES, interface) if interface else {}

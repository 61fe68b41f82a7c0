"""What srun starts on each node: finds this node's address and becomes its agent.

python -m bigbatch.launch.slurm_node FOLDER FIRST PORT NODES RANKS_PER_NODE MAX_RESTARTS THREADS WORDS…
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from bigbatch.launch.local import Group, settings
from bigbatch.recipe.layers import WORKER_VARIABLE


def node_words(given: Sequence[str], address: str, environ: Mapping[str, str]) -> list[str]:
    """The agent's words on this node.

    Args:
        given: the words of this program.
        address: of this node, as the first one sees it.
        environ: with Slurm's variables of the task.
    """
    folder, first, port, nodes, ranks, restarts, _, *words = given
    leads = "1" if environ["SLURM_NODEID"] == "0" else "0"
    return [
        "--everybody-hears",
        folder,
        f"--nnodes={nodes}",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
        f"--rdzv-id={environ['SLURM_JOB_ID']}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={first}:{port}",
        f"--rdzv-conf=is_host={leads}",
        f"--local-addr={address}",
        "-m",
        "bigbatch",
        *words,
    ]


def address_towards(host: str) -> str:
    """This machine's address on the way to `host`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """Name of the interface that has an address, such as `eth0`; None where the system does not say."""
    with suppress(ImportError, OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        import fcntl

        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR
                if socket.inet_ntoa(answer[20:24]) == address:
                    return name
    return None


def main(given: Sequence[str]) -> None:
    """Become the agent."""
    address = address_towards(given[1])
    interface = interface_of(address)
    group = Group(words=[], ranks=int(given[4]), threads=int(given[6]) or None)
    more = settings(group, os.environ)
    # Else gloo takes the address of the host's name, which is often 127.0.1.1.
    more |= {"GLOO_SOCKET_IFNAME": interface} if interface and interface != "lo" else {}
    words = node_words(given, address, os.environ)
    os.execve(
        sys.executable,
        [sys.executable, "-m", "bigbatch.parallel.agent", *words],
        {**more, **os.environ, WORKER_VARIABLE: given[0]},
    )


if __name__ == "__main__":
    main(sys.argv[1:])

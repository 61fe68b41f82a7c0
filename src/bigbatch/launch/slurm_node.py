"""What srun starts on each node: finds this node's address and becomes its agent.

python -m bigbatch.launch.slurm_node FOLDER FIRST SECOND NODES RANKS_PER_NODE MAX_RESTARTS THREADS WORDS…
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from bigbatch.launch.address import LOOPBACK, address_towards, kept_to
from bigbatch.launch.local import Group, settings, way
from bigbatch.launch.python import python_words
from bigbatch.recipe.layers import WORKER_VARIABLE


def node_words(given: Sequence[str], address: str, environ: Mapping[str, str]) -> list[str]:
    """The agent's words on this node.

    Args:
        given: the words of this program.
        address: of this node, as the others see it.
        environ: with Slurm's variables of the task.
    """
    folder, _, _, nodes, ranks, restarts, _, *words = given
    return [
        "--everybody-hears",
        folder,
        way(int(environ["SLURM_NODEID"]), int(nodes)),
        address,
        f"--nnodes={nodes}",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={restarts}",
        f"--rdzv-id={environ['SLURM_JOB_ID']}",
        "-m",
        "bigbatch",
        *words,
    ]


def own_address(given: Sequence[str], environ: Mapping[str, str]) -> str:
    """Of this node: the one that the first node sees, and on that one the second."""
    _, first, second, nodes, *_ = given
    if nodes == "1":
        return LOOPBACK
    return address_towards(second if environ["SLURM_NODEID"] == "0" else first, environ)


def main(given: Sequence[str]) -> None:
    """Become the agent."""
    address = own_address(given, os.environ)
    group = Group(words=[], ranks=int(given[4]), threads=int(given[6]) or None)
    # Else gloo takes the address of the host's name, which is often 127.0.1.1.
    chosen = kept_to(address)
    if address != LOOPBACK:
        chosen = {name: value for name, value in chosen.items() if name not in os.environ}
    os.execve(
        sys.executable,
        python_words("bigbatch.parallel.agent", *node_words(given, address, os.environ)),
        {**os.environ, **settings(group, os.environ), **chosen, WORKER_VARIABLE: given[0]},
    )


if __name__ == "__main__":
    main(sys.argv[1:])

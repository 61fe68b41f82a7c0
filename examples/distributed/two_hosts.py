"""The airline recipe on two SSH hosts that this script makes out of namespaces, and takes down again.

    sudo .venv/bin/python examples/distributed/two_hosts.py [KEY=VALUE …]

The hosts have names, addresses, processes and an SSH server of their own; they share this machine's disk and its cores,
so this shows how it works, not how fast it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.cluster.network import LOGIN, Network, why_not  # noqa: E402
from tools.cluster.secure import serve_ssh  # noqa: E402

AIRLINE = ROOT / "examples" / "airline-tweets"
SHORT = ["updates=6", "batch.samples=64", "run.evaluate_every=never", "run.dir=runs/two-hosts"]


def main(changes: list[str]) -> int:
    """Build, train, take down."""
    reason = why_not("sshd", "ssh", "ssh-keygen")
    if reason:
        print(f"cannot build hosts here: {reason}", file=sys.stderr)
        return 1
    if not (AIRLINE / "data" / "train.csv").exists():
        subprocess.run([sys.executable, "make_data.py"], cwd=AIRLINE, check=True)
    words = ["bigbatch", "train", "recipe.yaml", "--hosts", "a,b", *SHORT, *changes]
    with Network(["a", "b"]) as network:
        serve_ssh(network)
        for host in network.hosts.values():
            print(f"host {host.name:6}{host.address}")
        print(f"{LOGIN}$ {' '.join(words)}", flush=True)
        return network[LOGIN].start([sys.executable, "-P", "-m", *words], cwd=AIRLINE, env=environ()).wait()


def environ() -> dict[str, str]:
    """One thread each: the hosts share two cores or so."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PYTHONPATH": path.rstrip(os.pathsep),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

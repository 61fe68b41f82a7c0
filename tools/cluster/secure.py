"""SSH between the hosts of a network: one throw-away key for all, known host keys, sshd on port 22 of each."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from tools.cluster.network import LOGIN, Network, NoCluster, wait_for


def serve_ssh(network: Network) -> None:
    """Start sshd on all hosts but the login host; whoever is on any of them may enter the others.

    Raises:
        NoCluster: a server did not start.
    """
    folder = network.folder
    for name in ("user", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    public = (folder / "host.pub").read_text()
    (folder / "known").write_text(
        "".join(f"{host.name},{host.address} {public}" for host in network.hosts.values())
    )
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/user\n  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking yes\n"
    )
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nUseDNS no\nMaxStartups 50\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    for name, host in network.hosts.items():
        if name != LOGIN:
            words = ["/usr/sbin/sshd", "-D", "-f", folder / "sshd_config", "-E", folder / f"sshd-{name}.log"]
            network.kept.append(host.start(words, stdin=subprocess.DEVNULL))
    for name in [name for name in network.hosts if name != LOGIN]:
        wait_for(lambda name=name: _answers(network, name), f"sshd on {name}", seconds=15)


def _answers(network: Network, name: str) -> bool:
    done = network[LOGIN].run(["ssh", "-o", "BatchMode=yes", name, "hostname"], seconds=10)
    if done.returncode == 0 and done.stdout.strip() != name:
        raise NoCluster(f"{name} calls itself {done.stdout.strip()}, and this machine {socket.gethostname()}")
    return done.returncode == 0

"""What a stranger on the network can do to a run among hosts, in an allocation and in a step: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests import traps
from tests.cluster.watching import steps, wait_for_update
from tests.strangers import Listener, attacked, listeners
from tools.cluster.network import LOGIN, Network, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.world_size(2)]

TRAIN = [sys.executable, "-m", "bigbatch", "train", "recipe.yaml", "updates=100000", "plan.compile=off"]


def ours(network: Network) -> set[Listener]:
    """Listeners of all processes that run this program, on any host."""
    pids = {pid for host in network.hosts.values() for pid in host.processes()}
    mine = {pid for pid in pids if is_ours(pid)}
    # salloc leaves its own socket open in what it starts.
    others = {(each.address, each.port) for each in listeners(pids - mine)}
    return {each for each in listeners(mine) if (each.address, each.port) not in others}


def is_ours(pid: int) -> bool:
    """Slurm's own programs have our words in their command line, and listen too: Slurm guards what is theirs."""
    with suppress(OSError):
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
        return program.startswith("python") and b"bigbatch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def attack_everything(network: Network, job) -> None:
    """From the login host and from the hosts themselves, while the run goes on."""
    wait_for_update(job.run, 5)
    found = ours(network)
    addresses = {host.address for name, host in network.hosts.items() if name != LOGIN}
    # Gloo's of each rank, and the one who answers holders of the key: each on the one network, none elsewhere.
    assert len(found) >= 3 and {each.address for each in found} == addresses, found
    for host in network.hosts.values():
        assert attacked(found, job.folder / "canary", run=partial(host.run, seconds=300)) == []
    before = len(steps(job.run))
    wait_for(lambda: len(steps(job.run)) > before + 5, "more updates", seconds=60)
    assert not (job.folder / "canary").exists()


def run(host, words, job, environ):
    traps.lay(job.folder, job.folder / "sprung")
    with (job.folder / "said.txt").open("wb") as said:
        return host.start(
            words,
            cwd=job.folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.parametrize("way", ["hosts", "allocation", "step"])
def test_strangers_reach_nothing(request, job, environ, way):
    if way == "hosts":
        network = request.getfixturevalue("hosts")
        process = run(network[LOGIN], [*TRAIN, "--hosts", "a,b"], job, environ)
    else:
        slurm = request.getfixturevalue("slurm")
        network = slurm.network
        enter = {"allocation": ["salloc", "--nodes=2"], "step": ["srun", "--nodes=2", "--ntasks=2"]}[way]
        process = run(network[LOGIN], [*enter, *TRAIN, "--slurm"], job, {**environ, **slurm.environ})
    try:
        attack_everything(network, job)
    finally:
        process.send_signal(signal.SIGINT if way == "hosts" else signal.SIGTERM)
        code = process.wait(90)
    # How a job ends that is taken back is Slurm's to say.
    assert way != "hosts" or code == 130, (job.folder / "said.txt").read_text()
    assert traps.sprung(job.folder / "sprung") == []

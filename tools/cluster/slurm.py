"""Slurm on the hosts of a network: slurmctld on the login host, slurmd on the others, one munge for all."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.cluster.network import LOGIN, Host, Network, NoCluster, wait_for

PROGRAMS = ("slurmctld", "slurmd", "munged")

CONFIG = """\
ClusterName=bigbatch
SlurmctldHost={login}({address})
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/linear
SchedulerType=sched/backfill
SlurmdParameters=config_overrides
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
JobRequeue=1
KillWait=30
SlurmctldTimeout=10
SlurmdTimeout=15
NodeName={nodes} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=short Nodes={nodes} Default=YES MaxTime=60 State=UP
"""


class Slurm:
    """Context manager: a Slurm cluster on the hosts of a network; the user sits on the login host."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.folder = network.folder / "slurm"
        self.environ = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        """What its commands need."""

    @property
    def _login(self) -> Host:
        return self.network[LOGIN]

    def __enter__(self) -> Slurm:
        for name in ("munge", "state", *(f"spool-{name}" for name in self._nodes())):
            (self.folder / name).mkdir(parents=True, mode=0o755)
        # Munge answers only over a path that everybody may walk.
        self.network.folder.chmod(0o711)
        self._start_munge()
        (self.folder / "slurm.conf").write_text(self._config())
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        config = str(self.folder / "slurm.conf")
        self._serve(self._login, ["slurmctld", "-D", "-f", config, "-L", self.folder / "slurmctld.log"])
        for name in self._nodes():
            log = self.folder / f"slurmd-{name}.log"
            self._serve(self.network[name], ["slurmd", "-D", "-N", name, "-f", config, "-L", log])
        wait_for(self._idle, "Slurm's nodes", seconds=20)
        return self

    def __exit__(self, *_: object) -> None:
        """Jobs end; the daemons end with the network."""
        self.call(["scancel", "--full", "--signal=KILL", "--user=root"])

    def call(self, words: Sequence[str], **given: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm's, or any other, on the login host."""
        environ = {**os.environ, **given.pop("env", {}), **self.environ}
        return self._login.run(words, env=environ, **given)

    def state(self, job: str) -> str:
        """`PENDING`, `RUNNING`, `COMPLETED`, …; empty for a job that is forgotten."""
        shown = self.call(["scontrol", "--oneliner", "show", "job", job]).stdout
        return shown.partition("JobState=")[2].partition(" ")[0]

    def _nodes(self) -> list[str]:
        return [name for name in self.network.hosts if name != LOGIN]

    def _idle(self) -> bool:
        shown = self.call(["sinfo", "--noheader", "--Node", "--format=%t"]).stdout.split()
        return shown == ["idle"] * len(self._nodes())

    def _config(self) -> str:
        return CONFIG.format(
            login=LOGIN,
            address=self._login.address,
            folder=self.folder,
            nodes=",".join(self._nodes()),
        )

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(secrets.token_bytes(64))
        (folder / "key").chmod(0o400)
        folder.chmod(0o711)
        words = ["munged", "--foreground", "--force", f"--socket={folder}/socket", f"--key-file={folder}/key"]
        words += [f"--log-file={folder}/log", f"--pid-file={folder}/pid", f"--seed-file={folder}/seed"]
        self._serve(self._login, words)
        wait_for((folder / "socket").exists, "munge", seconds=10)

    def _serve(self, host: Host, words: Sequence[str | Path]) -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        with (self.folder / f"{words[0]}-{host.name}.out").open("wb") as said:
            process = host.start(
                list(map(str, words)),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, **self.environ, "PATH": path},
            )
        self.network.kept.append(process)
        if process.poll() is not None:
            raise NoCluster(f"{words[0]} on {host.name} ended at once")

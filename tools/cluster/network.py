"""Hosts that are namespaces: each has its own network, host name and processes, and sees this machine's disk.

A switch, in a namespace of its own, joins them; nothing leads outside. Faults: a process is killed or stopped, a link
is cut or made narrow, a host loses its power.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster.sweep import PREFIX, pids_of, remove, sweep

SUBNET = "10.77.0"
LOGIN = "login"
"""The machine where the user sits; it computes nothing and never dies."""


class NoCluster(RuntimeError):
    """This machine, or this user, cannot build one."""


def why_not(*programs: str) -> str | None:
    """Reason why no cluster can be built here; None when it can.

    Args:
        programs: what is needed beside `ip`, `tc`, `nsenter` and `unshare`.
    """
    if not hasattr(os, "geteuid") or os.geteuid():
        return "needs root, for namespaces"
    needed = ("ip", "tc", "nsenter", "unshare", *programs)
    missing = [name for name in needed if not shutil.which(name, path=SEARCHED)]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install iproute2 openssh-server slurm-wlm munge"
    trial = f"{PREFIX}{os.getpid()}-trial"
    made = subprocess.run(["ip", "netns", "add", trial], capture_output=True, text=True)
    remove(trial)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else None


SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine of the cluster."""

    name: str
    address: str
    namespace: str
    """Name of its network namespace."""
    first: int
    """Process id, as this machine sees it, of the process that the others hang on."""
    own_processes: bool
    """Whether it has process ids of its own; all of them end with the first."""

    def start(self, words: Sequence[str], **given: Any) -> subprocess.Popen[Any]:
        """Run a program on this host; keywords go to Popen.

        On the login host the Popen is the program itself; elsewhere its parent, which ends with it.
        """
        enter = ["nsenter", f"--target={self.first}", "--mount", "--uts", "--net"]
        enter += ["--pid"] if self.own_processes else []
        folder = given.pop("cwd", None) or Path.cwd()
        return subprocess.Popen([*enter, f"--wd={folder}", "--", *map(str, words)], **given)

    def run(
        self, words: Sequence[str], *, seconds: float = 60.0, **given: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host and wait for it; output is kept as text."""
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **given}
        process = self.start(words, text=True, **given)
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(list(words), process.returncode, out, err)

    def processes(self) -> list[int]:
        """All its processes, as this machine counts them."""
        return pids_of(self.namespace)

    def power_off(self) -> None:
        """Everything on it ends at once, nobody is told; the cable stays in."""
        assert self.own_processes, f"{self.name} shares the processes of this machine"
        self.cut()
        os.kill(self.first, signal.SIGKILL)

    def cut(self) -> None:
        """Pull the cable: no packet arrives, no connection is closed."""
        _switch(self.namespace, "down", self.name)

    def join(self) -> None:
        """Put the cable back."""
        _switch(self.namespace, "up", self.name)

    def narrow(self, rate: str) -> None:
        """Let out at most `rate`, such as `100mbit`; this kernel need not know how to add latency."""
        shape = ["tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
        _call("tc", "-n", self.namespace, "qdisc", "replace", "dev", "eth0", "root", *shape)


def _switch(namespace: str, state: str, name: str) -> None:
    switch = f"{namespace.rpartition('-')[0]}-switch"
    _call("ip", "-n", switch, "link", "set", "dev", name, state)


class Network:
    """Context manager: hosts behind a switch, gone at the end.

    Example:
        >>> with Network(["a", "b"]) as network:  # doctest: +SKIP
        ...     network["a"].run(["ping", "-c1", "b"])
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._own = f"{PREFIX}{os.getpid()}-"
        self.kept: list[subprocess.Popen[Any]] = []
        """Processes that end with the network."""
        self.hosts: dict[str, Host] = {}
        self.folder = Path()
        """Temporary; all hosts see it."""

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Network:
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, remove every namespace and the folder."""
        for name in [*self.hosts, "switch"]:
            remove(self._own + name)
        for process in self.kept:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self.hosts.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self) -> None:
        everyone = {
            LOGIN: f"{SUBNET}.1",
            **{name: f"{SUBNET}.{10 + at}" for at, name in enumerate(self._names)},
        }
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in everyone.items())]
        (self.folder / "hosts").write_text("\n".join(lines) + "\n")
        (self.folder / "ssh_config").touch()
        switch = f"{self._own}switch"
        _call("ip", "netns", "add", switch)
        _call("ip", "-n", switch, "link", "add", "br0", "type", "bridge")
        _call("ip", "-n", switch, "link", "set", "br0", "up")
        for name, address in everyone.items():
            self._plug(name, address, switch)
        for name, address in everyone.items():
            self._boot(name, address)

    def _plug(self, name: str, address: str, switch: str) -> None:
        """A namespace whose eth0 ends in a port of the switch."""
        own = self._own + name
        _call("ip", "netns", "add", own)
        _call(
            "ip",
            "-n",
            switch,
            "link",
            "add",
            "name",
            name,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            own,
        )
        _call("ip", "-n", switch, "link", "set", "dev", name, "master", "br0", "up")
        _call("ip", "-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _call("ip", "-n", own, "link", "set", "dev", device, "up")

    def _boot(self, name: str, address: str) -> None:
        """The process that holds the host: its name, its /etc/hosts, its own processes."""
        ready = self.folder / f"{name}.up"
        script = (
            f"mount --make-rprivate / && mount --bind {self.folder}/hosts /etc/hosts"
            f" && {{ [ ! -e /etc/ssh/ssh_config ] || mount --bind {self.folder}/ssh_config /etc/ssh/ssh_config; }}"
            f" && hostname {name} && touch {ready} && exec sleep infinity"
        )
        alone = [] if name == LOGIN else ["--pid", "--fork", "--kill-child", "--mount-proc"]
        words = [
            "ip",
            "netns",
            "exec",
            self._own + name,
            "unshare",
            "--mount",
            "--uts",
            *alone,
            "sh",
            "-c",
            script,
        ]
        with (self.folder / f"{name}.boot").open("w") as said:
            self.kept.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=said))
        own = self._own + name
        wait_for(lambda: ready.exists() and _sleepers(own), f"{name} to come up", seconds=10)
        first = _sleepers(own)[0]
        self.hosts[name] = Host(
            name=name, address=address, namespace=own, first=first, own_processes=bool(alone)
        )


def _sleepers(namespace: str) -> list[int]:
    return [pid for pid in pids_of(namespace) if _words_of(pid).startswith(b"sleep")]


def wait_for(happened: Any, what: str, *, seconds: float) -> float:
    """Ask again and again; seconds that it took.

    Raises:
        TimeoutError: it did not happen.
    """
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def rank_process(hosts: Mapping[str, Host], rank: int) -> tuple[str, int]:
    """Where a rank runs: the host's name, and the process id as this machine counts it.

    Raises:
        LookupError: no such rank runs.
    """
    for name, host in hosts.items():
        for pid in host.processes():
            if _environment(pid).get("RANK") == str(rank) and b"bigbatch" in _words_of(pid):
                return name, pid
    raise LookupError(f"no process of rank {rank}")


def _environment(pid: int) -> dict[str, str]:
    with suppress(OSError):
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        pairs = [entry.partition("=") for entry in raw.split("\0")]
        return {name: value for name, equals, value in pairs if equals}
    return {}


def _words_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise NoCluster(f"{' '.join(words)}: {done.stderr.strip()}")

"""Workers on several machines, over the system's `ssh`: every host is asked first, then an agent starts on each.

Nothing is installed and no daemon runs there: the same path holds the same program, the run directory is on a disk that
all of them share, and an agent ends when the connection to it does.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.local import cores_each
from bigbatch.launch.watch import process_state
from bigbatch.recipe.layers import ENVIRONMENT_PREFIX, HOST_VARIABLE, WORKER_VARIABLE
from bigbatch.run.beat import Sign

SSH = (
    "ssh",
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ConnectionAttempts=1"),
    # A connection that was cut is noticed after 15 s.
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
SSH_FAILED = 255
"""What ssh ends with when it is the connection that failed, not the command."""
_FORWARDED = ("PYTHONPATH", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "XDG_CACHE_HOME")
_FORWARDED_PREFIXES = (ENVIRONMENT_PREFIX, "GLOO_", "NCCL_", "TORCH_", "HF_", "TRANSFORMERS_")
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Where to start, and how."""

    names: Sequence[str]
    """As `ssh` knows them; the first one holds the store through which they find each other."""
    python: str
    """The interpreter on each of them."""
    folder: Path
    """The working directory, the same path on each of them."""
    environ: Mapping[str, str]
    """Of this process; settings of the run are passed on, secrets are not."""


def command_on(hosts: Hosts, host: str, module: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """Words that run `python -m MODULE…` on a host."""
    passed = {name: value for name, value in hosts.environ.items() if _is_passed_on(name)}
    settings = [f"{name}={value}" for name, value in sorted({**passed, **variables}.items())]
    there = f"cd {shlex.quote(str(hosts.folder))} && exec "
    return [*SSH, "--", host, there + shlex.join(["env", *settings, hosts.python, "-m", *module])]


def _is_passed_on(name: str) -> bool:
    if name in (WORKER_VARIABLE, HOST_VARIABLE) or any(word in name for word in _SECRET):
        return False
    return name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES)


# ---------------------------------------------------------------- before the start


def ask(hosts: Hosts, recipe: str, changes: Sequence[str], seen: Path) -> dict[str, dict[str, Any]]:
    """Facts of every host, asked for at the same time (see `launch.facts`).

    Args:
        hosts: whom.
        recipe: as typed.
        changes: `key=value` words.
        seen: a folder that each must see: the one through which they report.

    Raises:
        MachineError: a host that is unknown or does not answer.
        UsageError: one where the program, the recipe or the shared disk is missing, or something differs.
    """
    first, *rest = hosts.names

    def one(host: str) -> dict[str, Any]:
        peer = (rest or [None])[0] if host == first else first
        request = {"recipe": recipe, "changes": list(changes), "peer": peer, "seen": str(seen)}
        return _answer(
            hosts, host, command_on(hosts, host, ["bigbatch.launch.facts", json.dumps(request)], {})
        )

    with ThreadPoolExecutor(len(hosts.names)) as pool:
        found = dict(zip(hosts.names, pool.map(one, hosts.names), strict=True))
    for host, facts in found.items():
        if not facts["sees"]:
            raise UsageError(
                f"host {host} does not see {seen}: the run directory must be on a disk that all hosts share "
                "(run.root or run.dir)"
            )
    refuse_differences({host: facts["same"] for host, facts in found.items()})
    return found


def _answer(hosts: Hosts, host: str, words: Sequence[str]) -> dict[str, Any]:
    if not host or host.startswith("-"):
        raise UsageError(f"found {host!r} among the hosts; expected names, such as --hosts node1,node2")
    try:
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise MachineError("there is no `ssh` on this machine: install an OpenSSH client") from error
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1].strip()
    if done.returncode == SSH_FAILED:
        raise MachineError(f"host {host} cannot be reached: {last}")
    if done.returncode:
        hint = f"; is bigbatch there, for {hosts.python}? --python names another interpreter"
        raise UsageError(f"host {host}: {last}{hint}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if "failed" in answer:
        kind = UsageError if answer["exit_code"] == UsageError.exit_code else MachineError
        raise kind(f"host {host}: {answer['failed']}")
    return answer


def refuse_differences(same: Mapping[str, Mapping[str, str]]) -> None:
    """Host -> item -> value: all values of an item must be equal.

    Raises:
        UsageError: naming hosts, items and both values.
    """
    first, *others = same
    differing = [
        f"{item}: {first} has {same[first].get(item, 'nothing')}, {host} has {same[host].get(item, 'nothing')}"
        for host in others
        for item in sorted({*same[first], *same[host]})
        if same[first].get(item) != same[host].get(item)
    ]
    if differing:
        raise UsageError("the hosts would not compute the same:\n  " + "\n  ".join(differing))


# ---------------------------------------------------------------- the start


def agent_on(
    hosts: Hosts,
    host: str,
    facts: Mapping[str, Mapping[str, Any]],
    *,
    launch_folder: Path,
    ranks: int,
    min_nodes: int,
    max_restarts: int,
    words: Sequence[str],
) -> list[str]:
    """Words that start the agent of one host.

    Args:
        hosts: all of them.
        host: this one.
        facts: of each host.
        launch_folder: on the shared disk.
        ranks: on this host.
        min_nodes: fewest hosts to go on with.
        max_restarts: how often the group is started again.
        words: the command of every worker, behind `bigbatch`.
    """
    first, own = facts[hosts.names[0]], facts[host]
    agent = [
        "bigbatch.parallel.agent",
        str(launch_folder),
        f"--nnodes={min_nodes}:{len(hosts.names)}",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={max_restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-id={launch_folder.name}",
        f"--rdzv-endpoint={first['address']}:{first['port']}",
        # Told, not guessed: hosts may call themselves alike.
        f"--rdzv-conf=is_host={int(host == hosts.names[0])},join_timeout=60,last_call_timeout=10",
        f"--local-addr={own['address']}",
        *("-m", "bigbatch", *words),
    ]
    variables = {WORKER_VARIABLE: str(launch_folder), HOST_VARIABLE: host}
    if own["interface"]:
        names = [name for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in hosts.environ]
        variables |= dict.fromkeys(names, own["interface"])
    if "OMP_NUM_THREADS" not in hosts.environ:
        variables["OMP_NUM_THREADS"] = str(cores_each(own["cores"], ranks))
    return command_on(hosts, host, agent, variables)


def ranks_on(facts: Mapping[str, Mapping[str, Any]], ranks: int | str | None) -> dict[str, int]:
    """How many processes each host gets: so many over all, or one for each accelerator.

    Raises:
        UsageError: they cannot be shared out evenly.
    """
    if ranks in (None, "auto"):
        return {host: max(1, each["accelerators"]) for host, each in facts.items()}
    whole = int(ranks)  # type: ignore[arg-type]
    if whole % len(facts):
        raise UsageError(f"{whole} ranks cannot be shared out evenly to {len(facts)} hosts")
    return dict.fromkeys(facts, whole // len(facts))


def look_there(hosts: Hosts, sign: Sign) -> str | None:
    """State of a rank's process on its host."""
    words = [*SSH, "--", sign.host, f"cat /proc/{sign.pid}/status || test ! -d /proc/self"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=15, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode == SSH_FAILED:
        return None
    return process_state(done.stdout) if done.returncode == 0 else "gone"

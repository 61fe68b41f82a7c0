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

from bigbatch.documents import checked
from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.facts import Facts, Request
from bigbatch.launch.local import cores_each, way
from bigbatch.launch.passed import refuse_other_keys, settings_of
from bigbatch.launch.watch import process_state
from bigbatch.recipe.layers import HOST_VARIABLE, WORKER_VARIABLE
from bigbatch.run.beat import Sign
from bigbatch.stored import Damaged, json_value

SSH = (
    "ssh",
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ConnectionAttempts=1"),
    # Whoever owns the other machine gets nothing of this one: no agent, no display, no tunnel.
    *("-a", "-x", "-o", "ClearAllForwardings=yes"),
    # A connection that was cut is noticed after 15 s.
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
)
SSH_FAILED = 255
"""What ssh ends with when it is the connection that failed, not the command."""
_ENTER = (
    "import json,os,sys;"
    'said=json.loads(open(0,"rb",0,closefd=False).readline());'
    'os.chdir(said["folder"]);'
    'os.environ.update(said["variables"]);'
    'os.execv(sys.executable,[sys.executable,*said["words"]])'
)
"""What the command line over there holds, and nothing else: it reads one line, not a byte more, and becomes the
program that is named there."""


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Where to start, and how."""

    names: Sequence[str]
    """As `ssh` knows them; the first one serves the words through which they find each other."""
    python: str
    """The interpreter on each of them."""
    folder: Path
    """The working directory, the same path on each of them."""
    environ: Mapping[str, str]
    """Of this process; settings of the run are passed on, secrets are not."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A program on a host."""

    words: Sequence[str]
    """Of the command here. Every user of either machine can read them."""
    line: str
    """First line of its standard input: settings, the program and its words."""


def call_on(hosts: Hosts, host: str, module: Sequence[str], variables: Mapping[str, str]) -> Call:
    """Run `python -m MODULE…` on a host.

    Args:
        hosts: with their interpreter, working directory and the settings that are passed on.
        host: one of their names.
        module: its name, and the words behind it.
        variables: further ones of the environment there.
    """
    said = {
        "folder": str(hosts.folder),
        "variables": {**settings_of(hosts.environ), **variables},
        "words": ["-P", "-m", *module],
    }
    # No folder of the user's, and none of Python's variables, decides what this first program imports.
    there = "exec " + shlex.join([hosts.python, "-I", "-c", _ENTER])
    return Call(words=[*SSH, "--", host, there], line=json.dumps(said) + "\n")


# ---------------------------------------------------------------- before the start


def ask(
    hosts: Hosts,
    recipe: str | None,
    changes: Sequence[str],
    seen: Path,
    keys: Mapping[str, str] | None = None,
) -> dict[str, Facts]:
    """Facts of every host, asked for at the same time (see `launch.facts`).

    Args:
        hosts: whom.
        recipe: as typed; None: there is none to compare.
        changes: `key=value` words.
        seen: a folder that each must see: the one through which they report.
        keys: of the recipe as it was resolved here (`passed.resolved_keys`); None: there is none to compare.

    Raises:
        MachineError: a host that is unknown or does not answer.
        UsageError: one where the program, the recipe or the shared disk is missing, or something differs.
    """
    first, *rest = hosts.names

    def one(host: str) -> Facts:
        peer = (rest or [None])[0] if host == first else first
        request: Request = {"recipe": recipe, "changes": list(changes), "peer": peer, "seen": str(seen)}
        return _answer(hosts, host, call_on(hosts, host, ["bigbatch.launch.facts"], {}), request)

    with ThreadPoolExecutor(len(hosts.names)) as pool:
        found = dict(zip(hosts.names, pool.map(one, hosts.names), strict=True))
    for host, facts in found.items():
        if not facts["sees"]:
            raise UsageError(
                f"host {host} does not see {seen}: the run directory must be on a disk that all hosts share "
                "(run.root or run.dir)"
            )
    refuse_differences({host: facts["same"] for host, facts in found.items()})
    if keys is not None:
        for host, facts in found.items():
            refuse_other_keys(keys, facts["keys"], f"host {host}")
    return found


def _answer(hosts: Hosts, host: str, call: Call, request: Request) -> Facts:
    given = call.line + json.dumps(request) + "\n"
    try:
        done = subprocess.run(call.words, capture_output=True, text=True, input=given)
    except FileNotFoundError as error:
        raise MachineError("there is no `ssh` on this machine: install an OpenSSH client") from error
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1].strip()
    if done.returncode == SSH_FAILED:
        raise MachineError(f"host {host} cannot be reached: {last}")
    if done.returncode:
        hint = f"; is bigbatch there, for {hosts.python}? --python names another interpreter"
        raise UsageError(f"host {host}: {last}{hint}")
    try:
        answer = json_value((done.stdout.strip().splitlines() or [""])[-1])
        if not isinstance(answer, dict):
            raise Damaged("is no JSON object")
        if "failed" not in answer:
            return checked(answer, Facts)
    except Damaged as error:
        raise UsageError(
            f"host {host}: its answer {error}; does its shell write something at login, or is there another version?"
        ) from None
    kind = UsageError if answer.get("exit_code") == UsageError.exit_code else MachineError
    raise kind(f"host {host}: {answer['failed']}")


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
    facts: Mapping[str, Facts],
    *,
    launch_folder: Path,
    ranks: int,
    min_nodes: int,
    max_restarts: int,
    words: Sequence[str],
) -> Call:
    """Start the agent of one host.

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
    own = facts[host]
    agent = [
        "bigbatch.parallel.agent",
        str(launch_folder),
        way(hosts.names.index(host), len(hosts.names)),
        own["address"],
        f"--nnodes={min_nodes}:{len(hosts.names)}",
        f"--nproc-per-node={ranks}",
        f"--max-restarts={max_restarts}",
        f"--rdzv-id={launch_folder.name}",
        "--rdzv-conf=join_timeout=60,last_call_timeout=10",
        *("-m", "bigbatch", *words),
    ]
    variables = {WORKER_VARIABLE: str(launch_folder), HOST_VARIABLE: host}
    interface = own["interface"]
    if interface:
        names = [name for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in hosts.environ]
        variables |= dict.fromkeys(names, interface)
    if "OMP_NUM_THREADS" not in hosts.environ:
        variables["OMP_NUM_THREADS"] = str(cores_each(own["cores"], ranks))
    return call_on(hosts, host, agent, variables)


def ranks_on(facts: Mapping[str, Facts], ranks: int | str | None) -> dict[str, int]:
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
    """State of a rank's process on its host; the sign is a file's, so only a host of ours is asked, for a number."""
    if sign.host not in hosts.names:
        return None
    words = [*SSH, "--", sign.host, f"cat /proc/{int(sign.pid)}/status || test ! -d /proc/self"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=15, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode == SSH_FAILED:
        return None
    return process_state(done.stdout) if done.returncode == 0 else "gone"

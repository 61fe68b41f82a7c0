"""Several workers on this machine: an agent starts them, and this process waits for what becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from bigbatch.errors import EXIT_DONE, MachineError
from bigbatch.launch.address import LOOPBACK, kept_to
from bigbatch.launch.endings import cause, endings, restarts, told
from bigbatch.launch.passed import write_resolved
from bigbatch.launch.python import python_words
from bigbatch.launch.watch import Watcher, launched_from, signal_rank
from bigbatch.processes import Handler
from bigbatch.recipe.layers import WORKER_VARIABLE
from bigbatch.run.beat import read_signs

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """What is to be started."""

    words: Sequence[str]
    """The command of every worker, behind `bigbatch`."""
    ranks: int
    recipe: Recipe | None = None
    """As it was resolved here; None: workers have nothing to compare with it."""
    max_restarts: int = 0
    """How often the group is started again after a worker was lost."""
    threads: int | None = None
    """Of each worker; None: the cores, divided."""
    timeout_seconds: float | None = None
    """After this long without an answer of a rank the group is ended."""


def run_group(group: Group, environ: Mapping[str, str], say: Say) -> int:
    """Start the workers and wait for their end.

    Args:
        group: what to start.
        environ: of this process; workers get it with what tells them who they are.
        say: told about ranks that are silent, and how the group ended.

    Returns:
        The exit code of the first rank that failed by itself, or 0.

    Raises:
        MachineError: the agent itself could not start them.
    """
    with tempfile.TemporaryDirectory(prefix="bigbatch-launch-") as temporary:
        folder = Path(temporary)
        if group.recipe is not None:
            write_resolved(folder, group.recipe)
        agent = subprocess.Popen(
            python_words("bigbatch.parallel.agent", str(folder), way(0, 1), LOOPBACK, *agent_words(group)),
            env={**environ, **settings(group, environ), **kept_to(LOOPBACK), WORKER_VARIABLE: str(folder)},
            stdin=subprocess.PIPE,
            # Ctrl-C comes here; the agent passes it on once.
            start_new_session=True,
        )
        watcher = Watcher(
            folder,
            say,
            timeout_seconds=group.timeout_seconds,
            give_up=lambda: end(folder, agent),
            is_ours=launched_from(folder),
        )
        with Passing([agent]) as signals, watcher:
            agent.wait()
        assert agent.stdin is not None
        agent.stdin.close()
        if watcher.verdict is not None:
            raise MachineError(watcher.verdict)
        return outcome(folder, agent.returncode, signals.first, say)


def way(number: int, machines: int) -> str:
    """How the agent of one of the machines meets the others, as `parallel/meeting.py` calls it."""
    return "alone" if machines == 1 else "join" if number else "lead"


def agent_words(group: Group) -> list[str]:
    """Torchrun's words for workers on one machine."""
    return [
        "--nnodes=1",
        f"--nproc-per-node={group.ranks}",
        f"--max-restarts={group.max_restarts}",
        "-m",
        "bigbatch",
        *group.words,
    ]


def settings(group: Group, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of the workers: threads that do not get in each other's way."""
    if "OMP_NUM_THREADS" in environ:
        return {}
    return {"OMP_NUM_THREADS": str(group.threads or cores_each(cores(), group.ranks))}


def cores_each(available: int, ranks: int) -> int:
    """Threads of each of the ranks of a machine."""
    return max(1, available // ranks)


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def accelerators(environ: Mapping[str, str]) -> int:
    """Accelerators that this process may use, without loading torch."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def outcome(folder: Path, agent_code: int, signal_sent: int | None, say: Say) -> int:
    """Exit code of the whole, after saying why it is not 0.

    Args:
        folder: of the launch, in which each rank left its ending.
        agent_code: exit code of the agents: the one that is furthest from 0, or that of srun.
        signal_sent: number of the first signal that was passed on; None: nobody asked for an end.
        say: told about restarts, and of the rank that was the cause.

    Raises:
        MachineError: no rank left an ending, and nobody asked for one: the workers could not be started.
    """
    again = restarts(folder)
    if again:
        say(
            f"the group was started again {again} {'time' if again == 1 else 'times'} after a worker was lost"
        )
    found = cause(endings(folder), interrupted=signal_sent is not None)
    if found is not None:
        code, message = told(found, interrupted=signal_sent is not None)
        if message:
            say(message)
        return code
    if agent_code == EXIT_DONE:
        return EXIT_DONE
    if signal_sent is not None:
        return 128 + signal_sent
    failed = [path.read_text(encoding="utf-8") for path in folder.glob("agent-failed-*.txt")]
    raise MachineError(
        "the workers could not be started: " + ("; ".join(failed) or f"the agent ended with {agent_code}")
    )


def end(folder: Path, agent: subprocess.Popen[bytes]) -> None:
    """At once: some of the workers do not answer."""
    for sign in read_signs(folder):
        signal_rank(sign, signal.SIGKILL, launched_from(folder))
    agent.kill()


class Passing:
    """Context manager: SIGINT and SIGTERM go to the agents, which pass them to the workers.

    As words through standard input: that reaches other machines too.
    """

    def __init__(self, agents: Sequence[subprocess.Popen[bytes] | subprocess.Popen[str]]) -> None:
        self._agents = agents
        self._before: dict[int, Handler] = {}
        self.first: int | None = None
        """The first signal that came."""

    def __enter__(self) -> Passing:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.first = self.first or number
        for agent in self._agents:
            with suppress(OSError, ValueError):
                assert agent.stdin is not None
                os.write(agent.stdin.fileno(), f"{int(number)}\n".encode())

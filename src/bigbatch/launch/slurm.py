"""Slurm: a batch job is submitted; inside an allocation srun starts one agent a node; inside a step we are a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from bigbatch.errors import MachineError, UsageError
from bigbatch.launch.batch_script import SPARE_SECONDS, batch_script
from bigbatch.launch.endings import endings
from bigbatch.launch.local import Say, outcome
from bigbatch.launch.passed import write_resolved
from bigbatch.launch.python import python_words
from bigbatch.processes import Handler
from bigbatch.recipe.layers import ENVIRONMENT_PREFIX, WORKER_VARIABLE

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What Slurm gave this job."""

    job: str
    hosts: Sequence[str]
    """Its nodes; the first serves the words through which the others find it."""
    ranks_per_node: int
    max_restarts: int = 0
    threads: int | None = None
    grace_seconds: float = 30.0

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return len(self.hosts) * self.ranks_per_node


def slurm_command(
    recipe: Recipe,
    words: Sequence[str],
    ranks: str | None,
    environ: Mapping[str, str],
    say: Say,
    *,
    submit: bool,
) -> int | None:
    """Submit a job, or start the workers in the allocation that this process is in.

    Args:
        recipe: loaded.
        words: what every worker is called with, behind `bigbatch`.
        ranks: of the command line, over all nodes; None or `auto`: `launch.slurm.ranks_per_node` on each.
        environ: of this process.
        say: told what the user should know.
        submit: whether to submit; else this is the inside of an allocation.

    Returns:
        The exit code.

    Raises:
        UsageError: there is no allocation.
        MachineError: Slurm refused, or its commands are missing.
    """
    if submit:
        return submitted(recipe, words, ranks, environ, say)
    if "SLURM_JOB_ID" not in environ:
        raise UsageError(
            "--slurm works inside an allocation (salloc, sbatch); `--slurm --submit` writes a job and submits it"
        )
    spec = recipe.launch
    hosts = asked("scontrol", "show", "hostnames", environ["SLURM_JOB_NODELIST"]).split()
    allocation = Allocation(
        job=environ["SLURM_JOB_ID"],
        hosts=hosts,
        ranks_per_node=_on_each(ranks, len(hosts)) or spec.slurm.ranks_per_node,
        max_restarts=spec.max_restarts,
        threads=recipe.plan.threads,
        grace_seconds=spec.grace.amount,
    )
    return run_step(allocation, words, shared_folder(recipe), environ, say, recipe=recipe)


def shared_folder(recipe: Recipe) -> Path:
    """Above the run directory, on the disk that the nodes share."""
    return recipe.run_folder.absolute().parent


def submitted(
    recipe: Recipe, words: Sequence[str], ranks: str | None, environ: Mapping[str, str], say: Say
) -> int:
    """Hand the batch script to sbatch, which keeps this environment for the job and its requeues.

    Args:
        recipe: its section `launch.slurm` becomes the head of the script.
        words: what every worker is called with, behind `bigbatch`.
        ranks: of the command line, over all nodes; None: `launch.slurm.ranks_per_node` on each.
        environ: handed to sbatch; `BIGBATCH_*` variables are needed in the job.
        say: told the number of the job, and how to end it.

    Returns:
        The exit code, 0.

    Raises:
        MachineError: Slurm refused, or its commands are missing.
    """
    spec = recipe.launch
    command = python_words("bigbatch", *words, "--slurm", *(["--ranks", ranks] if ranks else []))
    script = batch_script(
        spec.slurm,
        command,
        name=f"bigbatch-{Path(words[1]).stem}",
        grace_seconds=spec.grace.amount,
        max_requeues=spec.max_requeues,
        needed=sorted(name for name in environ if name.startswith(ENVIRONMENT_PREFIX)),
    )
    job = asked("sbatch", "--parsable", given=script, environ=environ).strip().partition(";")[0]
    say(
        f"submitted job {job}; its output: slurm-{job}.out\n"
        f"save and end: scancel {job}; save and go on later: scancel --signal=TERM {job}"
    )
    return 0


def run_step(
    allocation: Allocation,
    words: Sequence[str],
    above: Path,
    environ: Mapping[str, str],
    say: Say,
    *,
    recipe: Recipe | None = None,
) -> int:
    """Start one agent a node with srun and wait for the end of all.

    Args:
        allocation: where.
        words: of every worker.
        above: folder on the disk that the nodes share, for what the ranks leave behind.
        environ: of this process.
        say: told how it ended.
        recipe: as it was resolved here; workers compare it with theirs.
    """
    above.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".launch-{allocation.job}-", dir=above) as temporary:
        folder = Path(temporary)
        if recipe is not None:
            write_resolved(folder, recipe)
        try:
            step = subprocess.Popen(
                srun_words(allocation, folder, words),
                env={**environ, WORKER_VARIABLE: temporary},
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise MachineError("srun was not found: is this a node of a Slurm cluster?") from error
        with Step(step, ends_at(allocation.job, environ), allocation.grace_seconds) as asking:
            step.wait()
            if asking.first is not None:
                _wait_for_endings(folder, allocation)
        return outcome(folder, step.returncode, asking.first, say)


def srun_words(allocation: Allocation, folder: Path, words: Sequence[str]) -> list[str]:
    """The command that starts one agent on each node; `launch/slurm_node.py` is its other end.

    Args:
        allocation: its nodes, and how many ranks each has.
        folder: of the launch, on the disk that the nodes share.
        words: of every worker.
    """
    nodes = len(allocation.hosts)
    return [
        "srun",
        # A job that sbatch gave another environment than its own (--export) still has one for its steps.
        "--export=ALL",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        "--ntasks-per-node=1",
        "--cpu-bind=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        *python_words(
            "bigbatch.launch.slurm_node",
            str(folder),
            *(allocation.hosts[0], allocation.hosts[min(1, nodes - 1)]),
            str(nodes),
            str(allocation.ranks_per_node),
            str(allocation.max_restarts),
            str(allocation.threads or 0),
            *words,
        ),
    ]


def ends_at(job: str, environ: Mapping[str, str]) -> float | None:
    """When the job's time is over, in seconds since the epoch; None: never, or nobody knows."""
    if "SLURM_JOB_END_TIME" in environ:
        return float(environ["SLURM_JOB_END_TIME"])
    # Slurm before 23.02 sets no such variable.
    with suppress(MachineError, ValueError):
        return datetime.fromisoformat(
            asked("squeue", "--noheader", f"--jobs={job}", "--format=%e").strip()
        ).timestamp()
    return None


def asked(*words: str, given: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """What a command of Slurm's answers.

    Args:
        words: the command.
        given: its standard input.
        environ: its environment; None: this process's.

    Raises:
        MachineError: it is missing, or refuses.
    """
    try:
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=30, env=environ)
    except FileNotFoundError as error:
        raise MachineError(f"{words[0]} was not found: is this a machine of a Slurm cluster?") from error
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"{words[0]} did not answer within 30 s") from error
    if done.returncode:
        raise MachineError(f"{words[0]} refused: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout


class Step:
    """Context manager: a signal, or the end of the job's time, asks the workers to save and leave.

    Not by a signal to srun, which would end the step: the number goes to the agents' standard input. Slurm and the
    batch script may both send SIGTERM, so a second one means nothing; a second Ctrl-C does.
    """

    def __init__(self, step: subprocess.Popen[bytes], end: float | None, grace_seconds: float) -> None:
        self._step = step
        self._before: dict[int, Handler] = {}
        self._timer: threading.Timer | None = None
        if end is not None:
            left = max(0.0, end - grace_seconds - SPARE_SECONDS - time.time())
            self._timer = threading.Timer(left, self._ask, args=[signal.SIGTERM])
            self._timer.daemon = True
        self.first: int | None = None
        """The first signal that came; SIGTERM where the time was over."""

    def __enter__(self) -> Step:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread
                self._before[number] = signal.signal(number, self._handle)
        # Further than a timer of the system reaches: no limit.
        if self._timer is not None and self._timer.interval < threading.TIMEOUT_MAX:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        with suppress(OSError):
            self._input.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.first is not None:
            os.killpg(self._step.pid, signal.SIGTERM)
        self._ask(number)

    def _ask(self, number: int) -> None:
        self.first = self.first or number
        with suppress(OSError, ValueError):
            self._input.write(f"{number}\n".encode())
            self._input.flush()

    @property
    def _input(self) -> IO[bytes]:
        assert self._step.stdin is not None
        return self._step.stdin


def _wait_for_endings(folder: Path, allocation: Allocation) -> None:
    """After `scancel` srun is gone at once, while the workers still save."""
    last = time.monotonic() + allocation.grace_seconds
    while time.monotonic() < last and len(endings(folder)) < allocation.ranks:
        time.sleep(0.2)


def _on_each(ranks: str | None, nodes: int) -> int | None:
    if ranks is None or ranks == "auto":
        return None
    if not ranks.isdigit() or not int(ranks) or int(ranks) % nodes:
        raise UsageError(f"--ranks {ranks}: expected a number that {nodes} nodes share out evenly, or auto")
    return int(ranks) // nodes

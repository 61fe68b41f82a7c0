"""The text of a Slurm batch job: pure, so that it can be read and tested without a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bigbatch.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, MachineError, UsageError
from bigbatch.recipe.machine import SlurmSpec
from bigbatch.recipe.names import job_name, one_line

SPARE_SECONDS = 30
"""Beside the grace: what the launcher, the collectives and Slurm's own clock need before the time limit."""
RETRIED = (MachineError.exit_code, EXIT_INTERRUPTED, EXIT_TERMINATED)
"""Exit codes after which the job goes back into the queue; a wrong recipe or a diverged run does not get better."""


def batch_script(
    spec: SlurmSpec,
    command: Sequence[str],
    *,
    name: str,
    grace_seconds: float,
    max_requeues: int,
    needed: Sequence[str] = (),
) -> str:
    """A job that runs `command` on one node of its allocation, saves before its time is over, and goes on later.

    Args:
        spec: `launch.slurm`.
        command: the program and its words.
        name: of the job.
        grace_seconds: `launch.grace`; SIGTERM comes so long, and 30 s, before the limit.
        max_requeues: how often it may put itself back into the queue.
        needed: names of variables without which the command would do something else.

    Raises:
        UsageError: a word of the command, or a variable's name, that would be more than one line.
    """
    options = [
        f"--job-name={job_name(name)}",
        *([f"--partition={spec.partition}"] if spec.partition else []),
        *([f"--account={spec.account}"] if spec.account else []),
        *([f"--time={spec.time}"] if spec.time else []),
        f"--nodes={spec.nodes}",
        "--ntasks-per-node=1",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{round(grace_seconds) + SPARE_SECONDS}",
        *spec.options,
    ]
    header = "\n".join(f"#SBATCH {option}" for option in options)
    setup = "".join(f"{line}\n" for line in spec.setup)
    return _TEXT.format(
        header=header,
        setup=setup,
        needed="".join(_NEEDED.format(name=_checked_variable(each)) for each in needed),
        command=shlex.join(map(_checked, command)),
        retried="|".join(map(str, RETRIED)),
        max_requeues=max_requeues,
    )


_NEEDED = (
    '[ -n "${{{name}+set}}" ] || {{ echo "{name} was set when this job was submitted and is not set here: '
    'sbatch must export the environment (--export=ALL)" >&2; exit 2; }}\n'
)
"""Without it the command would quietly do something else."""


def _checked(word: str) -> str:
    """A word of the command: quoted it would be safe, but nobody who reads the script would see what it does."""
    try:
        return one_line(word)
    except ValueError as error:
        raise UsageError(f"a batch script's command: {error}") from error


def _checked_variable(name: str) -> str:
    if not name.isidentifier() or not name.isascii():
        raise UsageError(f"found the environment variable {name!r}; expected BIGBATCH_ and a recipe's key")
    return name


_TEXT = """\
#!/bin/bash
{header}
{setup}{needed}
# Bash hears a signal only between two commands: so the command runs beside it, and is waited for.
child= told=
trap 'told=1; [ -z "$child" ] || kill -TERM $child 2>/dev/null' TERM
{command} &
child=$!
[ -z "$told" ] || kill -TERM $child 2>/dev/null
wait $child; code=$?
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done

# Saved, or something broke that another try may not meet. A cancelled job is no longer RUNNING.
case $code in {retried})
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_requeues} ] &&
     [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "exit code $code: back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi ;;
esac
exit $code
"""

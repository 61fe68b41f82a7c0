"""In a task of `srun --ntasks=N bigbatch train … --slurm` there is no agent: the tasks themselves find each other."""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from bigbatch.errors import MachineError
from bigbatch.launch.address import LOOPBACK, address_towards, kept_to
from bigbatch.launch.slurm import asked
from bigbatch.recipe.layers import MEETING_VARIABLE


def join_step(environ: MutableMapping[str, str], shared: Path) -> bool:
    """Set what an agent would have set; the first task makes the folder in which they meet, and serves there.

    Args:
        environ: of this process.
        shared: a folder on the disk that the nodes share.

    Returns:
        Whether this process is such a task.

    Raises:
        MachineError: the folder could not be made.
    """
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if "SLURM_STEP_ID" not in environ or "RANK" in environ or tasks == 1:
        return False
    hosts = asked("scontrol", "show", "hostnames", environ["SLURM_STEP_NODELIST"]).split()
    first = environ["SLURM_PROCID"] == "0"
    address = LOOPBACK if len(hosts) == 1 else address_towards(hosts[1] if first else hosts[0], environ)
    folder = shared / meeting_name(environ)
    if first:
        _lead(folder, address if len(hosts) > 1 else None)
    for name, value in kept_to(address).items():
        environ.setdefault(name, value)
    environ.update(step_variables(environ))
    environ[MEETING_VARIABLE] = str(folder / ("ranks" if len(hosts) > 1 else "ranks.file"))
    return True


def meeting_name(environ: Mapping[str, str]) -> str:
    """No other step has it, nor the same one after the job was put back into the queue."""
    return "-".join(
        (".step", environ["SLURM_JOB_ID"], environ.get("SLURM_RESTART_COUNT", "0"), environ["SLURM_STEP_ID"])
    )


def step_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Rank and size of a task, from Slurm's variables; there is no address at which ranks would wait."""
    here = environ["SLURM_STEP_TASKS_PER_NODE"].partition("(")[0].partition(",")[0]
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": here,
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": "0",
    }


def _lead(folder: Path, address: str | None) -> None:
    from bigbatch.parallel.served import lead

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if address is not None:
            lead(folder, address)
    except OSError as error:
        raise MachineError(f"{folder}: the tasks of this step cannot meet there: {error}") from error
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

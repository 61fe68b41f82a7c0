"""One worker of a group that this package started: it says where it is, keeps a log, and leaves its ending."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bigbatch.launch.endings import RETRY, Ending, leave
from bigbatch.recipe.layers import HOST_VARIABLE, WORKER_VARIABLE
from bigbatch.written import make_folder, open_append, replace_text


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Which worker this process is."""

    folder: Path
    """The launch folder."""
    rank: int
    size: int
    """Ranks of the group."""
    host: str
    """How the user calls this machine."""
    restart: int
    """How often the group had been started before."""

    @staticmethod
    def of(environ: Mapping[str, str] | None = None) -> Worker | None:
        """None for a process that a person, or somebody else's launcher, started."""
        environ = os.environ if environ is None else environ
        if WORKER_VARIABLE not in environ or "RANK" not in environ:
            return None
        return Worker(
            folder=Path(environ[WORKER_VARIABLE]),
            rank=int(environ["RANK"]),
            size=int(environ.get("WORLD_SIZE", 1)),
            host=environ.get(HOST_VARIABLE) or socket.gethostname(),
            restart=int(environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )

    def begin(self) -> None:
        """Say which process this is; all ranks but the first write to a log, not to the terminal."""
        content = {
            "pid": os.getpid(),
            "host": self.host,
            "size": self.size,
            "restart": self.restart,
        }
        with suppress(OSError):
            replace_text(self.folder / f"worker-{self.rank}.json", json.dumps(content), durable=False)
        if self.rank:
            _write_to(self.folder / log_name(self.rank))

    def log_into(self, run_folder: Path) -> None:
        """Keep the log in the run directory from now on, with what was said so far."""
        if not self.rank:
            return
        target = run_folder / "logs" / log_name(self.rank)
        with suppress(OSError):
            make_folder(target.parent)
            sys.stderr.flush()
            with (self.folder / log_name(self.rank)).open("rb") as before, open_append(target) as after:
                shutil.copyfileobj(before, after)
            _write_to(target)

    def end(self, exit_code: int, message: str, *, consequence: bool) -> int:
        """Leave the ending.

        Args:
            exit_code: as the command line has it.
            message: what went wrong, for the launcher to say; empty after a good end.
            consequence: whether this rank only could not go on without another.

        Returns:
            The process's exit code: the agent starts the group again after a failure, so what no second try changes
            is none to it.
        """
        leave(
            self.folder,
            Ending(
                rank=self.rank,
                host=self.host,
                pid=os.getpid(),
                exit_code=exit_code,
                message=message,
                consequence=consequence,
                at=time.time(),
            ),
            self.restart,
        )
        return exit_code if exit_code in RETRY else 0


def log_name(rank: int) -> str:
    """`rank-0003.log`."""
    return f"rank-{rank:04d}.log"


def _write_to(path: Path) -> None:
    """Standard output and error go to the end of a file."""
    with open_append(path, buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

"""Where this process stands among others, from the environment that torchrun and its like leave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bigbatch.errors import UsageError
from bigbatch.places import Place
from bigbatch.recipe.layers import MEETING_VARIABLE

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def place_of(environ: Mapping[str, str] | None = None) -> Place | None:
    """The place that the environment names; None for a process that nobody started as one of several.

    Args:
        environ: None reads that of this process.

    Raises:
        UsageError: some variables are there and others are missing or no numbers.
    """
    environ = os.environ if environ is None else environ
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    missing = [name for name in _NEEDED if name not in environ]
    if missing:
        raise UsageError(f"RANK and WORLD_SIZE are set, but not {', '.join(missing)}: start it with torchrun")
    try:
        rank, size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local_rank = int(environ.get("LOCAL_RANK", rank))
        local_size = int(environ.get("LOCAL_WORLD_SIZE", size))
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK are numbers: {error}") from error
    meeting = Path(environ[MEETING_VARIABLE]) if MEETING_VARIABLE in environ else None
    return Place(rank=rank, size=size, local_rank=local_rank, local_size=local_size, meeting=meeting)


def note_of_torchrun(environ: Mapping[str, str] | None = None) -> str | None:
    """What to say when somebody else's agent started this process; None: nobody did, or it was one of ours.

    Args:
        environ: None reads that of this process.
    """
    environ = os.environ if environ is None else environ
    if "TORCHELASTIC_RUN_ID" not in environ or MEETING_VARIABLE in environ:
        return None
    return (
        "torchrun's agent unpickles what it finds in a store without a password: whoever reaches its port "
        "can run code as you. --ranks, --hosts and --slurm do without it (docs: security)"
    )

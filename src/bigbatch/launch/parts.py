"""A command in parts: processes of this machine that each do one part of the same work, and end together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

from bigbatch.errors import MachineError
from bigbatch.launch.passed import stowed


def in_parts(
    words: Sequence[str], changes: Sequence[str], processes: int, environ: Mapping[str, str]
) -> None:
    """Run `bigbatch WORDS --part i/N` for every i, side by side; changes travel where no other user reads them.

    Args:
        words: the command and the recipe.
        changes: `key=value` words.
        processes: N.
        environ: of this process.

    Raises:
        MachineError: one of them failed; what it said is on standard error, and what was done stays.
    """
    command, carried = stowed(words, changes)
    threads = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", **environ}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bigbatch", *command, "--part", f"{number}/{processes}"],
            env={**threads, **carried},
            stdout=subprocess.DEVNULL,
        )
        for number in range(processes)
    ]
    try:
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                process.wait()
    failed = [code for code in codes if code]
    if failed:
        raise MachineError(f"{len(failed)} of {processes} processes ended with code {failed[0]}; see above")

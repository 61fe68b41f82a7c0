"""What each of several runs at a time may use of the machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bigbatch.errors import MachineError
from bigbatch.launch.local import cores, cores_each
from bigbatch.recipe.load import load_recipe

_ASK = (
    "import sys; from bigbatch.probe.hardware import choose_device, usable_memory_bytes; "
    "print(usable_memory_bytes(choose_device(sys.argv[1] or None)))"
)


def share_words(
    recipe: Path, changes: Sequence[str], parallel: int, environ: Mapping[str, str] | None
) -> tuple[str, ...]:
    """`plan.threads` and `plan.memory` for each of `parallel` runs; nothing where the recipe says it, or for one.

    Args:
        recipe: file of what all runs share.
        changes: `key=value`, on top of it.
        parallel: how many runs go at the same time.
        environ: where `BIGBATCH_*` keys are read from; None: this process's.

    Raises:
        MachineError: the memory could not be asked for.
    """
    if parallel == 1:
        return ()
    plan = load_recipe(recipe, changes, environ=environ).plan
    words = []
    if plan.threads is None:
        words.append(f"plan.threads={cores_each(cores(), parallel)}")
    if plan.memory is None:
        words.append(f"plan.memory={usable_bytes(plan.device) // parallel}")
    return tuple(words)


def usable_bytes(device: str | None) -> int:
    """Free memory of the device, asked in another process: this one would keep a part of it for itself."""
    command = [sys.executable, "-P", "-c", _ASK, device or ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return int(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise MachineError(
            f"the machine's free memory could not be found out: {done.stderr.strip()}"
        ) from error

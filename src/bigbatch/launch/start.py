"""Whether to start processes, and where: from the recipe, the command line and the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from bigbatch.errors import UsageError
from bigbatch.launch.local import Group, Say, run_group
from bigbatch.launch.place import place_of

Ranks = int | str | None
"""A number, `auto`, or nothing."""


def launched(
    recipe: Any, words: Sequence[str], ranks: Ranks, environ: Mapping[str, str], say: Say
) -> int | None:
    """Start as many processes as were asked for.

    Args:
        recipe: loaded, so that nothing is started for one that cannot be run.
        words: what every worker is called with, behind `bigbatch`.
        ranks: of the command line; None: `plan.ranks` of the recipe.
        environ: of this process.
        say: told how the group ended.

    Returns:
        The exit code; None when this process is all it takes, or is one of the workers.

    Raises:
        UsageError: not a number of ranks.
        MachineError: they could not be started.
    """
    if place_of(environ) is not None:
        return None
    wanted = count(ranks, environ) if ranks is not None else recipe.plan.ranks or 1
    if wanted == 1:
        return None
    group = Group(
        words=words,
        ranks=wanted,
        max_restarts=recipe.launch.max_restarts,
        threads=recipe.plan.threads,
        timeout_seconds=recipe.launch.timeout.amount,
    )
    return run_group(group, environ, say)


def count(ranks: Ranks, environ: Mapping[str, str]) -> int:
    """`auto` is one for each accelerator that may be used, and 1 without any.

    Raises:
        UsageError: neither `auto` nor a number from 1 up.
    """
    if ranks == "auto":
        return max(1, accelerators(environ))
    text = str(ranks)
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--ranks {text}: expected a number from 1 up, or auto")
    return int(text)


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

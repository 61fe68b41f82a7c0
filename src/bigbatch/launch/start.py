"""Whether to start processes, and where: from the recipe, the command line and the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bigbatch.errors import UsageError
from bigbatch.launch.hosts import Wanted, run_hosts
from bigbatch.launch.local import Group, Say, accelerators, run_group
from bigbatch.launch.passed import refuse_other_recipe
from bigbatch.launch.place import place_of
from bigbatch.launch.ssh import Hosts
from bigbatch.launch.worker import Worker
from bigbatch.recipe.names import checked_host

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

Ranks = int | str | None
"""A number, `auto`, or nothing."""


def launched(
    recipe: Recipe,
    words: Sequence[str],
    ranks: Ranks,
    environ: Mapping[str, str],
    say: Say,
    *,
    hosts: Sequence[str] = (),
    python: str | None = None,
    changes: Sequence[str] = (),
) -> int | None:
    """Start as many processes as were asked for.

    Args:
        recipe: loaded, so that nothing is started for one that cannot be run.
        words: what every worker is called with, behind `bigbatch`.
        ranks: of the command line; None: `plan.ranks` of the recipe.
        environ: of this process.
        say: told how the group ended.
        hosts: of the command line; none: `launch.hosts` of the recipe. `localhost` alone is this machine.
        python: the interpreter on the hosts; None: the path of this one.
        changes: of the recipe, on the command line.

    Returns:
        The exit code; None when this process is all it takes, or is one of the workers.

    Raises:
        UsageError: not a number of ranks.
        MachineError: they could not be started.
    """
    if place_of(environ) is not None:
        worker = Worker.of(environ)
        if worker is not None:
            refuse_other_recipe(worker.folder, recipe)
        return None
    names = _checked(hosts) or list(recipe.launch.hosts)
    if names and names != ["localhost"]:
        return run_hosts(
            Hosts(names=names, python=python or sys.executable, folder=Path.cwd(), environ=environ),
            _wanted(recipe, words, ranks if ranks is not None else recipe.plan.ranks, changes),
            say,
        )
    wanted = count(ranks, environ) if ranks is not None else recipe.plan.ranks or 1
    if wanted == 1:
        return None
    group = Group(
        recipe=None if words[0] == "worker" else recipe,
        words=words,
        ranks=wanted,
        max_restarts=recipe.launch.max_restarts,
        threads=recipe.plan.threads,
        timeout_seconds=recipe.launch.timeout.amount,
    )
    return run_group(group, environ, say)


def _wanted(recipe: Recipe, words: Sequence[str], ranks: Ranks, changes: Sequence[str]) -> Wanted:
    if ranks not in (None, "auto"):
        count(ranks, {})
    source = None if words[0] == "worker" else recipe.source
    return Wanted(
        recipe=None if source is None else os.fspath(source),
        loaded=None if source is None else recipe,
        changes=changes,
        words=words,
        ranks=ranks,
        max_restarts=recipe.launch.max_restarts,
        min_nodes=recipe.launch.min_nodes,
        timeout_seconds=recipe.launch.timeout.amount,
        grace_seconds=recipe.launch.grace.amount,
        shared=recipe.run_folder.parent / ".cache",
    )


def _checked(hosts: Sequence[str]) -> list[str]:
    try:
        return [checked_host(name) for name in hosts]
    except ValueError as error:
        raise UsageError(str(error)) from error


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

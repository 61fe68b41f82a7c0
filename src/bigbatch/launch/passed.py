"""What travels from a launcher to the processes it starts: never in a command line, where every user of a machine can
read it (`ps`), and never so that a part of it can be lost without a word.

Changed keys go in one variable, settings in their own; to another machine both go through standard input. What was
resolved here lies, as digests, in the launch folder, and each worker compares it with what it has resolved itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bigbatch.documents import checked
from bigbatch.errors import MachineError, UsageError
from bigbatch.recipe.layers import (
    CHANGES_VARIABLE,
    ENVIRONMENT_PREFIX,
    HOST_VARIABLE,
    MEETING_VARIABLE,
    WORKER_VARIABLE,
)
from bigbatch.stored import Damaged, json_value, read_object
from bigbatch.written import replace_text

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe

CHANGES_WORD = "@changes"
"""Stands in a command line for the `key=value` words in the variable."""
RESOLVED = "resolved.json"
_SETTINGS = ("PYTHONPATH", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "XDG_CACHE_HOME")
_PREFIXES = ("GLOO_", "NCCL_", "TORCH_", "HF_", "TRANSFORMERS_")
_CREDENTIALS = frozenset({"TOKEN", "KEY", "SECRET", "PASSWORD"})
_LAUNCHERS_OWN = {
    ("launch", name) for name in ("kind", "hosts", "slurm", "max_restarts", "min_nodes", "max_requeues")
}
"""What only a launcher reads; its site file may say it where the hosts' does not."""


def stowed(words: Sequence[str], changes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words of a worker without the changed keys, and the variable that brings these.

    Args:
        words: the command, the recipe, options.
        changes: `key=value` words.
    """
    if not changes:
        return list(words), {}
    return [*words[:2], CHANGES_WORD, *words[2:]], {CHANGES_VARIABLE: json.dumps(list(changes))}


def unstowed(changes: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The other way round.

    Raises:
        UsageError: the variable did not come along, or holds something else.
    """
    if CHANGES_WORD not in changes:
        return list(changes)
    if CHANGES_VARIABLE not in environ:
        raise UsageError(
            f"the changed keys did not come along: {CHANGES_VARIABLE} is not in this process's environment; "
            "whatever starts it must pass the environment on (sbatch, srun: --export=ALL)"
        )
    at = list(changes).index(CHANGES_WORD)
    try:
        came: list[str] = checked(json_value(environ[CHANGES_VARIABLE]), list[str])
    except Damaged as error:
        raise UsageError(f"{CHANGES_VARIABLE} {error}; expected what a launcher of bigbatch wrote") from None
    return [*changes[:at], *came, *changes[at + 1 :]]


def settings_of(environ: Mapping[str, str]) -> dict[str, str]:
    """What is passed on to other machines: every key of the recipe, and settings of libraries, but no credentials."""
    return {name: value for name, value in environ.items() if _is_passed_on(name)}


def _is_passed_on(name: str) -> bool:
    if name.startswith(ENVIRONMENT_PREFIX):
        return name not in (WORKER_VARIABLE, HOST_VARIABLE, MEETING_VARIABLE)
    library = name.startswith(_PREFIXES) and not _CREDENTIALS & set(name.split("_"))
    return name in _SETTINGS or library


# ---------------------------------------------------------------- the same recipe on both sides


def resolved_keys(recipe: Recipe) -> dict[str, str]:
    """Dotted key -> digest of its value, for all that a worker may read of a recipe."""
    found: dict[str, str] = {}

    def walk(value: object, path: tuple[str, ...]) -> None:
        if path in _LAUNCHERS_OWN:
            return
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(inner, (*path, str(key)))
            return
        text = json.dumps(value, sort_keys=True, default=str)
        found[".".join(path)] = hashlib.sha256(text.encode()).hexdigest()[:16]

    # The whole schema, which --help has no use for.
    from bigbatch.recipe.load import recipe_values

    walk(recipe_values(recipe), ())
    return found


def refuse_other_keys(here: Mapping[str, str], there: Mapping[str, str], who: str) -> None:
    """`here`, of the launcher, must be what another process resolved.

    Args:
        here: key of the recipe -> digest of its value.
        there: the same of the other process.
        who: that process, as the message names it.

    Raises:
        UsageError: naming the keys.
    """
    differing = sorted(key for key in {*here, *there} if here.get(key) != there.get(key))
    if differing:
        raise UsageError(
            f"{who} reads another recipe than the launcher has: {', '.join(differing)} differ; expected the same "
            f"files, site file and {ENVIRONMENT_PREFIX}* variables on both sides"
        )


def write_resolved(folder: Path, recipe: Recipe) -> None:
    """Before workers are started: what the launcher has resolved."""
    replace_text(folder / RESOLVED, json.dumps(resolved_keys(recipe)), durable=False)


def refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    """In a worker: its recipe is the launcher's.

    Args:
        folder: the launch folder; of a launcher that has no recipe of its own to compare, it holds nothing of this.
        recipe: loaded here.

    Raises:
        UsageError: naming the keys that differ.
        MachineError: what the launcher wrote is damaged.
    """
    path = folder / RESOLVED
    try:
        launchers = checked(read_object(path), dict[str, str])
    except FileNotFoundError:
        return
    except (OSError, Damaged) as error:
        raise MachineError(f"{path}, which the launcher wrote, cannot be used: {error}") from None
    refuse_other_keys(launchers, resolved_keys(recipe), "this process")

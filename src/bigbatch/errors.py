"""Every error that bigbatch raises on purpose, and the exit code that each one maps to.

::

    BigbatchError                  1   a bug, when raised as itself
    ├── UsageError                 2   what the user typed or brought is wrong; nothing was started
    │   ├── RecipeError            2   the recipe: all problems at once, each with file and line
    │   ├── DataError              2   the data: file, row, byte offset
    │   └── ModelError             2   the model or tokenizer
    ├── DoesNotFit                 3   the plan needs more memory than there is; names what would fit
    ├── GateMissed                 4   training finished, a `gate` metric is below its bar
    ├── Diverged                   5   non-finite losses, `guard.patience` in a row
    └── MachineError               6   worker, host, disk, lock or port: a scheduler should retry
        ├── RunLocked              6
        ├── PeerFailed             6   another rank failed; its own error says why
        ├── DiskError              6   read-only, full, or too small
        └── CheckpointError        6   no checkpoint could be read, or one could not be written

A process that was interrupted exits with 130 (SIGINT) or 143 (SIGTERM); that is a status, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"]+@")
_SIGNATURES = re.compile(r"(?<=://)([^\s?'\"]+)\?[^\s'\"]+")


def without_credentials(text: str) -> str:
    """A text without the user's name and password in addresses, and without their queries, which may sign them:
    libraries repeat those of a hub or a proxy.
    """
    return _SIGNATURES.sub(r"\1", _CREDENTIALS.sub("", text))


class BigbatchError(Exception):
    """Base of all errors raised by bigbatch; `exit_code` is what the command line exits with."""

    exit_code = EXIT_BUG

    def __init__(self, *words: object) -> None:
        super().__init__(*(without_credentials(each) if isinstance(each, str) else each for each in words))


class UsageError(BigbatchError):
    """The recipe, the data, the model or the command is wrong. Nothing was started or overwritten."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where: `recipe.yaml:12: optimizer.lrr: unknown key; did you mean …`."""

    where: str
    """`file:line`, an environment variable, or `command line`."""
    key: str = ""
    """Dotted recipe key, or a column name; empty when there is none."""
    what: str
    """What was found, what was expected and, where there is one, the nearest right name."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class _Listed(UsageError):
    """A UsageError that carries all problems found, not only the first."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems: tuple[Problem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, self.problems)))


class RecipeError(_Listed):
    """The recipe cannot be run; `problems` lists everything that is wrong with it."""


class DataError(_Listed):
    """The data cannot be used; `problems` lists the places."""


class ModelError(UsageError):
    """The model or tokenizer cannot be used as asked."""


class DoesNotFit(BigbatchError):
    """The plan's memory prediction exceeds what the machine has; the message names what would fit."""

    exit_code = 3


class GateMissed(BigbatchError):
    """Training finished but a metric named in `gate` is below its bar."""

    exit_code = 4


class Diverged(BigbatchError):
    """`guard.patience` updates in a row had a non-finite loss or gradient."""

    exit_code = 5


class MachineError(BigbatchError):
    """Something outside the recipe failed: a worker, host, disk, lock or port. Retrying can help."""

    exit_code = 6


class RunLocked(MachineError):
    """Another live process owns the run directory."""


class PeerFailed(MachineError):
    """Another rank failed or is gone; this one cannot go on without it."""


class DiskError(MachineError):
    """The run directory cannot be written: permission, no space, or too small a disk."""


class CheckpointError(MachineError):
    """No complete checkpoint could be read, or one could not be written."""

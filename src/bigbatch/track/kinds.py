"""The trackers that there are, and what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from bigbatch.errors import UsageError
from bigbatch.protocols import Json
from bigbatch.recipe.machine import TRACKERS
from bigbatch.track.entries import Entry


@dataclass(frozen=True, kw_only=True)
class About:
    """What a tracker is told of a run once."""

    folder: Path
    id: str
    """The run's own, the same after a resume."""
    name: str
    project: str
    """The name of the folder that the run directory is in."""
    settings: Mapping[str, str]
    """The recipe, resolved, under dotted keys."""
    plan: Mapping[str, str]
    """Each choice of the plan: value, reason."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What a run came to."""

    state: str
    """`finished`, `interrupted` or `failed`; `running` when it was not waited for."""
    figures: Mapping[str, float]
    """`final/test/f1_macro`, …, of result.json."""
    files: Sequence[Path]
    """Plain files of the run directory: recipe, plan, evaluation tables, report, and what is in `model/`."""


class Tracker(Protocol):
    """One way to write a run down elsewhere. What `send` returns is kept, and given to the next process's `open`."""

    def open(self, about: About, kept: Json) -> bool:
        """Begin, or go on. What a killed process wrote after `kept` is taken back, or is known not to count twice.

        Args:
            about: the run.
            kept: what the last `send` returned that was remembered; None: nothing was sent.

        Returns:
            Whether all records have to be sent from the first on.
        """
        ...

    def send(self, entries: Sequence[Entry]) -> Json:
        """Write records down; they survive this process from then on, as far as the tracker can do that."""
        ...

    def finish(self, ending: Ending) -> Json:
        """Write down what the run came to, and close. A run that goes on later is opened again."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is installed for it, and where it is."""

    modules: tuple[str, ...]
    where: str
    """Module and class."""


KINDS: Mapping[str, Kind] = {
    "tensorboard": Kind(modules=("tensorboardX",), where="bigbatch.track.tensorboard:EventFiles"),
    "wandb": Kind(modules=("wandb",), where="bigbatch.track.wandb:Wandb"),
    "mlflow": Kind(modules=("mlflow", "sqlalchemy", "alembic"), where="bigbatch.track.mlflow:Mlflow"),
    "trackio": Kind(modules=("trackio",), where="bigbatch.track.trackio:Trackio"),
}
assert tuple(KINDS) == TRACKERS


def check_kind(kind: str) -> None:
    """Whether there is such a tracker, and its library.

    Raises:
        UsageError: with what to install.
    """
    if kind not in KINDS:
        raise UsageError(f"--to {kind}: there is no such tracker; there are {', '.join(KINDS)}")
    missing = [name for name in KINDS[kind].modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{kind} needs {' and '.join(missing)}, not installed: pip install 'bigbatch[{kind}]'"
        )


def tracker_of(kind: str) -> Tracker:
    """The tracker; its library is loaded now.

    Raises:
        UsageError: none of this name, or its library is missing.
    """
    check_kind(kind)
    module, _, name = KINDS[kind].where.partition(":")
    return cast(Callable[[], Tracker], getattr(import_module(module), name))()

"""`distributed_train`: what Python brought goes into a folder, workers open it and train, the run comes back."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from bigbatch.documents import Name, State, checked
from bigbatch.errors import (
    EXIT_DONE,
    BigbatchError,
    Diverged,
    DoesNotFit,
    GateMissed,
    MachineError,
    UsageError,
)
from bigbatch.launch.endings import INTERRUPTED
from bigbatch.launch.start import launched
from bigbatch.stored import Damaged, read_object
from bigbatch.written import make_folders, replace_text

if TYPE_CHECKING:
    from bigbatch.recipe.schema import Recipe
    from bigbatch.run.run import Run

_ENDED = "ended.json"


class _EndedFile(TypedDict):
    """ended.json."""

    path: Name
    status: State
    signal: int | None


_ERRORS: tuple[type[BigbatchError], ...] = (UsageError, DoesNotFit, GateMissed, Diverged, MachineError)


def train_sent(
    recipe: Recipe,
    arguments: Mapping[str, Any],
    *,
    ranks: int | str | None,
    nodes: Sequence[str],
) -> Run | None:
    """Train in other processes.

    Args:
        recipe: that the arguments stand for.
        arguments: of `bigbatch.train`.
        ranks: over all machines.
        nodes: machines; none: this one.

    Returns:
        The run; None when this process is all it takes.

    Raises:
        BigbatchError: what the rank that failed first raised, by its exit code.
    """
    from bigbatch.launch.bundle import pack

    shared = recipe.run_folder.parent / ".cache"
    make_folders(shared)
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sent-", dir=shared) as temporary:
        folder = Path(temporary).resolve()
        pack(folder, arguments)
        code = launched(recipe, ["worker", str(folder)], ranks, os.environ, said.append, hosts=nodes)
        if code is None:
            return None
        content = _ended(folder / _ENDED)
    wrong = code not in (EXIT_DONE, *INTERRUPTED)
    if wrong or content is None:
        kind = next((each for each in _ERRORS if each.exit_code == code), BigbatchError)
        raise kind("\n".join(said[-1:]) or f"the workers ended with {code}")
    return _run(content, arguments)


def _ended(path: Path) -> _EndedFile | None:
    """What rank 0 left; None where it could not, or where the file is damaged."""
    try:
        return checked(read_object(path), _EndedFile)
    except (OSError, Damaged):
        return None


def _run(content: _EndedFile, arguments: Mapping[str, Any]) -> Run:
    from bigbatch.build.live import give_back
    from bigbatch.run.run import Run
    from bigbatch.store.directory import RunDirectory

    run = Run(RunDirectory(Path(content["path"]), writes=False))
    run.status, run.signal = content["status"], content["signal"]
    module = arguments["model_or_recipe"]
    if run.status == "finished" and hasattr(module, "parameters") and hasattr(module, "forward"):
        give_back(run.path, module, lambda text: None)
    return run


def train_received(folder: Path, train: Callable[[Mapping[str, object]], Run], opened: Sequence[Run]) -> Run:
    """One worker's part: open the folder, train, and let rank 0 say where the run is.

    Args:
        folder: of `pack`.
        train: given the arguments.
        opened: the run, as soon as there is one.
    """
    from bigbatch.launch.bundle import unpack

    try:
        return train(unpack(folder))
    finally:
        if opened and opened[0].leads:
            run = opened[0]
            said = {"path": str(run.path.absolute()), "status": run.status, "signal": run.signal}
            replace_text(folder / _ENDED, json.dumps(said), durable=False)

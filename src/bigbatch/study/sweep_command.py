"""`bigbatch sweep`: from words to a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from bigbatch.errors import UsageError
from bigbatch.launch.place import place_of
from bigbatch.study.points import read_axis
from bigbatch.study.sweep import Outcome, Sweep, run_sweep
from bigbatch.units import parse_quantity

SWEEPS = Path("sweeps")


def sweep_command(
    recipe: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    over: Sequence[str],
    parallel: int = 1,
    budget: str | None = None,
    name: str | None = None,
    metric: str | None = None,
    drop_weights: bool = False,
    environ: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Train every combination of the axes' values, each in a run directory of its own.

    Args:
        recipe: what all points share.
        overrides: `key=value` words for all points.
        over: axes: `batch.samples=16,64,256`.
        parallel: runs at a time.
        budget: no run is started after this long, such as `60 min`.
        name: of the folder in `sweeps/`; None: the recipe's.
        metric: what the report shows: `f1_macro`, or of one split `test.f1_macro`.
        drop_weights: remove checkpoints and model of each run once it has its result.
        environ: where `BIGBATCH_*` keys are read from.
        say: told of each start and end.

    Raises:
        UsageError: words that make no sense, or another sweep of that name.
        RecipeError: a point's recipe is wrong; nothing is started.
    """
    refuse_inside_a_group(environ, "sweep")
    words = ["bigbatch", "sweep", str(recipe), *overrides]
    for axis in over:
        words += ["--over", axis]
    words += optional_words(parallel=parallel, budget=budget, name=name, metric=metric)
    words += ["--drop-weights"] if drop_weights else []
    sweep = Sweep(
        recipe=Path(recipe),
        changes=tuple(overrides),
        axes=tuple(read_axis(word) for word in over),
        folder=folder_of(recipe, name),
        parallel=parallel,
        budget_seconds=seconds_of(budget),
        figure=metric,
        drop_weights=drop_weights,
        command=shlex.join(words),
    )
    outcome = run_sweep(sweep, environ=environ, say=say)
    say(f"{sweep.folder / 'results.csv'}, {sweep.folder / 'report.html'}")
    return outcome


def refuse_inside_a_group(environ: Mapping[str, str] | None, command: str) -> None:
    """A sweep starts processes itself; several copies of it would fight over the points.

    Raises:
        UsageError: it was started as one of several processes.
    """
    if place_of(environ or {}) is not None:
        raise UsageError(
            f"bigbatch {command} starts its runs itself: start it once, without torchrun or srun; "
            "plan.ranks=N gives each run N processes"
        )


def folder_of(recipe: str | PathLike[str], name: str | None) -> Path:
    """`sweeps/NAME`.

    Raises:
        UsageError: a name that is a path.
    """
    name = Path(recipe).stem if name is None else name
    if not name or name in (".", "..") or Path(name).name != name:
        raise UsageError(f"--name {name}: expected a folder's name, without slashes")
    return SWEEPS / name


def seconds_of(budget: str | None) -> float | None:
    """`60 min` in seconds.

    Raises:
        UsageError: no time.
    """
    if budget is None:
        return None
    try:
        return parse_quantity(budget, ("s",)).amount
    except ValueError as error:
        raise UsageError(f"--budget: {error}") from error


def optional_words(**options: object) -> list[str]:
    """`--name value` of each option that is not at its default."""
    words = []
    for name, value in options.items():
        if value is not None and not (name == "parallel" and value == 1):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words

"""What Python and the command line call: thin. Builds a recipe, opens the run, hands observers down, reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from bigbatch.errors import GateMissed, UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.references import is_reference
from bigbatch.recipe.schema import Recipe
from bigbatch.report.compare import Comparison, compare_runs
from bigbatch.report.html import write_report
from bigbatch.report.read import RunData, read_run
from bigbatch.run.inputs import Live
from bigbatch.run.run import Run
from bigbatch.run.start import Wishes, open_run, plan_lines
from bigbatch.track.console import ConsoleObserver
from bigbatch.track.observers import load_observers

PathOrText = str | PathLike[str]


def train(
    model_or_recipe: Any,
    train_dataset: Any = None,
    val_dataset: Any = None,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    task: Any = None,
    columns: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    loss: Any = None,
    metrics: Sequence[Any] = (),
    observers: Sequence[Any] = (),
    set: Mapping[str, Any] = {},  # noqa: B006 - read only; the name is the contract's
    run_dir: PathOrText | None = None,
) -> Run:
    """Train a model and return the finished (or interrupted) run.

    Args:
        model_or_recipe: a recipe (file, mapping or `Recipe`), or a model: a torch module, a folder, a hub name.
        train_dataset: files, list of dicts, pandas, `datasets.Dataset` or map-style torch dataset. With a
            recipe it replaces `data.train`.
        val_dataset: the same for validation, or a share of the training data such as 0.1.
        epochs: passes over the training data.
        batch_size: the global batch: samples per update, however they are split.
        lr: peak learning rate.
        task: name, options (`{"name": "classify", "kind": "multi"}`), import reference or `Task` object.
        columns: role -> column, such as `{"text": "review", "label": "stars"}`.
        tokenizer: for a live model and untokenised rows.
        loss: name, import reference, or a function `(logits, targets) -> one value per unit`.
        metrics: names, import references, or functions `(predictions, targets) -> float`.
        observers: functions `Record -> Stop | Save | Evaluate | None`, or import references.
        set: further recipe keys, dotted: `{"optimizer.name": "lamb"}`.
        run_dir: the run directory.

    Returns:
        The run: `.metrics`, `.plan`, `.model`, `.status`, `.predict([...])`.

    Raises:
        BigbatchError: see `bigbatch.errors`. An interrupted run is returned, not raised.

    Example:
        ::

            run = bigbatch.train(model, rows, 0.1, tokenizer=tokenizer, epochs=3, batch_size=256)
            run.predict(["great flight"])
    """
    arguments = dict(locals())
    with start(**arguments) as run:
        for _ in run:
            pass
    if run.error is not None:
        raise run.error
    return run


def start(
    model_or_recipe: Any,
    train_dataset: Any = None,
    val_dataset: Any = None,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    task: Any = None,
    columns: Mapping[str, str] | None = None,
    tokenizer: Any = None,
    loss: Any = None,
    metrics: Sequence[Any] = (),
    observers: Sequence[Any] = (),
    set: Mapping[str, Any] = {},  # noqa: B006
    run_dir: PathOrText | None = None,
    console: Any = None,
) -> Run:
    """As `train`, but returns the run before its first update: iterate over it for its records.

    Example:
        ::

            with bigbatch.start("recipe.yaml", set={"batch.samples": 4096}) as run:
                for record in run:
                    ...
    """
    keys: dict[str, Any] = {}
    keys |= {} if epochs is None else {"epochs": epochs}
    keys |= {} if batch_size is None else {"batch": batch_size}
    keys |= {} if lr is None else {"optimizer.lr": lr}
    keys |= {} if columns is None else {"data.columns": dict(columns)}
    keys |= {} if run_dir is None else {"run.dir": str(run_dir)}
    keys |= {"task": task} if isinstance(task, (str, Mapping)) else {}
    keys |= {"loss": loss} if isinstance(loss, (str, Mapping)) else {}
    names = [metric for metric in metrics if isinstance(metric, str)]
    keys |= {"metrics": names} if names else {}
    references = [observer for observer in observers if isinstance(observer, str)]
    keys |= {"observers": references} if references else {}
    if isinstance(val_dataset, float):
        keys["data.validation"] = val_dataset
    module = model_or_recipe if _is_module(model_or_recipe) else None
    live = Live(
        module=module,
        tokenizer=tokenizer,
        train=train_dataset,
        validation=None if isinstance(val_dataset, float) else val_dataset,
        task=None if isinstance(task, (str, Mapping)) else task,
        loss=None if isinstance(loss, (str, Mapping)) else loss,
        metrics=tuple(metric for metric in metrics if not isinstance(metric, str)),
    )
    recipe = _recipe(model_or_recipe, live, {**keys, **set})
    return open_with_observers(
        recipe, live, observers=[found for found in observers if not isinstance(found, str)], console=console
    )


def _is_module(found: Any) -> bool:
    return hasattr(found, "parameters") and hasattr(found, "forward")


def _recipe(found: Any, live: Live, keys: Mapping[str, Any]) -> Recipe:
    """The recipe that a file, a mapping, a model name or a live model stands for."""
    if isinstance(found, Recipe):
        if keys:
            raise UsageError("a Recipe object is complete: change it, or give a file or a mapping instead")
        return found
    if isinstance(found, Mapping):
        return load_recipe(found, keys)
    if live.module is None and not _names_a_model(found, live):
        return load_recipe(found, keys)
    model: dict[str, Any] = {"name": None if live.module is not None else str(found)}
    base: dict[str, Any] = {"model": model, "data": {"train": []}}
    return load_recipe(base, keys)


def _names_a_model(found: PathOrText, live: Live) -> bool:
    """A folder, or a name without a recipe's ending when the data comes from Python."""
    path = Path(found)
    if path.suffix in (".yaml", ".yml"):
        return False
    if live.train is None:
        raise UsageError(f"{found}: expected a recipe (.yaml), or a model together with train_dataset")
    return True


def open_with_observers(
    recipe: Recipe,
    live: Live | None = None,
    *,
    observers: Sequence[Any] = (),
    console: ConsoleObserver | None = None,
    **wishes: Any,
) -> Run:
    """Open a run with the recipe's observers, the caller's and the console's, and a report at its end."""
    run_events: list[Any] = []
    watching = load_observers([*recipe.observers, *observers], recipe.base, run_events.append)
    if console is not None:
        watching = [console, *watching]
        wishes.setdefault("say", console.say)
        wishes.setdefault("planned", console.planned)
    run = open_run(
        recipe,
        live or Live(),
        Wishes(observers=watching, extra_events=run_events, finished=write_report, **wishes),
    )
    if run.status == "finished" and not (run.path / "report.html").exists():
        write_report(run.path)
    return run


def train_command(
    recipe: PathOrText,
    overrides: Sequence[str] = (),
    *,
    resume: bool | None = None,
    continue_from: str | None = None,
    allow: Sequence[str] = (),
) -> Run:
    """`bigbatch train`: as `train`, with a console.

    Raises:
        GateMissed: after everything is written.
    """
    console = ConsoleObserver()
    try:
        run = open_with_observers(
            load_recipe(recipe, overrides),
            console=console,
            resume=bool(resume),
            continue_from=None if continue_from is None else Path(continue_from),
            allow=allow,
        )
        with run:
            for _ in run:
                pass
    finally:
        console.close()
    if isinstance(run.error, GateMissed):
        raise run.error
    return run


def plan(
    recipe: PathOrText, overrides: Sequence[str] = (), *, say: Callable[[str], None] = lambda text: None
) -> list[str]:
    """What would run, how long, how much memory and why, as lines to print; writes no run directory.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory.
    """
    return plan_lines(load_recipe(recipe, overrides), Live(), say)


def read(run: PathOrText) -> RunData:
    """The records and files of a run, finished or not."""
    return read_run(Path(run))


def report(run: PathOrText) -> Path:
    """Write `RUN/report.html` anew; returns its path."""
    return write_report(Path(run))


def compare(runs: Sequence[PathOrText]) -> Comparison:
    """Recipes, results and curves of several runs side by side."""
    return compare_runs([Path(run) for run in runs])


__all__ = ["compare", "is_reference", "plan", "read", "report", "start", "train", "train_command"]

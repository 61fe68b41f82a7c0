"""What Python and the command line call: thin. Builds a recipe, opens the run, hands observers down, reports.

Rooms that load torch are imported inside the functions, behind everything that can be refused without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.errors import UsageError
from bigbatch.recipe.load import load_recipe, recipe_values
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Event
from bigbatch.report.compare import compare_runs, write_comparison
from bigbatch.report.html import write_report
from bigbatch.report.read import RunData, read_run
from bigbatch.track.console import ConsoleObserver, console_if_watched
from bigbatch.track.observers import load_observers

if TYPE_CHECKING:
    from bigbatch.run.build import Parts
    from bigbatch.run.inputs import Live
    from bigbatch.run.run import Run

PathOrText = str | PathLike[str]
SHORT = {
    "epochs": "epochs",
    "batch_size": "batch",
    "lr": "optimizer.lr",
    "columns": "data.columns",
    "run_dir": "run.dir",
}
"""Arguments of `train` that are another spelling of a recipe key."""


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
    set: Mapping[str, Any] = {},
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
    asked = dict(locals())
    return _exhaust(lambda console: _open(console=console, **asked), console_if_watched())


def distributed_train(
    model: Any,
    train_dataset: Any = None,
    val_dataset: Any = None,
    nodes: Sequence[str] | None = None,
    *,
    ranks: int | None = None,
    launcher: str = "auto",
    **as_train: Any,
) -> Run:
    """As `train`, on several processes or machines: planned, so that today one process here is all it takes.

    Args:
        model: a model, or a recipe.
        train_dataset: as for `train`.
        val_dataset: as for `train`.
        nodes: machines; None or this one alone.
        ranks: processes; None or 1.
        launcher: who starts them; `auto` or `local`.
        as_train: further arguments of `train`.

    Raises:
        UsageError: more than one process; nothing is trained on fewer than were asked for.
    """
    here = nodes is None or list(nodes) == ["localhost"]
    if not here or ranks not in (None, 1) or launcher not in ("auto", "local"):
        raise UsageError(
            "distributed_train on several processes or machines is planned, not built yet; today: ranks=1 here. "
            "The result would be the same: a batch does not depend on how many share it"
        )
    return train(model, train_dataset, val_dataset, **as_train)


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
    set: Mapping[str, Any] = {},
    run_dir: PathOrText | None = None,
) -> Run:
    """As `train`, but returns the run before its first update: iterate over it for its records.

    Example:
        ::

            with bigbatch.start("recipe.yaml", set={"batch.samples": 4096}) as run:
                for record in run:
                    ...
    """
    return _open(console=None, **dict(locals()))


def _open(
    model_or_recipe: Any,
    train_dataset: Any,
    val_dataset: Any,
    *,
    task: Any,
    loss: Any,
    metrics: Sequence[Any],
    observers: Sequence[Any],
    tokenizer: Any,
    console: ConsoleObserver | None,
    set: Mapping[str, Any],
    **short: Any,
) -> Run:
    """`start` with its arguments sorted: what a recipe can say goes there, what only Python has goes beside it."""
    keys: dict[str, Any] = {SHORT[name]: _plain(value) for name, value in short.items() if value is not None}
    keys |= {"task": task} if isinstance(task, (str, Mapping)) else {}
    keys |= {"loss": loss} if isinstance(loss, (str, Mapping)) else {}
    names = [metric for metric in metrics if isinstance(metric, str)]
    keys |= {"metrics": names} if names else {}
    references = [observer for observer in observers if isinstance(observer, str)]
    keys |= {"observers": references} if references else {}
    if isinstance(val_dataset, float):
        keys["data.validation"] = val_dataset
    from bigbatch.run.inputs import Live

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
    own = [observer for observer in observers if not isinstance(observer, str)]
    return open_with_observers(recipe, live, observers=own, console=console)


def _exhaust(opened: Callable[[ConsoleObserver | None], Run], console: ConsoleObserver | None) -> Run:
    """Run to the end, then say where the results are; a missed gate is raised once everything is written."""
    try:
        with opened(console) as run:
            for _ in run:
                pass
    finally:
        if console is not None:
            console.close()
    if console is not None:
        for line in last_lines(run):
            console.say(line)
    if run.error is not None:
        raise run.error
    return run


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, PathLike) else dict(value) if isinstance(value, Mapping) else value


def _is_module(found: Any) -> bool:
    return hasattr(found, "parameters") and hasattr(found, "forward")


def _recipe(found: Any, live: Live, keys: Mapping[str, Any]) -> Recipe:
    """The recipe that a file, a mapping, a model name or a live model stands for."""
    if isinstance(found, Recipe):
        return load_recipe(recipe_values(found), keys).from_source(found.source) if keys else found
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
    live: Live,
    *,
    observers: Sequence[Any] = (),
    console: ConsoleObserver | None = None,
    resume: bool = False,
    continue_from: Path | None = None,
    allow: Sequence[str] = (),
    job_id: str | None = None,
) -> Run:
    """Open a run with the recipe's observers, the caller's and a console; its report is written at its end."""
    from bigbatch.run.start import Wishes, open_run

    side_events: list[Event] = []
    watching = load_observers([*recipe.observers, *observers], recipe.base, side_events.append)
    run = open_run(
        recipe,
        live,
        Wishes(
            resume=resume,
            continue_from=continue_from,
            allow=allow,
            job_id=job_id,
            observers=[console, *watching] if console else watching,
            side_events=side_events,
            say=console.say if console else _silent,
            progress=console.progress if console else None,
            planned=lambda parts: _show_plan(console, parts),
            finished=write_report,
        ),
    )
    if run.status == "finished" and not (run.path / "report.html").exists():
        write_report(run.path)
    return run


def _silent(_text: str) -> None:
    """For callers without a console."""


def _show_plan(console: ConsoleObserver | None, parts: Parts) -> None:
    if console is not None:
        console.start(plan_lines(parts), parts.length.updates, parts.length.samples)


def train_command(
    recipe: PathOrText,
    overrides: Sequence[str] = (),
    *,
    resume: bool | None = None,
    continue_from: str | None = None,
    allow: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Run:
    """`bigbatch train`: as `train`, with a console.

    Raises:
        GateMissed: after everything is written.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    from bigbatch.run.inputs import Live

    def opened(console: ConsoleObserver | None) -> Run:
        return open_with_observers(
            loaded,
            Live(),
            console=console,
            resume=bool(resume),
            continue_from=None if continue_from is None else Path(continue_from),
            allow=allow,
            job_id=(environ or {}).get("SLURM_JOB_ID"),
        )

    return _exhaust(opened, ConsoleObserver())


def last_lines(run: Run) -> list[str]:
    """Where a run's results are, and how to go on."""
    if run.status == "interrupted":
        return [f"interrupted; the same command goes on ({run.path})"]
    return [f"{kind}: {run.path / name}" for kind, name in (("report", "report.html"), ("model", "model"))]


def plan(
    recipe: PathOrText,
    overrides: Sequence[str] = (),
    *,
    audit: bool = False,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """What would run, how long, how much memory and why, as lines to print; writes no run directory.

    `audit` also shows what the plan's number format (bf16, when that is fp32) does to each block of the model.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    from bigbatch.run.inputs import Live
    from bigbatch.run.start import plan_only

    console = ConsoleObserver()
    try:
        return plan_lines(plan_only(loaded, Live(), console.say, console.progress, audit=audit))
    finally:
        console.close()


def plan_lines(parts: Parts) -> list[str]:
    """The plan and what else the user should know, as lines to print."""
    from bigbatch.plan.explain import explain
    from bigbatch.precision.audit import audit_lines

    table = ["", *audit_lines(parts.audit)] if parts.audit is not None else []
    return [*explain(parts.plan), *(f"note: {note}" for note in parts.notes), *table]


def evaluate(
    model: PathOrText, files: Any, *, columns: Mapping[str, str] | None = None
) -> dict[str, float | None]:
    """Loss and metrics of a run, or of a Hugging Face folder, on labelled data.

    Args:
        model: a run directory or a model folder.
        files: one or several files, or any dataset that `train` takes.
        columns: role -> column, where they differ from training's.
    """
    from bigbatch.infer.load import open_model
    from bigbatch.infer.rows import evaluate_rows

    opened = open_model(Path(model))
    result = evaluate_rows(opened, files, Path.cwd(), {**opened.columns, **(columns or {})})
    return {"loss": result.loss, **result.metrics, "samples": result.samples, "seconds": result.seconds}


def predict(model: PathOrText, rows: Iterable[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Labels and probabilities of texts, or of rows with the task's columns, by a run or a model folder."""
    from bigbatch.infer.load import open_model
    from bigbatch.infer.predict import predict_rows

    opened = open_model(Path(model))
    return list(predict_rows(opened.forward, opened.task, opened.tokenizer, rows))


def predict_file(
    model: PathOrText, source: str, out: str = "-", *, columns: Mapping[str, str] | None = None
) -> int:
    """Label a CSV, TSV or JSONL file (`-`: stdin) into a CSV or JSONL file (`-`: stdout), row by row, in order.

    Returns:
        The number of rows.
    """
    from bigbatch.infer import files
    from bigbatch.infer.load import open_model

    places = [None if place == "-" else Path(place) for place in (source, out)]
    return files.predict_file(open_model(Path(model)), places[0], places[1], columns=dict(columns or {}))


def read(run: PathOrText) -> RunData:
    """The records and files of a run, finished or not."""
    return read_run(Path(run))


def report(run: PathOrText) -> Path:
    """Write `RUN/report.html` anew; returns its path."""
    return write_report(Path(run))


def compare(runs: Sequence[PathOrText]) -> tuple[str, Path | None]:
    """Recipes, results and curves of several runs side by side.

    Returns:
        A table as text, and the page with the curves.
    """
    found = compare_runs([Path(run) for run in runs])
    return "\n".join(found.lines()), write_comparison(found, Path(runs[0]).parent / "comparison.html")


@dataclass(frozen=True)
class InitResult:
    """What `init` wrote and what it has to say."""

    path: Path
    lines: list[str]


def init(
    data: Sequence[PathOrText],
    *,
    out: PathOrText = "recipe.yaml",
    model: str | None = None,
    force: bool = False,
) -> InitResult:
    """Look at the data and write a commented recipe that `train` runs as it is.

    Raises:
        UsageError: the recipe exists already.
        DataError: the data cannot be read, or has no text and label columns.
    """
    from bigbatch.data.guess import profile
    from bigbatch.recipe.starter import split_files, write_starter

    typed = tuple(str(path) for path in data)
    found = profile(split_files(typed)["train"])
    return InitResult(Path(out), write_starter(Path(out), found, files=typed, model=model, force=force))

"""From what a caller typed to an open run: the recipe it stands for, who watches, the report at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.errors import UsageError
from bigbatch.frames import said_plainly
from bigbatch.launch.place import note_of_torchrun
from bigbatch.launch.signs import signs_of_life, watched_from_inside
from bigbatch.launch.worker import Worker
from bigbatch.places import Place
from bigbatch.plan.explain import brief
from bigbatch.recipe.load import load_recipe, recipe_values
from bigbatch.recipe.model_facts import ModelChoice, ModelFacts
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.sugar import LENGTH_KEYS
from bigbatch.recipe.values import AUTO
from bigbatch.records import Event, utc_now
from bigbatch.report.console import ConsoleObserver
from bigbatch.report.html import write_report
from bigbatch.report.observers import load_observers
from bigbatch.rules.first_run import Choices, FirstRun, first_run

if TYPE_CHECKING:
    from bigbatch.build.inputs import Live
    from bigbatch.build.parts import Parts
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


def open_sorted(
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
    defaults: Mapping[str, Any] = {},
    resume: bool | None = None,
    compute_metrics: Any = None,
    larger_is_better: bool | None = None,
    quiet: bool = False,
    place: Place | None = None,
    **short: Any,
) -> Run:
    """`start` with its arguments sorted: what a recipe can say goes there, what only Python has goes beside it.

    `defaults` are keys of a recipe that every other argument may overrule.
    """
    keys: dict[str, Any] = {SHORT[name]: _plain(value) for name, value in short.items() if value is not None}
    keys |= {"task": task} if isinstance(task, (str, Mapping)) else {}
    keys |= {"loss": loss} if isinstance(loss, (str, Mapping)) else {}
    names = [metric for metric in metrics if isinstance(metric, str)]
    keys |= {"metrics": names} if names else {}
    references = [observer for observer in observers if isinstance(observer, str)]
    keys |= {"observers": references} if references else {}
    if isinstance(val_dataset, float):
        keys["data.validation"] = val_dataset
    from bigbatch.build.inputs import Live

    module = model_or_recipe if is_module(model_or_recipe) else None
    if task is None and not any(key.partition(".")[0] == "task" for key in {**defaults, **set}):
        keys |= _task_of_head(module)
    live = Live(
        module=module,
        tokenizer=tokenizer,
        train=train_dataset,
        validation=None if isinstance(val_dataset, float) else val_dataset,
        task=None if isinstance(task, (str, Mapping)) else task,
        loss=None if isinstance(loss, (str, Mapping)) else loss,
        metrics=tuple(metric for metric in metrics if not isinstance(metric, str)),
        compute_metrics=compute_metrics,
        larger_is_better=larger_is_better,
    )
    recipe = _recipe(model_or_recipe, live, {**keys, **set}, defaults)
    own = [observer for observer in observers if not isinstance(observer, str)]
    return open_with_observers(
        recipe, live, observers=own, console=console, place=place, resume=bool(resume), quiet=quiet
    )


def _task_of_head(module: Any) -> dict[str, Any]:
    """What a live model's head is for, where nobody names a task and it is not the usual one."""
    from bigbatch.tasks.catalog import task_of_module

    found = None if module is None else task_of_module(module)
    return {} if found in (None, {"name": "classify"}) else {"task": found}


def launch_recipe(model_or_recipe: Any, train_dataset: Any, arguments: Mapping[str, Any]) -> Recipe:
    """The recipe that the arguments of `train` stand for, as far as starting processes needs it."""
    from bigbatch.build.inputs import Live

    keys = {
        SHORT[name]: _plain(value) for name, value in arguments.items() if name in SHORT and value is not None
    }
    live = Live(module=model_or_recipe if is_module(model_or_recipe) else None, train=train_dataset)
    return _recipe(model_or_recipe, live, {**keys, **arguments.get("set", {})}, arguments.get("defaults", {}))


def exhaust(
    opened: Callable[[ConsoleObserver | None], Run],
    console: ConsoleObserver | None,
    again: str = "the same command goes on",
) -> Run:
    """Run to the end, then say where the results are; a missed gate is raised once everything is written.

    `again` is how to go on with a run that was interrupted.
    """
    try:
        with opened(console) as run:
            for _ in run:
                pass
    finally:
        if console is not None:
            console.close()
    if console is not None and run.leads:
        for line in last_lines(run, again):
            console.say(line)
    if run.error is not None:
        raise run.error
    return run


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, PathLike) else dict(value) if isinstance(value, Mapping) else value


def is_module(found: Any) -> bool:
    """Whether it is a live model."""
    return hasattr(found, "parameters") and hasattr(found, "forward")


def _recipe(found: Any, live: Live, keys: Mapping[str, Any], defaults: Mapping[str, Any]) -> Recipe:
    """The recipe that a file, a mapping, a model name or a live model stands for."""
    if isinstance(found, Recipe):
        return load_recipe(recipe_values(found), keys).from_source(found.source) if keys else found
    if isinstance(found, Mapping):
        return load_recipe(found, keys)
    if live.module is None and not _names_a_model(found, live):
        return load_recipe(found, keys)
    model: dict[str, Any] = {"name": None if live.module is not None else str(found)}
    left_open = _left_open([*keys, *defaults])
    base: dict[str, Any] = {**left_open, **defaults, "model": model, "data": {"train": []}}
    return load_recipe(base, keys)


def _left_open(keys: Iterable[str]) -> dict[str, Any]:
    """What the caller says nothing of is decided by the run: length, batch, learning rate."""
    first = {key.partition(".")[0] for key in keys}
    found: dict[str, Any] = {}
    if "sync" in first:  # replicas that train apart need numbers
        return found
    if not first & {*LENGTH_KEYS, "schedule"}:
        found["epochs"] = AUTO
    if "batch" not in first:
        found["batch"] = AUTO
    if "optimizer" not in first:
        found["optimizer"] = {"lr": AUTO}
    return found


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
    place: Place | None = None,
    quiet: bool = False,
) -> Run:
    """Open a run with the recipe's observers, the caller's and a console; its report is written at its end.

    Among several processes rank 0 alone has observers, a console and the report.
    """
    from bigbatch.parallel.enter import enter
    from bigbatch.run.start import Wishes, open_run

    world = enter(place, device=recipe.plan.device, timeout_seconds=recipe.launch.timeout.amount)
    leads = world.rank == 0
    note = note_of_torchrun() if leads else None
    if note is not None:
        print_note(note)
    beat = signs_of_life(place)
    console = console if leads else None
    side_events: list[Event] = []
    specs = [*recipe.observers, *observers] if leads else []
    watching = load_observers(specs, recipe.base, side_events.append)
    run = open_run(
        recipe,
        live,
        Wishes(
            resume=resume,
            continue_from=continue_from,
            allow=allow,
            job_id=job_id,
            world=world,
            place=place,
            beat=beat,
            observers=[console, *watching] if console else watching,
            side_events=side_events,
            say=console.say if console else _silent if leads else _log,
            insist=print_note if leads and not console and not quiet else None,
            progress=console.progress if console else None,
            planned=lambda parts: _show_plan(console, parts),
            finished=write_report,
        ),
    )
    worker = Worker.of()
    if worker is not None:
        worker.log_into(run.path)
    elif run.status == "running":
        watched_from_inside(beat, run.path, world.size)
    if leads and run.status == "finished" and not (run.path / "report.html").exists():
        write_report(run.path)
    return run


def _log(text: str) -> None:
    """For ranks that do not lead: their standard error is a log."""
    print(f"{utc_now()}  {text}", file=sys.stderr, flush=True)


def print_note(text: str) -> None:
    """For people, where there is no console."""
    print(f"bigbatch: note: {text}", file=sys.stderr, flush=True)


def _silent(_text: str) -> None:
    """For callers without a console."""


def _show_plan(console: ConsoleObserver | None, parts: Parts) -> None:
    if console is None:
        return
    from bigbatch.run.about import about, chosen_figure

    lines = brief(parts.plan, about(parts), parts.notes, console.width)
    lines.append(
        f"all {len(parts.plan.choices)} choices, each with its reason: plan.json, or `bigbatch plan`"
    )
    console.start(lines, parts.clocks.length.updates, parts.clocks.length.samples, chosen_figure(parts))


def last_lines(run: Run, again: str) -> list[str]:
    """Where a run's results are, and how to go on; the last line says what the run is worth."""
    if run.status == "interrupted":
        return [f"interrupted; {again} ({run.path})"]
    files = [f"{kind}: {run.path / name}" for kind, name in (("report", "report.html"), ("model", "model"))]
    verdict = (run.result or {}).get("verdict")
    return [*files, f"result: {verdict}"] if verdict else files


@dataclass(frozen=True)
class InitResult:
    """What `init` wrote and what it has to say."""

    path: Path
    lines: list[str]


@said_plainly
def init(
    data: Sequence[PathOrText],
    *,
    out: PathOrText = "recipe.yaml",
    model: str | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> InitResult:
    """Look at the data and write a commented recipe that `train` runs as it is.

    Args:
        data: files, those of validation and test included.
        out: where the recipe goes.
        model: hub name or folder; None: the usual one for the language, or one on this machine where the hub does
            not answer.
        columns: role -> column, such as `{"text": "review", "label": "stars"}`; the rest is guessed.
        force: overwrite an existing recipe.

    Raises:
        UsageError: the recipe exists already, or no task trains such a model.
        DataError: the data cannot be read, or has no text and label columns.
        ModelError: the model's folder cannot be read.
    """
    from bigbatch.data.guess import profile
    from bigbatch.recipe.starter import split_files, write_starter

    typed = tuple(str(path) for path in data)
    found = profile(split_files(typed)["train"], columns=columns)
    choice = _model_of_init(model, found.language, matched="document" in found.columns)
    first = partial(_first_choices, choice.known)
    lines = write_starter(Path(out), found, files=typed, model=choice, force=force, first=first)
    return InitResult(Path(out), lines)


def _first_choices(model: ModelFacts | None, rows: int, validation_rows: int, coupled: bool) -> Choices:
    """What `auto` will stand for, by data and model."""
    known = FirstRun(
        rows=max(rows, 1),
        validation_rows=validation_rows,
        hidden=(model.hidden if model else None) or 768,
        pretrained=model is None or model.weights == "pretrained",
        grows=True,
        coupled=coupled,
    )
    return first_run(known)


def _model_of_init(name: str | None, language: str, *, matched: bool) -> ModelChoice:
    """The model asked for, with what its folder says, or the one that can be had."""
    from bigbatch.model.nearby import facts_of, hub_answers, nearby_models, why_no_hub
    from bigbatch.recipe.starter_model import asked_model, chosen_model

    if name is not None:
        known = facts_of(name)
        why = "" if known else "the hub has no config.json of it" if hub_answers() else why_no_hub()
        return asked_model(name, known, why)
    return chosen_model(
        None if language == "unknown" else language,
        matched=matched,
        nearby=nearby_models(),
        answers=hub_answers,
        why_not=why_no_hub,
    )

"""Training, as Python and the command line call it: builds a recipe, opens the run, hands observers down, reports.

Rooms that load torch are imported inside the functions, behind everything that can be refused without them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from bigbatch.arguments import PathOrText, is_module, launch_recipe, noted, print_note, recipe_and_live
from bigbatch.errors import UsageError
from bigbatch.frames import said_plainly
from bigbatch.garbage import looked_for_seldom
from bigbatch.launch.place import note_of_torchrun, place_of
from bigbatch.launch.sent import train_received, train_sent
from bigbatch.launch.signs import signs_of_life, watched_from_inside
from bigbatch.launch.worker import Worker
from bigbatch.places import Place
from bigbatch.plan.explain import brief
from bigbatch.protocols import Metric, MetricFunction, Observer
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.schema import Recipe
from bigbatch.records import Event, utc_now
from bigbatch.report.console import ConsoleObserver
from bigbatch.report.html import write_report
from bigbatch.report.observers import load_observers
from bigbatch.track.beside import with_trackers

if TYPE_CHECKING:
    from bigbatch.build.inputs import Live
    from bigbatch.build.parts import Parts
    from bigbatch.run.run import Run

P = ParamSpec("P")


@said_plainly
def train(
    model_or_recipe: object,
    train_dataset: object = None,
    val_dataset: object = None,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    task: object = None,
    columns: Mapping[str, str] | None = None,
    tokenizer: object = None,
    loss: object = None,
    metrics: Sequence[str | MetricFunction | Metric] = (),
    observers: Sequence[str | Observer] = (),
    set: Mapping[str, object] = {},
    run_dir: PathOrText | None = None,
    resume: bool | None = None,
    args: object = None,
    computation_eager: bool | None = None,
    compute_metrics: Callable[..., Mapping[str, float]] | None = None,
    callbacks: object = None,
    quiet: bool = False,
) -> Run:
    """Train a model and return the finished (or interrupted) run.

    Args:
        model_or_recipe: a recipe (file, mapping or `Recipe`), or a model: a torch module, a folder, a hub name. A torch
            module is trained itself: afterwards it holds the kept weights, in float32 and evaluation mode.
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
        resume: True insists on going on in the run directory, also with a live model whose weights are no longer
            those that the run began with: the checkpoint's replace them.
        args: `transformers.TrainingArguments`; what they say, every other argument overrules. What cannot be done as
            they say is printed as a note.
        computation_eager: True: the model's own operations one by one, on padded batches; False: compiled blocks;
            None: whichever the plan finds faster. It changes rounding only.
        compute_metrics: a function of `transformers.EvalPrediction`, the logits and labels of a whole split, that gives
            figures by name; they take the place of the task's own, and `best` may name one.
        callbacks: refused, with what does their work here (`observers`).
        quiet: print nothing. Otherwise progress goes to standard error: a line that moves on a terminal, plain lines
            now and then elsewhere.

    Returns:
        The run: `.metrics`, `.plan`, `.model`, `.status`, `.predict([...])`.

    Raises:
        BigbatchError: see `bigbatch.errors`. An interrupted run is returned, not raised.

    Example:
        ::

            run = bigbatch.train(model, rows, 0.1, tokenizer=tokenizer, epochs=3, batch_size=256)
            run.predict(["great flight"])
    """
    return trained(dict(locals()))


@said_plainly
def distributed_train(
    model: object,
    train_dataset: object = None,
    val_dataset: object = None,
    nodes: Sequence[str] | None = None,
    *,
    ranks: int | None = None,
    launcher: str = "auto",
    **as_train: object,
) -> Run:
    """As `train`, on several processes or machines; called in one of them already, it shares the work with the rest.

    Model, rows and settings go into a folder beside the run directory (safetensors, Arrow, JSON), and processes that
    start afresh open it. Code goes by its name: classes and functions are in files that they can import.

    Args:
        model: a Hugging Face model, or a recipe.
        train_dataset: as for `train`.
        val_dataset: as for `train`.
        nodes: machines, as `ssh` knows them, that share this path and a disk; None: this one.
        ranks: processes, over all machines; None: `plan.ranks`, or one for each accelerator of the nodes.
        launcher: who starts them: `local`, `ssh`, or `auto`: by whether there are nodes.
        as_train: further arguments of `train`.

    Raises:
        UsageError: something that a fresh process cannot rebuild, or nodes that differ.
        MachineError: a worker or a node was lost.
    """
    names = [] if nodes is None or list(nodes) == ["localhost"] else list(nodes)
    fitting = {"auto": True, "local": not names, "ssh": bool(names)}
    if not fitting.get(launcher) or (nodes is not None and not list(nodes)):
        raise UsageError(
            f"launcher={launcher!r} with nodes={nodes}: expected auto, local without nodes, or ssh with some"
        )
    arguments = {
        "model_or_recipe": model,
        "train_dataset": train_dataset,
        "val_dataset": val_dataset,
        **as_train,
    }
    unknown = sorted({*as_train} - {*_NOTHING})
    if unknown:
        raise TypeError(f"distributed_train() got an unexpected keyword argument {unknown[0]!r}")
    if place_of() is not None:
        return trained({**_NOTHING, **arguments})
    sorted_out = noted(arguments, ranks=ranks, nodes=len(names))
    recipe = launch_recipe(model, train_dataset, sorted_out)
    asked = ranks if ranks is not None else recipe.plan.ranks
    if names or recipe.launch.hosts or asked not in (None, 1):
        run = train_sent(recipe, sorted_out, ranks=asked, nodes=names)
        if run is not None:
            return run
    return trained({**_NOTHING, **sorted_out})


train_model = train
"""The same under the name that some look for."""


def _called_as(other: Callable[P, object]) -> Callable[[Callable[..., Run]], Callable[P, Run]]:
    """Give a function the arguments of another, for `help`, editors and type checkers."""

    def called(function: Callable[..., Run]) -> Callable[P, Run]:
        function.__signature__ = signature(other)  # type: ignore[attr-defined]
        return function

    return called


@_called_as(train)
@said_plainly
def start(*given: object, **named: object) -> Run:
    """As `train`, but returns the run before its first update: iterate over it for its records.

    Example:
        ::

            with bigbatch.start("recipe.yaml", set={"batch.samples": 4096}) as run:
                for record in run:
                    ...
    """
    try:
        arguments = signature(train).bind(*given, **named).arguments
    except TypeError as error:
        raise TypeError(f"start() {error}") from None
    return open_sorted(console=None, place=place_of(), **noted({**_NOTHING, **arguments}))


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

    Args:
        recipe: a file.
        overrides: `key=value` on top of it.
        resume: True insists on going on in the directory that the recipe names.
        continue_from: run directory to go on from although keys changed.
        allow: the keys that may.
        environ: of this process: `BIGBATCH_*` keys, and what a launcher says of this rank; None: nothing.

    Raises:
        GateMissed: after everything is written.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    with looked_for_seldom():
        from bigbatch.build.inputs import Live

    def opened(console: ConsoleObserver | None) -> Run:
        return open_with_observers(
            loaded,
            Live(),
            console=console,
            resume=bool(resume),
            continue_from=None if continue_from is None else Path(continue_from),
            allow=allow,
            job_id=(environ or {}).get("SLURM_JOB_ID"),
            place=place_of(environ or {}),
        )

    return exhaust(opened, ConsoleObserver())


def worker_command(folder: PathOrText) -> Run:
    """`bigbatch worker`: one process of `distributed_train`."""
    found: list[Run] = []

    def opened(arguments: Mapping[str, Any], console: ConsoleObserver | None) -> Run:
        found.append(open_sorted(console=console, place=place_of(), **arguments))
        return found[0]

    def trained(arguments: Mapping[str, Any]) -> Run:
        given = noted({**_NOTHING, **arguments})
        console = None if given["quiet"] else ConsoleObserver()
        return exhaust(lambda console: opened(given, console), console)

    return train_received(Path(folder), trained, found)


_NOTHING: Mapping[str, object] = {
    name: parameter.default
    for name, parameter in signature(train).parameters.items()
    if name != "model_or_recipe"
}
"""What `train` takes for arguments that were not given."""


# ---------------------------------------------------------------- from a recipe to an open run, and to its end


def trained(asked: Mapping[str, object]) -> Run:
    """`bigbatch.train` with all its arguments by name."""
    arguments, place = noted(asked), place_of()
    with_ = " with resume=True" if is_module(arguments["model_or_recipe"]) else ""
    return exhaust(
        lambda console: open_sorted(console=console, place=place, **arguments),
        None if arguments["quiet"] else ConsoleObserver(),
        f"the same call{with_} goes on",
    )


@looked_for_seldom()
def open_sorted(
    *,
    console: ConsoleObserver | None,
    observers: Sequence[str | Observer] = (),
    resume: bool | None = None,
    quiet: bool = False,
    place: Place | None = None,
    **arguments: Any,
) -> Run:
    """A run of what `train` was given.

    Args:
        console: shows what happens; None: nobody does.
        observers: as `train` has them.
        resume: as `train` has it.
        quiet: print nothing.
        place: of this process among others; None: it is alone.
        **arguments: the others of `train`, by name.
    """
    recipe, live = recipe_and_live(observers=observers, **arguments)
    own = [observer for observer in observers if not isinstance(observer, str)]
    return open_with_observers(
        recipe, live, observers=own, console=console, place=place, resume=bool(resume), quiet=quiet
    )


def exhaust(
    opened: Callable[[ConsoleObserver | None], Run],
    console: ConsoleObserver | None,
    again: str = "the same command goes on",
) -> Run:
    """Run to the end, then say where the results are; a missed gate is raised once everything is written.

    Args:
        opened: opens the run, which shows itself on the console that it is given.
        console: closed at the end; None: nothing is said.
        again: how to go on with a run that was interrupted, as it is told then.
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


@looked_for_seldom()
def open_with_observers(
    recipe: Recipe,
    live: Live,
    *,
    observers: Sequence[str | Observer] = (),
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

    Args:
        recipe: what to compute.
        live: objects of the caller's process.
        observers: of the caller, beside those of the recipe.
        console: shows what happens; None: nobody does.
        resume: insist on going on in the directory that the recipe names.
        continue_from: go on in this directory although keys changed.
        allow: the keys that may.
        job_id: of the batch system, for messages about a directory that is in use.
        place: of this process among others; None: it is alone.
        quiet: print nothing, even where there is no console.
    """
    from bigbatch.parallel.enter import enter
    from bigbatch.run.start import Wishes, open_run

    if recipe.stages:
        from bigbatch.run.stages import open_stages

        ways = {"observers": observers, "console": console, "job_id": job_id, "place": place, "quiet": quiet}
        each = partial(open_with_observers, live=live, **ways)
        say = console.say if console else _silent
        return open_stages(recipe, live, each, place, resume, continue_from, say=say, finished=write_report)
    world = enter(place, device=recipe.plan.device, timeout_seconds=recipe.launch.timeout.amount)
    leads = world.rank == 0
    note = note_of_torchrun() if leads else None
    if note is not None:
        print_note(note)
    beat = signs_of_life(place)
    console = console if leads else None
    side_events: list[Event] = []
    specs, trackers = with_trackers([*recipe.observers, *observers] if leads else [], side_events.append)
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
    for tracker in trackers:
        tracker.folder = run.path
    worker = Worker.of()
    if worker is not None:
        worker.log_into(run.path)
        if world.size > 1:
            beat.also(run.path / "logs")
    elif run.status == "running":
        watched_from_inside(beat, run.path, world.size)
    if leads and run.status == "finished" and not (run.path / "report.html").exists():
        write_report(run.path)
    return run


def _log(text: str) -> None:
    """For ranks that do not lead: their standard error is a log."""
    print(f"{utc_now()}  {text}", file=sys.stderr, flush=True)


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
    places = {"report": run.path / "report.html", "model": run.path / "model"}
    files = [f"{kind}: {place}" for kind, place in places.items() if place.exists()]
    verdict = (run.result or {}).get("verdict")
    return [*files, f"result: {verdict}"] if verdict else files

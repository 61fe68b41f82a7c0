"""What Python and the command line call: thin. Builds a recipe, opens the run, hands observers down, reports.

Rooms that load torch are imported inside the functions, behind everything that can be refused without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from bigbatch.answers import evaluate as evaluate
from bigbatch.answers import predict as predict
from bigbatch.answers import predict_file as predict_file
from bigbatch.errors import UsageError
from bigbatch.frames import said_plainly
from bigbatch.launch.passed import stowed
from bigbatch.launch.place import place_of
from bigbatch.launch.sent import train_received, train_sent
from bigbatch.launch.slurm import shared_folder, slurm_command
from bigbatch.launch.slurm_step import join_step
from bigbatch.launch.start import launched
from bigbatch.opening import InitResult as InitResult
from bigbatch.opening import (
    PathOrText,
    exhaust,
    launch_recipe,
    open_sorted,
    open_with_observers,
)
from bigbatch.opening import init as init
from bigbatch.plan.explain import explain
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.schema import Recipe
from bigbatch.report.compare import compare_runs, write_comparison
from bigbatch.report.console import ConsoleObserver
from bigbatch.report.graph import graph_told
from bigbatch.report.html import write_report
from bigbatch.report.read import RunData, read_run
from bigbatch.usual import noted, trained

if TYPE_CHECKING:
    from bigbatch.run.run import Run
    from bigbatch.study.results import Results
    from bigbatch.study.sweep import Outcome

P = ParamSpec("P")


@said_plainly
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
    resume: bool | None = None,
    args: Any = None,
    computation_eager: bool | None = None,
    compute_metrics: Any = None,
    callbacks: Any = None,
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
    model: Any,
    train_dataset: Any = None,
    val_dataset: Any = None,
    nodes: Sequence[str] | None = None,
    *,
    ranks: int | None = None,
    launcher: str = "auto",
    **as_train: Any,
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


def _called_as(other: Callable[P, Any]) -> Callable[[Callable[..., Run]], Callable[P, Run]]:
    """Give a function the arguments of another, for `help`, editors and type checkers."""

    def called(function: Callable[..., Run]) -> Callable[P, Run]:
        function.__signature__ = signature(other)  # type: ignore[attr-defined]
        return function

    return called


@_called_as(train)
@said_plainly
def start(*given: Any, **named: Any) -> Run:
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


def launch_command(
    recipe: PathOrText,
    overrides: Sequence[str],
    words: Sequence[str],
    *,
    ranks: str | None,
    hosts: Sequence[str] = (),
    python: str | None = None,
    environ: MutableMapping[str, str],
    say: Callable[[str], None],
    slurm: bool = False,
    submit: bool = False,
) -> int | None:
    """`bigbatch train --ranks N --hosts a,b --slurm`: check the recipe, then start the processes.

    Returns:
        Their exit code; None when this process is all it takes.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    words, carried = stowed(words, overrides)
    if slurm or (loaded.launch.kind == "slurm" and place_of(environ) is None):
        if not submit and join_step(environ, shared_folder(loaded)):
            return None
        return slurm_command(loaded, words, ranks, {**environ, **carried}, say, submit=submit)
    return launched(
        loaded, words, ranks, {**environ, **carried}, say, hosts=hosts, python=python, changes=overrides
    )


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


_NOTHING: Mapping[str, Any] = {
    name: parameter.default
    for name, parameter in signature(train).parameters.items()
    if name != "model_or_recipe"
}
"""What `train` takes for arguments that were not given."""


@said_plainly
def plan(
    recipe: PathOrText,
    overrides: Sequence[str] = (),
    *,
    environ: Mapping[str, str] | None = None,
    graph: bool | PathOrText = False,
    audit: bool = False,
    dry_run: bool = False,
    ranks: int | None = None,
    width: int | None = None,
) -> list[str]:
    """What would run, how long, how much memory and why, as lines to print; writes no run directory.

    Args:
        graph: also what one micro-batch computes and what of it nobody reads; a path draws it into that HTML file.
        audit: also what the plan's number format (bf16, when that is fp32) does to each block of the model.
        dry_run: what one of many ranks would hold and send, from shapes alone, instead of measuring this machine.
        ranks: of the dry run; None: `plan.ranks`, or what `plan.mesh` needs.
        width: letters of a terminal's line; None: lines stay whole.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory, or the dry run `plan.memory`.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    if dry_run:
        return _dry(loaded, ranks, width)
    from bigbatch.build.inputs import Live
    from bigbatch.build.only import plan_only

    console = ConsoleObserver()
    try:
        parts = plan_only(loaded, Live(), console.say, console.progress, audit=audit)
        lines = explain(parts.plan, parts.notes, width)
        if parts.audit is not None:
            from bigbatch.probe.audit import audit_lines

            lines += ["", *audit_lines(parts.audit)]
        if graph is False:
            return lines
        from bigbatch.build.graph import analyse_parts

        return [*lines, "", *graph_told(analyse_parts(parts), graph, Path(recipe).stem)]
    finally:
        console.close()


@said_plainly
def prepare(
    recipe: PathOrText, overrides: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> list[str]:
    """Fetch the model, read and check the data, tokenise it into the cache; what is there now, as lines to print.

    For a machine with internet, or one that is cheaper than the cluster: `train` with the same recipe then starts from
    what is kept in Hugging Face's cache and beside the run directories.

    Raises:
        BigbatchError: whatever would stop `train` before its first update for model or data.
    """
    from bigbatch.build.inputs import Live
    from bigbatch.build.only import prepare_only

    console = ConsoleObserver()
    try:
        return prepare_only(
            load_recipe(recipe, overrides, environ=environ), Live(), console.say, console.progress
        )
    finally:
        console.close()


def _dry(recipe: Recipe, ranks: int | None, width: int | None) -> list[str]:
    """The plan of a dry run, and what it found."""
    from bigbatch.build.dry import dry_run
    from bigbatch.plan.dry import dry_lines

    console = ConsoleObserver()
    try:
        parts, found = dry_run(recipe, ranks, console.say, console.progress)
        return [*explain(parts.plan, parts.notes, width), "", *dry_lines(found)]
    finally:
        console.close()


@said_plainly
def read(run: PathOrText) -> RunData:
    """The records and files of a run, finished or not."""
    return read_run(Path(run))


@said_plainly
def report(run: PathOrText) -> Path:
    """Write `RUN/report.html` anew; returns its path."""
    return write_report(Path(run))


@said_plainly
def compare(runs: Sequence[PathOrText]) -> tuple[str, Path | None]:
    """Recipes, results and curves of several runs side by side.

    Returns:
        A table as text, and the page with the curves.
    """
    found = compare_runs([Path(run) for run in runs])
    return "\n".join(found.lines()), write_comparison(found, Path(runs[0]).parent / "comparison.html")


@said_plainly
def bench(recipe: PathOrText, overrides: Sequence[str] = (), **options: Any) -> Results:
    """`bigbatch bench`: speed, memory and start against other trainers on the same samples; see `study.bench`."""
    from bigbatch.study.bench import bench_command

    return bench_command(recipe, overrides, **options)


@said_plainly
def sweep(recipe: PathOrText, overrides: Sequence[str] = (), **options: Any) -> Outcome:
    """`bigbatch sweep`: many runs of one recipe, with a table and figures; see `study.sweep_command`."""
    from bigbatch.study.sweep_command import sweep_command

    return sweep_command(recipe, overrides, **options)


@said_plainly
def scale(recipe: PathOrText, overrides: Sequence[str] = (), **options: Any) -> Outcome:
    """`bigbatch scale`: how large a batch is worth using; see `study.scale`."""
    from bigbatch.study.scale import scale_command

    return scale_command(recipe, overrides, **options)

"""The commands beside training: plan, prepare, init, report, compare, bench, sweep, scale; and what starts processes.

Rooms that load torch are imported inside the functions, behind everything that can be refused without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.arguments import PathOrText
from bigbatch.errors import UsageError
from bigbatch.frames import said_plainly
from bigbatch.launch.parts import in_parts
from bigbatch.launch.passed import stowed
from bigbatch.launch.place import place_of
from bigbatch.launch.slurm import shared_folder, slurm_command
from bigbatch.launch.slurm_step import join_step
from bigbatch.launch.start import launched
from bigbatch.plan.explain import explain
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.model_facts import ModelChoice, ModelFacts
from bigbatch.recipe.schema import Recipe
from bigbatch.report.compare import compare_runs, write_comparison
from bigbatch.report.console import ConsoleObserver
from bigbatch.report.graph import graph_told
from bigbatch.report.html import write_report
from bigbatch.report.notebook import shown
from bigbatch.report.read import RunData, read_run
from bigbatch.rules.first_run import Choices, FirstRun, first_run
from bigbatch.units import show_bytes, show_seconds

if TYPE_CHECKING:
    from bigbatch.study.results import Results
    from bigbatch.study.sweep import Outcome


_TASK_OF_ROLE = {
    "source": "seq2seq", "chosen": "prefer", "document": "match",
    "messages": "chat", "completion": "chat", "output": "chat",
}  # fmt: skip
"""What a column of this role is for, where the usual model depends on it."""


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
    say: Callable[[str], object] | None = None,
    pretrain: Sequence[PathOrText] = (),
) -> InitResult:
    """Look at the data and write a commented recipe that `train` runs as it is.

    Args:
        data: files, those of validation and test included.
        out: where the recipe goes.
        model: hub name or folder; None: the usual one for the language, or one on this machine where the hub does
            not answer.
        columns: role -> column, such as `{"text": "review", "label": "stars"}`; the rest is guessed.
        force: overwrite an existing recipe.
        say: told what is fetched, where the data lie elsewhere.
        pretrain: files of text without labels, which a stage of its own learns first.

    Raises:
        UsageError: the recipe exists already, or no task trains such a model.
        DataError: the data cannot be read, or has no text and label columns.
        ModelError: the model's folder cannot be read.
    """
    from bigbatch.data.guess import profile
    from bigbatch.recipe.starter import split_files, write_starter

    typed = tuple(str(path) for path in data)
    found = profile(split_files(typed)["train"], columns=columns, say=say)
    choice = _model_of_init(model, found.language, found.columns)
    first = partial(_first_choices, choice.known)
    text = profile([str(path) for path in pretrain]) if pretrain else None
    lines = write_starter(
        Path(out), found, files=typed, model=choice, force=force, first=first, pretrain=text
    )
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


def _model_of_init(name: str | None, language: str, columns: Mapping[str, str]) -> ModelChoice:
    """The model asked for, with what its folder says, or the one that can be had."""
    from bigbatch.model.nearby import facts_of, hub_answers, nearby_models, why_no_hub
    from bigbatch.recipe.starter_model import asked_model, chosen_model, model_of_no_text

    if name is not None:
        known = facts_of(name)
        why = "" if known else "the hub has no config.json of it" if hub_answers() else why_no_hub()
        return asked_model(name, known, why)
    if "item" in columns:
        return ModelChoice(name="")  # it is made of the items
    for role in ("boxes", "image", "structure"):
        if role in columns:
            return model_of_no_text(role, hub_answers, why_no_hub)
    return chosen_model(
        None if language == "unknown" else language,
        task=next((task for role, task in _TASK_OF_ROLE.items() if role in columns), "other"),
        nearby=nearby_models(),
        answers=hub_answers,
        why_not=why_no_hub,
    )


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
        recipe: a file.
        overrides: `key=value` on top of it.
        environ: where `BIGBATCH_*` keys are read from; None: nowhere.
        graph: also what one micro-batch computes and what of it nobody reads; a path draws it into that HTML file.
        audit: also what the plan's number format (bf16, when that is fp32) does to each block of the model.
        dry_run: what one of many ranks would hold and send, from shapes alone, instead of measuring this machine.
        ranks: of the dry run; None: `plan.ranks`, or what `plan.mesh` needs.
        width: letters of a terminal's line; None: lines stay whole.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory, or the dry run `plan.memory`.
    """
    loaded = load_recipe(recipe, overrides, environ=environ)
    if loaded.stages:
        if dry_run or audit or graph is not False:
            raise UsageError(
                "--dry-run, --audit and --graph look at one training: write the stage that is meant into a recipe of "
                "its own (RUN/stages/*/recipe.yaml is one)"
            )
        return _plan_of_stages(loaded, width)
    if dry_run:
        return _dry(loaded, ranks, width)
    from bigbatch.build.inputs import Live
    from bigbatch.build.only import plan_only

    with closing(ConsoleObserver()) as console:
        parts = plan_only(loaded, Live(), console.say, console.progress, audit=audit)
        lines = explain(parts.plan, parts.notes, width)
        if parts.audit is not None:
            from bigbatch.probe.audit import audit_lines

            lines += ["", *audit_lines(parts.audit)]
        if graph is False:
            return lines
        from bigbatch.build.graph import analyse_parts

        return [*lines, "", *graph_told(analyse_parts(parts), graph, Path(recipe).stem)]


def _plan_of_stages(recipe: Recipe, width: int | None) -> list[str]:
    """Each stage's plan, the later ones' with the model that the first starts from; the sum of their times."""
    from bigbatch.build.inputs import Live
    from bigbatch.build.only import plan_only, recipe_of

    lines: list[str] = []
    predicted: list[Mapping[str, float]] = []
    with closing(ConsoleObserver()) as console:
        for stage in recipe.stages:
            found = plan_only(recipe_of(stage, recipe.run_folder), Live(), console.say, console.progress)
            lines += [f"stage {stage.number} of {len(recipe.stages)}: {stage.name}"]
            lines += [*explain(found.plan, found.notes, width), ""]
            predicted.append(found.plan.predictions())
    seconds = [each.get(f"{what}_seconds", 0.0) for each in predicted for what in ("train", "evaluate")]
    most = max(each.get("peak_memory_bytes", 0.0) for each in predicted)
    total = f"{show_seconds(sum(seconds))} of training and evaluation, {show_bytes(most)} of memory at most"
    return [*lines, f"all {len(recipe.stages)} stages: {total}, predicted"]


@said_plainly
def prepare(
    recipe: PathOrText, overrides: Sequence[str] = (), *, environ: Mapping[str, str] | None = None
) -> list[str]:
    """Fetch the model, read and check the data, tokenise it into the cache; what is there now, as lines to print.

    For a machine with internet, or one that is cheaper than the cluster: `train` with the same recipe then starts from
    what is kept in Hugging Face's cache and beside the run directories.

    Args:
        recipe: a file.
        overrides: `key=value` on top of it.
        environ: where `BIGBATCH_*` keys are read from; None: nowhere.

    Raises:
        BigbatchError: whatever would stop `train` before its first update for model or data.
    """
    from bigbatch.build.inputs import Live
    from bigbatch.build.only import prepare_only, recipe_of

    loaded, console = load_recipe(recipe, overrides, environ=environ), ConsoleObserver()
    each = [recipe_of(stage, loaded.run_folder) for stage in loaded.stages] or [loaded]
    try:
        return [line for one in each for line in prepare_only(one, Live(), console.say, console.progress)]
    finally:
        console.close()


def tokenize(
    recipe: PathOrText,
    overrides: Sequence[str] = (),
    *,
    out: PathOrText | None = None,
    processes: int = 1,
    part: tuple[int, int] | None = None,
    publish: PathOrText | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """As `prepare`, into a folder of choice and in several processes, for shards; what is there already stays.

    Args:
        recipe: a file.
        overrides: `key=value` on top of it.
        out: the cache (`run.cache`); None: the recipe's.
        processes: that tokenise shards side by side.
        part: which of how many parts this process tokenises, from 0; None: all, as the one that was asked.
        publish: a folder for tokens of shards that other machines stream while they train; None: the cache is filled.
        environ: where `BIGBATCH_*` keys are read from; None: nowhere.

    Raises:
        BigbatchError: whatever would stop `train` before its first update for model or data.
    """
    from bigbatch.build.inputs import Live
    from bigbatch.build.only import fill_only, publish_only

    words = [*overrides, *([] if out is None else [f"run.cache={os.path.abspath(out)}"])]
    loaded = load_recipe(recipe, words, environ=environ)
    if publish is not None:
        with closing(ConsoleObserver()) as console:
            return publish_only(loaded, Live(), Path(publish), console.say, console.progress)
    if part is not None:
        return [f"{fill_only(loaded, Live(), part, lambda text: None)} shards"]
    if processes > 1 and loaded.data.shuffle == "shards":
        in_parts(["tokenize", str(recipe)], words, processes, environ or {})
    lines = prepare(recipe, words, environ=environ)
    return [*lines, f"train with run.cache={loaded.run.cache}"] if loaded.run.cache else lines


def _dry(recipe: Recipe, ranks: int | None, width: int | None) -> list[str]:
    """The plan of a dry run, and what it found."""
    from bigbatch.build.dry import dry_run
    from bigbatch.plan.dry import dry_lines

    with closing(ConsoleObserver()) as console:
        parts, found = dry_run(recipe, ranks, console.say, console.progress)
        return [*explain(parts.plan, parts.notes, width), "", *dry_lines(found)]


@said_plainly
def read(run: PathOrText) -> RunData:
    """The records and files of a run, finished or not."""
    return shown(read_run(Path(run)))


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

    Args:
        recipe: a file.
        overrides: `key=value` on top of it.
        words: what every worker is called with, behind `bigbatch`.
        ranks: of the command line, over all hosts; None: `plan.ranks` of the recipe.
        hosts: of the command line; none: `launch.hosts` of the recipe.
        python: the interpreter on the hosts; None: the path of this one.
        environ: of this process; what joining an allocation's step says of this rank is put into it.
        say: told what the user should know.
        slurm: whether to use an allocation of Slurm's.
        submit: with it: write a batch job and submit it.

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

"""`bigbatch scale`: train to a target with several batches, and say how large a batch is worth using."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from bigbatch.errors import UsageError
from bigbatch.recipe.load import load_recipe
from bigbatch.recipe.schema import Recipe
from bigbatch.recipe.values import AUTO
from bigbatch.report.scale import lines_of, write_scale
from bigbatch.report.sweep import SweepView
from bigbatch.store.durable import atomic_write_json
from bigbatch.study.branch import branch_words
from bigbatch.study.points import Axis
from bigbatch.study.scaling import analyse
from bigbatch.study.sweep import Outcome, Sweep, run_sweep
from bigbatch.study.sweep_command import folder_of, optional_words, refuse_inside_a_group, seconds_of
from bigbatch.study.targets import Target, read_target

_NEVER = "1000000000 evaluations"


def scale_command(
    recipe: str | PathLike[str],
    overrides: Sequence[str] = (),
    *,
    batches: str,
    target: str,
    seeds: str = "0,1,2",
    start: str | None = None,
    every: str = "0.05 epochs",
    parallel: int = 1,
    budget: str | None = None,
    name: str | None = None,
    drop_weights: bool = False,
    environ: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Train with each batch and seed until the target, fit the trade-off, and recommend a batch.

    A run ends at the target, or when the recipe's length is used up: its epochs are the limit for every batch.

    Args:
        recipe: what all runs share. Its `optimizer.lr_rule` and `base_batch` say what happens to the learning rate.
        overrides: `key=value` words for all runs.
        batches: such as `16,64,256,1024`, in the unit of the recipe's batch.
        target: `f1_macro=.75`: a figure of the validation data.
        seeds: repetitions of each batch.
        start: a run, one of its checkpoints, or a model folder whose weights all runs start from.
        every: how often the target is looked at; a batch larger than that is evaluated after each update.
        parallel: runs at a time.
        budget: no run is started after this long.
        name: of the folder in `sweeps/`; None: `RECIPE-scale`.
        drop_weights: remove checkpoints and model of each run once it has its result.
        environ: where `BIGBATCH_*` keys are read from.
        say: told of each start and end, and the findings.

    Raises:
        UsageError: words that make no sense, or another sweep of that name.
        RecipeError: a point's recipe is wrong; nothing is started.
    """
    refuse_inside_a_group(environ, "scale")
    loaded = load_recipe(recipe, overrides, environ=environ)
    if loaded.stages:
        raise UsageError("scale is for one training: write the stage that is meant into a recipe of its own")
    unit = "tokens" if loaded.batch.samples is None else "samples"
    asked = _directed(read_target(target), loaded)
    folder = folder_of(recipe, f"{Path(recipe).stem}-scale" if name is None else name)
    words = ["bigbatch", "scale", str(recipe), *overrides, "--batches", batches, "--target", target]
    words += optional_words(seeds=seeds, every=every, parallel=parallel, budget=budget, name=name)
    words += ["--from", start] if start is not None else []
    sweep = Sweep(
        recipe=Path(recipe),
        changes=tuple(overrides),
        words=(*branch_words(start, folder, loaded), *_target_words(asked, every)),
        axes=(_axis(f"batch.{unit}", batches, "--batches"), _axis("seed", seeds, "--seeds")),
        folder=folder,
        parallel=parallel,
        budget_seconds=seconds_of(budget),
        figure=asked.metric,
        drop_weights=drop_weights,
        command=shlex.join([*words, *(["--drop-weights"] if drop_weights else [])]),
    )
    notes = _notes(loaded, parallel)
    latest: list[SweepView] = []

    def written(view: SweepView) -> None:
        latest.append(view)
        found = analyse(replace(view, notes=(*view.notes, *notes)), folder, asked, unit)
        write_scale(folder, found.view)
        atomic_write_json(folder / "scale.json", found.to_json())

    outcome = run_sweep(sweep, environ=environ, say=say, written=written)
    found = analyse(replace(latest[-1], notes=(*latest[-1].notes, *notes)), folder, asked, unit)
    for line in ["", *lines_of(found.view), *notes, f"{folder / 'report.html'}"]:
        say(line)
    return replace(outcome, rows=found.view.sweep.rows)


def _axis(key: str, text: str, flag: str) -> Axis:
    values = tuple(part.strip() for part in text.split(",") if part.strip())
    if not values or not all(value.isdigit() and int(value) >= (flag == "--batches") for value in values):
        raise UsageError(f"{flag} {text}: expected whole numbers, such as 16,64,256")
    if len(set(values)) < len(values):
        raise UsageError(f"{flag} {text}: a value is there twice")
    if flag == "--batches":
        if len(values) < 2:
            raise UsageError(f"--batches {text}: expected two at least; a trade-off has two sides")
        values = tuple(sorted(values, key=int))
    return Axis(keys=(key,), values=tuple((value,) for value in values))


def _target_words(target: Target, every: str) -> tuple[str, ...]:
    """A run ends at the target and at nothing else."""
    return (
        f"early_stopping.metric={target.metric}",
        f"early_stopping.target={target.value!r}",
        f"early_stopping.patience={_NEVER}",
        f"run.evaluate_every={every}",
    )


def _directed(target: Target, recipe: Recipe) -> Target:
    """Whether larger is better, as the task's metrics say."""
    if not recipe.data.validation:
        raise UsageError("--target: the recipe has no data.validation that a target could be reached on")
    from bigbatch.metrics.watched import figure_of, larger_is_better, source_splits
    from bigbatch.tasks.catalog import task_from_recipe

    named = recipe.data.validation if isinstance(recipe.data.validation, Mapping) else ()
    splits = ["validation", *(f"validation.{each}" for each in named), *source_splits(recipe)]
    name = figure_of(target.metric, splits)[1]
    return replace(target, larger_is_better=larger_is_better(name, task_from_recipe(recipe).metrics))


def _notes(recipe: Recipe, parallel: int) -> tuple[str, ...]:
    """What the findings depend on."""
    notes = []
    if recipe.schedule.name != "constant":
        notes.append(
            f"schedule {recipe.schedule.name} is laid over the whole length, so the way to the target depends on the "
            "length as well; with schedule.name=constant it does not."
        )
    spec = recipe.optimizer
    if spec.lr != AUTO and (spec.base_batch is None or spec.lr_rule == "none"):
        notes.append(
            f"optimizer.lr {spec.lr:g} is the same for all batches; optimizer.base_batch with lr_rule carries it "
            "from one batch to the others."
        )
    if parallel > 1:
        notes.append(f"Times were measured with up to {parallel} runs at a time; a run alone is faster.")
    return tuple(notes)

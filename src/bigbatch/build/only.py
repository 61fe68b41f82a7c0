"""What is built without a run directory: a plan, or tokens in the cache; and what every start begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bigbatch.build.build import Given, Progress, Say, build, check_before_training
from bigbatch.build.inputs import Inputs, Live, model_digest, read_inputs
from bigbatch.build.live import live_digests, live_task
from bigbatch.build.parts import Parts
from bigbatch.build.publish import publish
from bigbatch.build.ready import fill_shards, ready_model, ready_tables
from bigbatch.infer.embed import guide_digest
from bigbatch.metrics.watched import check_watched
from bigbatch.probe.hardware import hardware_facts
from bigbatch.protocols import World
from bigbatch.recipe.load import placed
from bigbatch.recipe.schema import Recipe, Stage
from bigbatch.store.identity import Fingerprint, fingerprint
from bigbatch.tasks.base import Task
from bigbatch.tasks.catalog import TASKS, task_from_recipe
from bigbatch.units import show_bytes


def plan_only(
    recipe: Recipe,
    live: Live,
    say: Say,
    progress: Progress | None = None,
    *,
    audit: bool = False,
    **ways: Any,
) -> Parts:
    """Build everything up to the first update without a run directory.

    Args:
        recipe: what to compute.
        live: objects of the caller's process.
        say: told each step that can take a while.
        progress: (what, done, total) while tokenising.
        audit: whether to look at what the number format does to the model, too (`bigbatch plan --audit`).
        **ways: further fields of `Given`: the ranks, and what a dry run does otherwise.

    Raises:
        DoesNotFit: the prediction exceeds the machine's memory.
    """
    with placed(recipe):
        task = live_task(recipe, live)
        inputs = checked_inputs(recipe, task, live, say)
        cache = token_cache(recipe)
        given = Given(live=live, cache_dir=cache, say=say, progress=progress, audit=audit, **ways)
        return build(recipe, task, inputs, given)


def fill_only(recipe: Recipe, live: Live, part: tuple[int, int], say: Say) -> int:
    """Tokenise every n-th shard into the cache; how many these are.

    Args:
        recipe: names model and data.
        live: objects of the caller's process.
        part: which of how many parts, from 0.
        say: told each step that can take a while.

    Raises:
        ModelError: the model or tokenizer cannot be used.
        DataError: every problem of the rows.
    """
    with placed(recipe):
        task = live_task(recipe, live)
        inputs = checked_inputs(recipe, task, live, say)
        ready = ready_model(recipe, task, inputs, live, "cpu", say)
        return fill_shards(inputs, ready, token_cache(recipe), part, say)


def publish_only(
    recipe: Recipe, live: Live, folder: Path, say: Say, progress: Progress | None = None
) -> list[str]:
    """Write the training rows' tokens as files that can be streamed; what is there now, in words.

    Args:
        recipe: names model and data.
        live: objects of the caller's process.
        folder: of the files.
        say: told each step that can take a while.
        progress: (what, done, total).

    Raises:
        ModelError: the model or tokenizer cannot be used.
        DataError: every problem of the rows.
        RecipeError: rows that are not in shards.
    """
    with placed(recipe):
        task = live_task(recipe, live)
        inputs = checked_inputs(recipe, task, live, say)
        ready = ready_model(recipe, task, inputs, live, "cpu", say)
        done = publish(inputs, ready, folder, progress)
    was = f", {done.kept} of them there before" if done.kept else ""
    return [
        f"{done.shards} shards{was}: {done.samples:,} samples, {done.tokens:,} tokens, {show_bytes(done.size_bytes)}",
        f"train with data.train={done.index}, or with the address that it has elsewhere",
    ]


def prepare_only(recipe: Recipe, live: Live, say: Say, progress: Progress | None = None) -> list[str]:
    """Everything before the first update that another machine can do: model, rows, tokens in the cache; in words.

    Args:
        recipe: names model and data.
        live: objects of the caller's process.
        say: told each step that can take a while.
        progress: (what, done, total) while tokenising.

    Raises:
        ModelError: the model or tokenizer cannot be used.
        DataError: every problem of the rows.
    """
    with placed(recipe):
        task = live_task(recipe, live)
        inputs = checked_inputs(recipe, task, live, say)
        ready = ready_model(recipe, task, inputs, live, hardware_facts(recipe.plan).device, say)
        cache = token_cache(recipe)
        tables, _, notes = ready_tables(inputs, ready, cache, say, progress)
    found = [
        f"{name}: {len(table):,} samples, {int(table.lengths_B.sum()):,} tokens"
        for name, table in tables.items()
    ]
    return [
        *(f"note: {note}" for note in (*inputs.warnings, *ready.notes, *notes)),
        *found,
        f"tokens: {cache}",
    ]


def check_only(recipe: Recipe, live: Live, say: Say, world: World) -> None:
    """What is wrong with rows and model, the two together, batch and length, without training.

    Args:
        recipe: names model and data.
        live: objects of the caller's process.
        say: told each step that can take a while.
        world: the ranks, all of which call it.

    Raises:
        BigbatchError: whatever would stop `train` before its first update, but for what has to be measured.
    """
    with placed(recipe):
        task = live_task(recipe, live)
        inputs = checked_inputs(recipe, task, live, say)
        given = Given(live=live, world=world, cache_dir=token_cache(recipe), say=say)
        check_before_training(recipe, task, inputs, given)


def recipe_of(stage: Stage, run: Path, model: Path | None = None, before: str | None = None) -> Recipe:
    """The recipe of the run that a stage is, with the columns that its task reads of those that all stages share.

    Args:
        stage: of a recipe with stages.
        run: the directory of all stages.
        model: folder that the stage before left; None: this is the first, or is only looked at.
        before: digest of the fingerprint of the stage before.
    """
    recipe = stage.placed_in(run, model, before)
    roles = task_from_recipe(recipe).roles
    of_others = {role for kind in TASKS.values() for role in kind().roles} - {*roles}
    columns = {role: name for role, name in recipe.data.columns.items() if role not in of_others}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"columns": columns})})


def checked_inputs(recipe: Recipe, task: Task, live: Live, say: Say | None = None) -> Inputs:
    """The rows; and every figure that the recipe watches is one that their evaluation will report.

    Args:
        recipe: names the data, and the figures that are watched.
        task: what is learnt of the rows.
        live: objects of the caller's process.
        say: told what is fetched from elsewhere.

    Raises:
        DataError: every problem of the rows.
        RecipeError: every figure that no evaluation will report.
    """
    inputs = read_inputs(recipe, task, live, say)
    task = task.with_facts(labels=inputs.labels)
    check_watched(recipe, task.metrics, inputs.judged(recipe))
    return inputs


def what_is_computed(
    recipe: Recipe, task: Task, inputs: Inputs, live: Live, code: Sequence[Path]
) -> Fingerprint:
    """Fingerprint of recipe, data, code and the weights that training starts from.

    Args:
        recipe: without what does not change the result.
        task: of the recipe; it may ask a guide.
        inputs: all rows.
        live: objects of the caller's process.
        code: files of the user's own that the recipe refers to.
    """
    contents = {"rows": inputs.digest, "model": model_digest(recipe, live)}
    for need in task.needs:
        if need.guide is not None:
            contents["guide"] = guide_digest(recipe.resolve_path(need.guide.folder))
    what = {**fingerprint(recipe, contents, code).what, **live_digests(live)}
    if (
        recipe.before is not None
    ):  # wherever the folder lies: weights and provenance are known by their digests
        what |= {"model.name": "that of the stage before", "stage.before": recipe.before}
    return Fingerprint(what=dict(sorted(what.items())))


def token_cache(recipe: Recipe) -> Path:
    """Beside the run directories, or in `run.cache`, so that runs share it; it can be deleted at any time."""
    return recipe.cache_folder / "tokens"

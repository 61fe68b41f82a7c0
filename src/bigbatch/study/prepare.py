"""Recipe -> one CSV file, one model folder, one order of samples: what every contestant uses."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bigbatch.build.inputs import Inputs, Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.ready import ready_model
from bigbatch.data.order import SampleOrder
from bigbatch.errors import Problem, RecipeError
from bigbatch.model.source import quiet
from bigbatch.probe.hardware import hardware_facts
from bigbatch.recipe.load import dump_recipe, load_recipe, placed, recipe_values
from bigbatch.recipe.schema import Recipe
from bigbatch.study.contestants.common import documents, texts_of
from bigbatch.study.jobs import Job, Kind
from bigbatch.study.work import Work, counted_work, matrix_shapes
from bigbatch.tasks.ready import Ready
from bigbatch.written import make_folders, replace_text

PREDICTED = 512
"""Most texts that are predicted."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What every contestant uses, and what was counted on the way."""

    job: Job
    work: Work
    setting: dict[str, Any]
    """What is compared, for the head of the results."""


def prepare(
    recipe: Recipe, folder: Path, *, counted_updates: int, warmup_updates: int, compiled: bool
) -> Prepared:
    """Write data.csv, model/ and recipe.yaml into `folder`, and the job over them.

    Args:
        recipe: what is computed. Its schedule, evaluations and checkpoints are left out.
        folder: for everything that is written.
        counted_updates: updates that are timed.
        warmup_updates: updates before those.
        compiled: whether contestants that can compile do.

    Raises:
        RecipeError: the recipe asks for something that the Trainer does not do, or does otherwise.
        DataError: the data cannot be read.
        ModelError: the model cannot be used.
    """
    refuse_what_others_lack(recipe)
    with placed(recipe):
        task = live_task(recipe, Live())
        inputs = read_inputs(recipe, task, Live())
        hardware = hardware_facts(recipe.plan)
        ready = ready_model(recipe, task, inputs, Live(), "cpu", lambda text: None)
    make_folders(folder)
    columns = write_data(folder / "data.csv", inputs)
    with quiet():
        ready.module.save_pretrained(folder / "model")  # type: ignore[operator]
        ready.tokenizer.save_pretrained(folder / "model")  # type: ignore[union-attr]
    updates = counted_updates + warmup_updates
    own = recipe_for_bench(recipe, folder, columns, updates, hardware.threads)
    replace_text(folder / "recipe.yaml", dump_recipe(own), durable=False)
    job = replace(
        _job(recipe, folder, ready, updates * (recipe.batch.samples or 0), len(inputs.train)),
        warmup_updates=warmup_updates,
        counted_updates=counted_updates,
        threads=hardware.threads,
        device=hardware.device,
        compile=compiled,
    )
    if job.kind == "classify":
        job = replace(job, predict_samples=min(PREDICTED, len(job.counted_order)))
    lengths = _lengths(job, ready, inputs)
    counted = np.array([lengths[row] for row in job.counted_order])
    return Prepared(
        job=job,
        work=counted_work(folder / "model", counted, job.kind),
        setting=_setting(recipe, job, ready, counted),
    )


def _job(recipe: Recipe, folder: Path, ready: Ready, samples: int, rows: int) -> Job:
    """The recipe's side of the job; how it is run is filled in by the caller."""
    assert recipe.batch.samples is not None
    kind: Kind = "clm" if recipe.task.name == "clm" else "classify"
    return Job(
        kind=kind,
        data=str(folder / "data.csv"),
        model=str(folder / "model"),
        recipe=str(folder / "recipe.yaml"),
        folder=str(folder),
        labels=tuple(ready.task.label_names) if kind == "classify" else (),
        max_length=min(ready.max_length, recipe.data.max_length or ready.max_length),
        order=_order(rows, recipe.seed.data, samples),
        batch_samples=recipe.batch.samples,
        warmup_updates=1,
        counted_updates=1,
        predict_samples=0,
        lr=recipe.optimizer.lr,
        betas=recipe.optimizer.betas,
        eps=recipe.optimizer.eps,
        weight_decay=recipe.optimizer.weight_decay,
        clip=recipe.clip,
        seed=recipe.seed.model,
        device="cpu",
        threads=1,
        precision=_precision(recipe),
        compile=False,
        shapes=matrix_shapes(ready.module),
    )


def refuse_what_others_lack(recipe: Recipe) -> None:
    """Only what all contestants do alike is compared.

    Raises:
        RecipeError: every key that stands in the way.
    """
    options = recipe.task.args
    one_class = recipe.task.name == "classify" and options.get("kind", "single") == "single"
    by_row = recipe.task.name == "clm" and options.get("blocks", "documents") == "documents"
    found = {
        "task": (one_class or by_row, "classify with one class of several, or clm on documents"),
        "auto": (not recipe.is_auto, "numbers, such as epochs=3 batch=32 optimizer.lr=5e-5 schedule=linear"),
        "batch.samples": (recipe.batch.samples is not None, "a batch in samples"),
        "optimizer.name": (recipe.optimizer.name == "adamw", "adamw"),
        "optimizer.lr_rule": (recipe.optimizer.base_batch is None, "lr as typed, without base_batch"),
        "data.train": (not any(file.share for file in recipe.data.train), "files without shares"),
        "loss": (recipe.loss.name == "cross_entropy" and not recipe.loss.args, "cross_entropy"),
        "loss.class_weights": (recipe.loss.class_weights == "none", "none"),
        "loss.label_smoothing": (not recipe.loss.label_smoothing, "0"),
        "model.trainable": (recipe.model.trainable == "all", "all"),
        "model.attention": (
            recipe.model.attention is None or recipe.model.attention.pattern == "full",
            "full",
        ),
        "model.memory": (not recipe.model.memory, "0"),
        "plan.precision": (_precision(recipe) in ("fp32", "bf16"), "fp32 or bf16"),
    }
    problems = [
        Problem(where=recipe.place(key), key=key, what=f"bench compares with other trainers only {expected}")
        for key, (fits, expected) in found.items()
        if not fits
    ]
    if problems:
        raise RecipeError(problems)


def _precision(recipe: Recipe) -> str:
    return recipe.plan.precision.name or "fp32"


def write_data(path: Path, inputs: Inputs) -> dict[str, str]:
    """The training rows as a CSV of `text`, `pair` (if there is one) and `label`; returns role -> column."""
    table = inputs.train
    if table.tokenised:
        raise RecipeError("bench compares on texts; these rows are token ids already")
    roles = [role for role in ("text", "pair", "label") if role in table.rows.column_names]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(roles)
        for rows in table.iterate(10_000):
            writer.writerows([[row[role] for role in roles] for row in rows])
    return {role: role for role in roles}


def recipe_for_bench(
    recipe: Recipe, folder: Path, columns: dict[str, str], updates: int, threads: int
) -> Recipe:
    """The same computation on the common files, without evaluation and checkpoints while updates are counted.

    Args:
        recipe: of the user.
        folder: where data.csv and model/ are.
        columns: role -> column of data.csv.
        updates: how many are made, those of the warm-up too.
        threads: `plan.threads`.
    """
    values = recipe_values(recipe)
    for key in ("epochs", "updates", "samples", "tokens"):
        values.pop(key, None)
    values["model"] |= {
        "name": "model",
        "tokenizer": None,
        "revision": None,
        "init": "pretrained",
        "config": {},
    }
    values["data"] |= {"train": ["data.csv"], "validation": None, "test": [], "columns": columns}
    values["data"]["encoding"] = "utf-8"
    values |= {
        "updates": updates,
        "metrics": [],
        "best": None,
        "early_stopping": None,
        "gate": {},
        "observers": [],
        "schedule": {"name": "constant", "warmup": 0},
        "run": {"dir": "{recipe}", "root": None, "evaluate_every": "never", "checkpoint_every": "never"},
    }
    values["plan"] |= {"threads": threads}
    return load_recipe(values).from_source(folder / "recipe.yaml")


def _order(rows: int, seed: int, count: int) -> tuple[int, ...]:
    return tuple(int(row) for row in SampleOrder(rows, seed).ids(0, count))


def _lengths(job: Job, ready: Ready, inputs: Inputs) -> dict[int, int]:
    """Tokens of the rows that are used, as a tokenizer of transformers makes them."""
    used = sorted(set(job.order))
    assert ready.tokenizer is not None
    roles = [role for role in ("text", "pair", "label") if role in inputs.train.rows.column_names]
    columns = {role: inputs.train.rows.column(role).take(used).to_pylist() for role in roles}
    rows = [{role: str(columns[role][index]) for role in roles} for index in range(len(used))]
    if job.kind == "classify":
        found = ready.tokenizer(*texts_of(rows), truncation=True, max_length=job.max_length)["input_ids"]
        return {row: len(ids) for row, ids in zip(used, found, strict=True)}
    lengths = {row: len(ids) for row, ids in zip(used, documents(ready.tokenizer, rows), strict=True)}
    if max(lengths.values()) > job.max_length:
        what = f"found a document of {max(lengths.values())} tokens; bench compares clm on documents that are not cut"
        raise RecipeError([Problem(where="recipe", key="data.max_length", what=what)])
    return lengths


def _setting(recipe: Recipe, job: Job, ready: Ready, counted: np.ndarray) -> dict[str, object]:
    config: Any = ready.module.config
    return {
        "recipe": recipe.source.name if recipe.source is not None else "recipe",
        "model": f"{config.model_type}, {sum(p.numel() for p in ready.module.parameters()):,} parameters, "
        f"hidden {config.hidden_size}, {config.num_hidden_layers} layers",
        "precision": job.precision,
        "compile": job.compile,
        "batch_samples": job.batch_samples,
        "max_length": job.max_length,
        "warmup_updates": job.warmup_updates,
        "counted_updates": job.counted_updates,
        "counted_samples": len(counted),
        "counted_tokens": int(counted.sum()),
        "mean_tokens": float(counted.mean()),
        "longest_tokens": int(counted.max()),
        "predicted_samples": job.predict_samples,
        "optimizer": f"adamw, lr {job.lr:g} constant, weight decay {job.weight_decay:g}, clip {job.clip}",
        "dropout": float(getattr(config, "hidden_dropout_prob", 0.0) or 0.0),
    }

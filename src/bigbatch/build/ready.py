"""Model, tokenizer, task and tokens, made to fit each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from bigbatch.build.inputs import Inputs, Live, local_model
from bigbatch.build.streamed import open_stream
from bigbatch.build.tokenised import how_tokenised
from bigbatch.data.batches import Batches
from bigbatch.data.histories import item_names
from bigbatch.data.shard_tokens import shard_table
from bigbatch.data.streamed import shelf_of
from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import token_table, tokenizer_fingerprint
from bigbatch.data.unknown import unknown_note
from bigbatch.data.windows import ANSWERS
from bigbatch.errors import DataError, ModelError, Problem
from bigbatch.metrics.entities import SEEN
from bigbatch.model.adjust import read_given_types
from bigbatch.model.checks import told_apart
from bigbatch.model.heads import HEADS
from bigbatch.model.sequential import item_tokenizer
from bigbatch.model.tokenizer import load_tokenizer
from bigbatch.protocols import Tokenizer
from bigbatch.recipe.schema import Recipe
from bigbatch.samples import Table
from bigbatch.tasks.arranged import arranged
from bigbatch.tasks.base import Task
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.chat_rows import turn_notes
from bigbatch.tasks.derived import promised
from bigbatch.tasks.facts import BuildFacts
from bigbatch.tasks.given import given_tokens
from bigbatch.tasks.prefer import Prefer
from bigbatch.tasks.rank import Rank
from bigbatch.tasks.ready import Ready, made_ready
from bigbatch.tasks.recommend import Recommend
from bigbatch.tasks.reward import Reward
from bigbatch.tasks.span import Span
from bigbatch.tasks.templates import with_template


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """The rows of a run, and how they are visited."""

    rows: Mapping[str, DataTable]
    """Split name -> rows before tokenising."""
    tables: Mapping[str, Table]
    """Split name -> tokenised rows; class weights are multiplied into `train`."""
    batches: Batches


def ready_model(
    recipe: Recipe, task: Task, inputs: Inputs, live: Live, device: str, say: Callable[[str], None]
) -> Ready:
    """Load model and tokenizer, give the model the task's head, and check that they fit.

    Args:
        recipe: what to compute.
        task: from `tasks.catalog`.
        inputs: checked rows.
        live: the caller's model and tokenizer, if any.
        device: where the model is put.
        say: told what is loaded.

    Raises:
        ModelError: with what to change.
    """
    say(f"loading {recipe.model.name or 'the model'}")
    spec = local_model(recipe)
    tokenizer = live.tokenizer
    kind = HEADS[task.head.kind]
    if tokenizer is None and isinstance(task, Recommend) and not spec.name and not inputs.train.tokenised:
        tokenizer = cast(Tokenizer, item_tokenizer(item_names(inputs.train)))
    elif tokenizer is None and kind.reads_text and not inputs.train.tokenised:
        tokenizer = load_tokenizer(spec)
    elif tokenizer is None and spec.name and kind.wants_tokenizer:
        # It tells special tokens from others even where the rows are token ids already.
        with suppress(ModelError):
            tokenizer = load_tokenizer(spec)
    # Preferences may have texts alone: they need a template where one is named.
    template = task.template if isinstance(task, (Chat, Prefer, Reward)) else None
    if (
        tokenizer is not None
        and not inputs.train.tokenised
        and (isinstance(task, Chat) or template is not None)
    ):
        tokenizer = with_template(tokenizer, template, recipe.resolve_path, recipe.task.name)
    task = task.with_facts(labels=inputs.labels, data_seed=recipe.seed.data, tokenizer=tokenizer)
    notes: list[str] = []
    facts = BuildFacts(
        seed=recipe.seed.model, dropout=recipe.regularise.dropout, module=live.module, note=notes.append
    )
    module = task.build(spec, facts).to(device)
    if isinstance(task, Reward) and tokenizer is not None and not inputs.train.tokenised:
        tokenizer = told_apart(module, tokenizer)
    if inputs.train.tokenised:
        note = read_given_types(module, inputs.train.rows.column_names)
        notes += [] if note is None else [note]
    return made_ready(
        module,
        tokenizer,
        task,
        max_length=recipe.data.max_length,
        folder=spec.name,
        notes=notes,
    )


def ready_tables(
    inputs: Inputs,
    ready: Ready,
    cache_dir: Path | None,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[dict[str, Table], Ready, tuple[str, ...]]:
    """Tokenise every split, or read it from the cache; then let the task see the training targets.

    Args:
        inputs: the rows of every split.
        ready: model, tokenizer and task.
        cache_dir: where tokens are kept; None: nowhere.
        say: told of each split.
        progress: (what, done, total) while tokenising.

    Returns:
        The token tables, with class weights in `train`; the same model with its final task; notes.
    """
    tables: dict[str, Table] = {}
    notes: list[str] = []
    unknown: dict[str, str] = {}
    given = given_tokens(ready.module, ready.tokenizer, ready.task.longest)
    # Taken once: calls leave it as it was, and its text is long.
    digest = None if inputs.train.tokenised or cache_dir is None else tokenizer_fingerprint(ready.tokenizer)
    for name, rows in inputs.splits.items():
        if rows.stream is not None:
            continue
        rows, padded = given.table(rows)
        if padded:
            notes.append(
                f"{name}: {padded:,} of {len(rows):,} rows of token ids have padding (id {given.pad_id}) and no "
                "attention_mask; the padding is left out"
            )
        told = (lambda done, total, name=name: progress(name, done, total)) if progress else None
        how, sharded = how_tokenised(ready, rows, cache_dir, digest), bool(rows.digests)
        tables[name], reused = (shard_table if sharded else token_table)(rows, **how, progress=told, say=say)
        say(f"{name}: {len(rows):,} rows{', tokens from the cache' if reused else ' tokenised'}")
        for stream in tables[name].texts.values():
            strange = unknown_note(name, stream.load().columns["ids"], ready.tokenizer)
            unknown |= {} if strange is None else {name: strange}
        turns = turn_notes(tables[name], ready.max_length)
        notes += [f"{name}: {note}" for note in turns]
        if not sharded:
            tables[name] = arranged(ready.task, tables[name], rows.sources)
        if name != "train":
            tables[name] = ready.task.fixed(tables[name])
        tables[name] = promised(tables[name], ready.task.needs)
        if len(tables[name]) != len(rows):
            say(
                f"{name}: {len(tables[name]):,} samples of at most {int(tables[name].lengths_B.max())} tokens"
            )
        cut = tables[name].truncated_samples
        if cut and not turns:
            what = f"rows are longer than {ready.max_length} tokens and were cut (data.max_length)"
            if isinstance(ready.task, Span):
                what = (
                    "questions were cut (task.max_query_length), or have an answer that no window holds whole "
                    "(data.max_length, task.stride)"
                )
            notes.append(f"{name}: {cut:,} of {len(rows):,} {what}")
        notes += _unanswered(name, tables[name], ready.task)
        unseen = int((np.asarray(tables[name].extras.get(SEEN, 1.0)) == 0).sum())
        if unseen:
            notes.append(
                f"{name}: the model does not see {unseen:,} words (cut off, or without tokens); they count as O"
            )
        if inputs.train.tokenised:
            given.check_table(tables[name], name)
    if inputs.train.stream is not None:
        opened = open_stream(inputs.train, ready, inputs.stream_bytes, say)
        tables, task = {"train": opened.table, **tables}, opened.task
        notes += opened.notes
        say(f"train: {len(opened.table):,} samples of {inputs.train.stream.shown}, streamed")
    else:
        task = ready.task.fit(tables["train"])
        tables["train"] = _with_class_weights(tables["train"], task)
    for name, table in tables.items():
        if shelf_of(table) is not None:
            continue
        notes += _what_counts(name, table, task, unknown.get(name))
    return tables, replace(ready, task=task), tuple(notes)


def _unanswered(name: str, table: Table, task: Task) -> list[str]:
    """What is said of questions without an answer, where a run would give each of them one."""
    if not isinstance(task, Span) or task.null_threshold is not None:
        return []
    without = int(np.count_nonzero(table[ANSWERS].lengths == len("[]")))
    if not without:
        return []
    return [
        f"{name}: {without:,} questions have no answer, and predictions will give each of them one, since "
        "task.null_threshold is not set; with 0 none is given where that is the likelier"
    ]


def fill_shards(
    inputs: Inputs, ready: Ready, cache_dir: Path, part: tuple[int, int], say: Callable[[str], None]
) -> int:
    """Tokenise every n-th shard of the training rows into the cache; those that are there stay.

    Args:
        inputs: the rows.
        ready: model, tokenizer and task.
        cache_dir: where tokens are kept.
        part: which of how many parts, from 0.
        say: told when a damaged entry is made anew.

    Returns:
        How many shards these are; 0 where the rows are not in shards.
    """
    rows = inputs.train
    numbers = range(part[0], len(rows.digests), part[1])
    digest = None if rows.tokenised else tokenizer_fingerprint(ready.tokenizer)
    for number in numbers:
        token_table(rows.shard(number), **how_tokenised(ready, rows, cache_dir, digest), say=say)
    return len(numbers)


def _what_counts(name: str, table: Table, task: Task, unknown: str | None) -> list[str]:
    """Notes on samples of a split from which nothing, or with what is unknown little, can be learnt.

    Raises:
        DataError: all of the training data are such.
    """
    kinds, counted_N = "no token to predict, no label, or all weights 0", table.counted_units
    if isinstance(task, Rank):
        kinds, counted_N = task.idle_because, task.counted(table)
    said = [] if unknown is None else [unknown]
    if not (counted_N.any() and any(task.denominators(table.targets).values())):
        if name == "train":
            because = kinds if unknown is None else unknown.removeprefix(f"{name}: ")
            what = f"none of its {len(table):,} samples has anything to learn from: {because}"
            raise DataError([Problem(where=name, what=what)])
        return [*said, f"{name}: nothing in it counts ({kinds}): its figures do not exist"]
    idle = int((counted_N == 0).sum())
    if not idle:
        return said
    did = "learnt from" if name == "train" else "scored"
    return [*said, f"{name}: {idle:,} of {len(table):,} samples have nothing to be {did} ({kinds})"]


def _with_class_weights(table: Table, task: Task) -> Table:
    """The training table with class weights multiplied in once, instead of in every update."""
    return table.weighted(task.weigh(table.targets).weights)

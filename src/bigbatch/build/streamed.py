"""A training split that is streamed: the index, lengths and shelf behind it, and what cannot be had with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigbatch.build.tokenised import made_by
from bigbatch.data.published import Index, shard_problem
from bigbatch.data.shelf import Columns, Shelf, Store, digest_of
from bigbatch.data.streamed import entries_of, most_bytes_at_once, read_lengths, shelf_of, streamed_table
from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import tokenizer_fingerprint
from bigbatch.errors import DataError, Problem, RecipeError
from bigbatch.facts import LengthFacts
from bigbatch.recipe.schema import Recipe
from bigbatch.remote.addresses import is_address, shown
from bigbatch.remote.exact import Wanted, beside, one_file
from bigbatch.remote.keep import Say, cache_root
from bigbatch.samples import TOKENS, UNITS, Table
from bigbatch.tasks.base import Task
from bigbatch.tasks.given import GivenTokens, given_tokens
from bigbatch.tasks.labelled import Labelled
from bigbatch.tasks.ready import Ready
from bigbatch.units import show_bytes

_REMEDY = "publish them anew (bigbatch tokenize RECIPE --publish FOLDER), or say in the recipe what they were made by"


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A stream, opened."""

    table: Table
    task: Task
    """That has been told what the index knows of the targets."""
    notes: tuple[str, ...]


def open_stream(rows: DataTable, ready: Ready, bound_bytes: int, say: Say) -> Opened:
    """The table of a split that is streamed. Nothing of its shards is read yet.

    Args:
        rows: of `stream_rows`.
        ready: model, tokenizer and task.
        bound_bytes: of shards on this machine.
        say: told what is fetched.

    Raises:
        RecipeError: the tokens were made by something else, or the recipe needs all of them at once.
        DataError: the file of lengths is another one.
    """
    index = rows.stream
    assert index is not None
    _check_made(index, rows, ready)
    lengths = _lengths(index, say)
    given = given_tokens(ready.module, ready.tokenizer, ready.task.longest)
    longest = int(lengths[TOKENS].max(initial=0)) if TOKENS in lengths else 0
    entries = entries_of(lengths, index)

    def problem(shard: int, columns: Columns) -> str:
        return shard_problem(columns, index, entries[shard]) or _unfit(columns, given, longest)

    store = Store(
        index=index,
        root=cache_root() / f"stream-{index.digest[:24]}" if is_address(index.place) else Path(),
        bound_bytes=bound_bytes,
        wanted=Wanted(most_bytes=0, say=say),
        problem=problem,
    )
    task = ready.task
    table = streamed_table(Shelf(store), lengths, task.sequences, task.prepare)
    return Opened(table=table, task=_fitted(task, index), notes=_notes(index, ready.max_length))


def _unfit(columns: Columns, given: GivenTokens, longest: int) -> str:
    """Ids that the model has no embedding for, and units that are read nowhere."""
    try:
        ids, segments = columns.get(f"{TOKENS}.ids"), columns.get(f"{TOKENS}.segments")
        if ids is not None:
            if int(ids.min(initial=0)) < 0:
                return "token ids below 0"
            given.check(ids, longest, "", segments)
    except DataError as error:
        return error.problems[0].what
    at = columns.get(f"{UNITS}.at")
    return (
        "" if at is None or not len(at) or 0 <= int(at.min()) <= int(at.max()) < 2**31 else "places below 0"
    )


def _check_made(index: Index, rows: DataTable, ready: Ready) -> None:
    """Refuse tokens of another tokenizer, task or length.

    Raises:
        RecipeError: naming what differs.
    """
    digest = None if rows.tokenised else tokenizer_fingerprint(ready.tokenizer)
    here, there = made_by(ready, rows, digest), index.known["made"]
    differing = [
        f"{name}: made by {_short(there.get(name))}, the recipe has {_short(here.get(name))}"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]
    if differing:
        what = f"the tokens of {index.shown} are not those of this recipe ({'; '.join(differing[:4])}); {_REMEDY}"
        raise RecipeError([Problem(where="recipe", key="data.train", what=what)])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _lengths(index: Index, say: Say) -> Mapping[str, np.ndarray]:
    about = index.known["lengths"]
    place = beside(index.place, about["file"])
    path = Path(place)
    if is_address(place):
        wanted = Wanted(most_bytes=about["bytes"], sha256=about["sha256"], say=say)
        path = one_file(place, cache_root(), wanted)
    try:
        found = digest_of(path)
    except (OSError, ValueError) as error:
        raise DataError([Problem(where=shown(place), what=f"cannot be read: {error}")]) from None
    if found != about["sha256"]:
        what = f"it is not the file that {index.shown} names; publish the tokens anew"
        raise DataError([Problem(where=shown(place), what=what)])
    return read_lengths(index, path)


def _fitted(task: Task, index: Index) -> Task:
    """The task with what the index knows of all targets.

    Raises:
        RecipeError: it wants to see all of them.
    """
    what = ""
    if isinstance(task, Labelled):
        if task.facts.class_weights == "none":
            return task
        key, what = "loss.class_weights", "looks at the labels of all samples before update 1"
    elif hasattr(task.facts, "whole_weights") and type(task).fit is not Task.fit:
        return task.with_facts(whole_weights=index.known["weights"] == "zeros and ones")
    elif type(task).fit is Task.fit and not task.needs:
        return task
    else:
        key, what = "task", f"{type(task).__name__} looks at all samples before update 1"
    what = f"{what}, and those of {index.shown} are streamed; leave it out, or name the rows themselves"
    raise RecipeError([Problem(where="recipe", key=key, what=what)])


def _notes(index: Index, max_length: int) -> tuple[str, ...]:
    """What publishing saw."""
    known, notes = index.known, []
    if not index.samples or known["idle_samples"] == index.samples:
        what = "none of its samples has anything to learn from"
        raise DataError([Problem(where=index.shown, what=what)])
    if known["truncated_samples"]:
        notes.append(
            f"train: {known['truncated_samples']:,} rows are longer than {max_length} tokens and were cut "
            "(data.max_length)"
        )
    if known["idle_samples"]:
        notes.append(
            f"train: {known['idle_samples']:,} of {index.samples:,} samples have nothing to be learnt from (no token "
            "to predict, no label, or all weights 0)"
        )
    return tuple(notes)


def check_bound(recipe: Recipe, train: Table, lengths: LengthFacts) -> None:
    """Refuse a bound below what one update can need.

    Args:
        recipe: with every choice made.
        train: the training split, streamed or not.
        lengths: of its samples.

    Raises:
        RecipeError: with the bytes.
    """
    shelf = shelf_of(train)
    if shelf is None or not shelf.elsewhere:
        return
    samples = recipe.batch.samples
    if not isinstance(samples, int):  # as many as there can be of the shortest
        shortest = max(1, int(train.lengths_B.min(initial=1)))
        samples = min(lengths.samples, int(recipe.batch.tokens or 1) // shortest + 1)
    needed = most_bytes_at_once(shelf.index, samples)
    if needed > recipe.run.stream_bytes:
        what = (
            f"found {show_bytes(recipe.run.stream_bytes)}; an update of {samples:,} samples can need shards of "
            f"{show_bytes(needed)} at once: allow that, lower the batch, or publish smaller shards"
        )
        raise RecipeError([Problem(where="recipe", key="run.stream_bytes", what=what)])

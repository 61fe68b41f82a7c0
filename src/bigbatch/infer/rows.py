"""Evaluate labelled files, or any dataset, with an opened model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bigbatch.data.labels import LabelSet, find_labels, kind_of, label_role, matched
from bigbatch.data.lists import gathered
from bigbatch.data.mixture import source_names
from bigbatch.data.objects import names_files
from bigbatch.data.sources import is_empty_text, read_table
from bigbatch.data.tables import DataTable
from bigbatch.data.tags import unequal_rows
from bigbatch.data.tokens import token_table
from bigbatch.errors import DataError, Problem
from bigbatch.files.problems import data_error
from bigbatch.infer.earlier import with_run_histories
from bigbatch.infer.evaluate import EvalResult, evaluate
from bigbatch.infer.load import Loaded
from bigbatch.model.heads import HEADS
from bigbatch.protocols import Role
from bigbatch.recipe.inputs import DataFile
from bigbatch.tasks.arranged import arranged
from bigbatch.tasks.base import Task
from bigbatch.tasks.derived import derived
from bigbatch.tasks.given import given_tokens
from bigbatch.tasks.rank import Rank
from bigbatch.tasks.recommend import Recommend


def evaluate_rows(
    opened: Loaded,
    files: Any,
    base: Path,
    columns: Mapping[str, str],
    *,
    encoding: str | None = None,
    quoting: str | None = None,
    micro_tokens: int | None = None,
    say: Callable[[str], object] | None = None,
) -> EvalResult:
    """Loss and metrics of an opened model on labelled data.

    Args:
        opened: what `open_model` gave.
        files: one or several files, or any dataset that `data.sources.read_table` takes.
        base: the folder that relative paths start from.
        columns: role -> column.
        encoding: of text files; None takes the run's.
        quoting: of CSV and TSV; None takes the run's.
        micro_tokens: upper bound of computed tokens of a micro-batch; None: what suits the device.
        say: told what is fetched, where a file is an address.

    Raises:
        DataError: malformed rows; empty texts, missing labels, or labels that the model does not know.
    """
    task, recipe = opened.task, opened.recipe
    names = () if task.joins_rows or isinstance(task, Recommend) else _names_of(files)
    table = read_table(
        [DataFile(path=str(getattr(file, "path", file)), share=1) for file in files] if names else files,
        base=base,
        columns=columns,
        roles=task.roles,
        encoding=encoding or opened.encoding,
        quoting=quoting or opened.quoting,
        empty_text=recipe.data.empty_text if recipe else "error",
        say=say,
    )
    if isinstance(task, Recommend):
        table = with_run_histories(opened, table, say)
    if isinstance(task, Rank):
        table = gathered(table)
    roles = task.roles
    table = matched(table, label_role(roles), kind_of(roles), LabelSet(task.label_names))
    check_rows(table, task)
    if opened.tokenizer is None and HEADS[task.head.kind].reads_text and not table.tokenised:
        raise DataError("this model has no tokenizer: it can only evaluate rows of token ids (input_ids)")
    given = given_tokens(opened.module, opened.tokenizer, opened.max_length)
    table, _ = given.table(table)
    tokens, _ = token_table(table, task=task, tokenizer=opened.tokenizer, cache_dir=None, key_parts={})
    tokens = task.fixed(arranged(task, tokens, table.sources if names else ()))
    if table.tokenised:
        where = table.origin[0][0] if table.origin else "data"
        given.check_table(tokens, where)
    tokens = derived(tokens, task.needs, task.facts, table)
    size = micro_tokens or opened.micro_tokens
    return evaluate(opened.forward, task, tokens, micro_tokens=size, sources=names)


def _names_of(files: object) -> tuple[str, ...]:
    """What several files are called, each a source of its own; empty: this is one, or none."""
    if not isinstance(files, (list, tuple)) or len(files) < 2 or not names_files(files):
        return ()
    if any(getattr(file, "columns", None) for file in files):
        return ()
    return source_names([str(getattr(file, "path", file)) for file in files])


def check_rows(table: DataTable, task: Task) -> None:
    """Refuse rows without text or target, and labels that the model does not know.

    Raises:
        DataError: with file and row.
    """
    if len(table) == 0:
        raise DataError(
            [Problem(where=table.origin[0][0] if table.origin else "data", what="no rows to evaluate")]
        )
    problems = [
        Problem(where=table.where(int(row)), key=role, what=what)
        for role, about in task.roles.items()
        if about.required and role in table.rows.column_names
        for row, what in _bad_rows(table, role, about)
    ]
    problems += [
        Problem(where=table.where(row), key=role, what=what)
        for row, role, what in unequal_rows(table, task.roles)
    ]
    if problems:
        raise data_error(problems)
    role, kind = label_role(task.roles), kind_of(task.roles)
    if role is not None and task.label_names:
        find_labels(table, role, kind, task.label_names)


def _bad_rows(table: DataTable, role: str, about: Role) -> list[tuple[int, str]]:
    column = table.rows.column(role)
    if about.is_read:
        thing = {"text": "text", "image": "image", "messages": "conversation"}.get(about.kind, "sentence")
        return [(int(row), f"empty {thing}") for row in np.flatnonzero(is_empty_text(column))]
    missing = column.is_null().to_numpy()
    if about.kind == "number":
        missing = ~np.isfinite(np.asarray(column.to_numpy(), np.float64))
    return [
        (int(row), f"missing {'label' if about.kind in ('label', 'labels') else about.kind}")
        for row in np.flatnonzero(missing)
    ]

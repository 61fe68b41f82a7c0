"""Rows in, predictions out: in windows, so that memory is bounded and samples of a length run together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from bigbatch.data.histories import grouped_rows
from bigbatch.data.token_rows import check_row
from bigbatch.data.tokens import as_table
from bigbatch.errors import DataError, Problem
from bigbatch.files.problems import data_error, placed
from bigbatch.infer.forwards import run_forward
from bigbatch.infer.generate import written
from bigbatch.infer.load import MICRO_TOKENS
from bigbatch.infer.unlabelled import KEPT, PlacedRow, rows_of_object
from bigbatch.model.heads import HEADS
from bigbatch.protocols import Forward, Json, Row, Tokenizer
from bigbatch.samples import Packing, Sample, Table
from bigbatch.tasks.base import Keep, Task
from bigbatch.tasks.given import GivenTokens, given_tokens
from bigbatch.tasks.inputs import NoTokens
from bigbatch.tasks.recommend import Recommend
from bigbatch.tasks.seq2seq import Seq2Seq

WINDOW_ROWS = 2048


def predict_rows(
    forward: Forward,
    task: Task,
    tokenizer: Tokenizer | None,
    rows: Any,
    *,
    columns: Mapping[str, str] | None = None,
    window_rows: int = WINDOW_ROWS,
    micro_tokens: int = MICRO_TOKENS,
    packing: Packing | None = None,
) -> Iterator[dict[str, Any]]:
    """A prediction for each row, in their order.

    Args:
        forward: gives (U, C) outputs of a micro-batch.
        task: encodes rows and decodes outputs.
        tokenizer: a Hugging Face tokenizer.
        rows: a text or a row (role -> value); or many, as many as there are, read a window ahead; or a table (pandas,
            `datasets`, Arrow, a dictionary of columns).
        columns: role -> column, where the rows have other names than the roles and their usual ones.
        window_rows: rows in memory at a time.
        micro_tokens: upper bound of computed tokens of a micro-batch.
        packing: `packed` or `padded`, as the forward expects it; None: the quickest way that the forward knows.

    Yields:
        What the task's `predict` gives, behind `id` if the row has one: of classification `{"label", "probability",
        "probabilities": {name: p}}`, multi-label `{"labels", "probabilities"}`, regression `{"value"}`. What is not
        finite is None, and so is everything of a row that the tokenizer makes no token of.

    Raises:
        UsageError: nothing that rows can be read from.
        DataError: a row without text, named by its number from 1.
    """
    placed = rows_of_object(rows, roles=task.roles, columns=columns or {}, classes=task.label_names)
    yield from predict_placed(
        forward, task, tokenizer, placed, window_rows=window_rows, micro_tokens=micro_tokens, packing=packing
    )


def predict_placed(
    forward: Forward,
    task: Task,
    tokenizer: Tokenizer | None,
    rows: Iterable[PlacedRow],
    *,
    window_rows: int = WINDOW_ROWS,
    micro_tokens: int = MICRO_TOKENS,
    packing: Packing | None = None,
) -> Iterator[dict[str, Any]]:
    """As `predict_rows`, for rows that come with their places.

    Args:
        forward: runs a micro-batch through the model.
        task: encodes and decodes.
        tokenizer: None where rows are token ids.
        rows: (`file:row`, role -> value); taken as they are needed.
        window_rows: rows that are in memory, and sorted by length, at once.
        micro_tokens: tokens of a micro-batch, padding included.
        packing: None: what suits the forward.
    """
    stream = iter(grouped_rows(rows) if isinstance(task, Recommend) else rows)
    while taken := list(itertools.islice(stream, window_rows)):
        kept = [row.get(KEPT, {}) for _, row in taken]
        window = [
            (place, {name: value for name, value in row.items() if name != KEPT}) for place, row in taken
        ]
        samples = samples_of(window, task, tokenizer, forward)
        described = predictions_of(
            forward, task, tokenizer, window, samples, micro_tokens=micro_tokens, packing=packing
        )
        for (_, row), own in zip(window, kept, strict=True):
            prediction = next(described)
            name = row.get("id")
            head = {} if name is None else {"id": name}
            # What is predicted has its name for itself: a column called so too is told apart.
            taken_names = {*head, *prediction}
            copied = {f"{KEPT}.{key}" if key in taken_names else key: value for key, value in own.items()}
            yield {**head, **copied, **prediction}


def predictions_of(
    forward: Forward,
    task: Task,
    tokenizer: Tokenizer | None,
    rows: Sequence[PlacedRow],
    samples: Sequence[Sample | None],
    *,
    micro_tokens: int = MICRO_TOKENS,
    packing: Packing | None = None,
) -> Iterator[dict[str, Json]]:
    """What the task says of each row that was encoded already, in order; of one without tokens, `task.nothing()`.

    Args:
        forward: runs a micro-batch through the model.
        task: decodes.
        tokenizer: None where rows are token ids.
        rows: (`file:row`, role -> value), without what is kept.
        samples: what `samples_of` made of them.
        micro_tokens: tokens of a micro-batch, padding included.
        packing: None: what suits the forward.
    """
    read = [number for number, sample in enumerate(samples) if sample is not None]
    found = [sample for sample in samples if sample is not None]
    described: Iterator[dict[str, Json]] = iter(())
    if read and isinstance(task, Seq2Seq):
        ids = written(forward, task, as_table(found, task.sequences), micro_tokens=micro_tokens)
        described = ({"text": task.text_of(each)} for each in ids)
    elif read:

        def run(table: Table, keep: Keep) -> np.ndarray:
            return run_forward(forward, table, micro_tokens=micro_tokens, packing=packing, keep=keep)

        described = task.predict([rows[number][1] for number in read], found, run, tokenizer)
    for sample in samples:
        yield next(described) if sample is not None else task.nothing()


def encoded_rows(
    rows: Sequence[PlacedRow], task: Task, tokenizer: Tokenizer | None, forward: Forward
) -> list[Sample]:
    """A sample for each row to predict.

    Args:
        rows: (`file:row`, role -> value).
        task: encodes them.
        tokenizer: None where rows are token ids.
        forward: that will read them.

    Raises:
        DataError: a row without tokens, with its place.
    """
    samples = samples_of(rows, task, tokenizer, forward)
    problems = [
        Problem(where=place, what="nothing that the tokenizer makes a token of; remove the row")
        for (place, _), sample in zip(rows, samples, strict=True)
        if sample is None
    ]
    if problems:
        raise data_error(problems)
    return [sample for sample in samples if sample is not None]


_NONE = np.empty(0, np.int32)


def samples_of(
    window: Sequence[PlacedRow], task: Task, tokenizer: Tokenizer | None, forward: Forward
) -> Sequence[Sample | None]:
    """A sample for each row; None for one that has no tokens.

    Args:
        window: (`file:row`, role -> value), without what is kept.
        task: encodes them.
        tokenizer: None where rows are token ids.
        forward: that will read them.

    Raises:
        DataError: a row that cannot be read, with its place.
    """
    targets = [name for name, role in task.roles.items() if name == "label" or role.has_classes]
    rows: list[Row] = [{**row, **dict.fromkeys(targets)} for _, row in window]
    if tokenizer is None and HEADS[task.head.kind].reads_text:
        _check_tokenised(window, task)
    given = _given_tokens(rows, task, tokenizer, forward)
    if given is not None:
        problems = [
            found
            for (place, _), row in zip(window, rows, strict=True)
            if row.get("input_ids") is not None
            for found in check_row(row, place)
        ]
        if problems:
            raise data_error(problems)
        rows = [given.row(row) for row in rows]
    batch = partial(task.encode_batch, labelled=False)
    samples: Sequence[Sample | None]
    try:
        samples = batch(rows, tokenizer)
    except DataError:
        places = [place for place, _ in window]
        samples = [_alone(row, place, batch, tokenizer) for row, place in zip(rows, places, strict=True)]
    except KeyError as error:
        column = error.args[0] if error.args else "?"
        if column not in task.roles:
            raise
        what = f"the task reads {column!r}; add that column, or let its encode use row.get({column!r})"
        raise DataError([Problem(where=window[0][0], key=str(column), what=what)]) from error
    if given is not None:
        for (place, row), sample in zip(window, samples, strict=True):
            if sample is not None and _are_ids(row, task):
                given.check(sample.ids, len(sample.ids), place, sample.segments)
                for stream in sample.streams.values():
                    ids = stream.get("ids", _NONE)
                    given.check(ids, len(ids), place)
    return samples


def _given_tokens(
    rows: Sequence[Row], task: Task, tokenizer: Tokenizer | None, forward: Forward
) -> GivenTokens | None:
    """What the model takes, where some rows are token ids already."""
    module = getattr(forward, "module", None)
    if not isinstance(module, nn.Module) or not any(_are_ids(row, task) for row in rows):
        return None
    return given_tokens(module, tokenizer, task.longest)


def _alone(
    row: Row, place: str, batch: Callable[..., Sequence[Sample]], tokenizer: Tokenizer | None
) -> Sample | None:
    try:
        return batch([row], tokenizer)[0]
    except NoTokens:
        return None
    except DataError as error:
        raise data_error(placed(error, place)) from None


def _are_ids(row: Row, task: Task) -> bool:
    """Whether a row is token ids already, as a whole or role by role."""
    texts = [row[name] for name, role in task.roles.items() if role.may_be_ids and row.get(name) is not None]
    return row.get("input_ids") is not None or any(not isinstance(each, str) for each in texts)


def _check_tokenised(window: Sequence[PlacedRow], task: Task) -> None:
    """Rows of a model without tokenizer."""
    for place, row in window:
        if not _are_ids(row, task):
            what = "this model has no tokenizer: it was trained on rows of token ids, and predicts such rows only"
            raise DataError([Problem(where=place, key="input_ids", what=what)])

"""Rows in, predictions out: in windows, so that memory is bounded and samples of a length run together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from bigbatch.data.problems import data_error
from bigbatch.data.token_rows import check_row
from bigbatch.data.tokens import as_table
from bigbatch.data.unlabelled import KEPT, PlacedRow, rows_of_object
from bigbatch.errors import DataError, Problem
from bigbatch.infer.forwards import run_forward
from bigbatch.infer.load import MICRO_TOKENS
from bigbatch.protocols import Forward, Task
from bigbatch.records import Packing, Predictions, Sample
from bigbatch.tasks.given import GivenTokens, given_tokens
from bigbatch.tasks.inputs import NoTokens

WINDOW_ROWS = 2048

Run = Callable[..., np.ndarray]
"""A table through the model, each unit's outputs reduced: `run(table, reduce=…)`."""


def predict_rows(
    forward: Forward,
    task: Task,
    tokenizer: Any,
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
        `{"id"?, "label", "probability", "probabilities": {name: p}}`; multi-label `{"id"?, "labels", "probabilities"}`;
        regression `{"id"?, "value"}`; tags as `tasks.tag.Tag.describe` has them; language models as their `predict`
        says. What is not finite is None, and so is everything of a row that the tokenizer makes no token of.

    Raises:
        UsageError: nothing that rows can be read from.
        DataError: a row without text, named by its number from 1.
    """
    placed = rows_of_object(
        rows, roles=task.roles, columns=columns or {}, classes=tuple(getattr(task, "label_names", ()))
    )
    yield from predict_placed(
        forward, task, tokenizer, placed, window_rows=window_rows, micro_tokens=micro_tokens, packing=packing
    )


def predict_placed(
    forward: Forward,
    task: Task,
    tokenizer: Any,
    rows: Iterable[PlacedRow],
    *,
    window_rows: int = WINDOW_ROWS,
    micro_tokens: int = MICRO_TOKENS,
    packing: Packing | None = None,
) -> Iterator[dict[str, Any]]:
    """As `predict_rows`, for rows that come with their places."""
    stream = iter(rows)
    while taken := list(itertools.islice(stream, window_rows)):
        kept = [row.get(KEPT, {}) for _, row in taken]
        window = [
            (place, {name: value for name, value in row.items() if name != KEPT}) for place, row in taken
        ]
        samples = _encoded(window, task, tokenizer, forward)
        read = [number for number, sample in enumerate(samples) if sample is not None]
        run = partial(run_forward, forward, micro_tokens=micro_tokens, packing=packing)
        described = _predictions(
            [window[number] for number in read],
            [sample for sample in samples if sample is not None],
            task,
            tokenizer,
            run,
        )
        for (_, row), sample, own in zip(window, samples, kept, strict=True):
            prediction = next(described) if sample is not None else _nothing(task)
            name = row.get("id")
            head = {} if name is None else {"id": name}
            # What is predicted has its name for itself: a column called so too is told apart.
            taken_names = {*head, *prediction}
            copied = {f"{KEPT}.{key}" if key in taken_names else key: value for key, value in own.items()}
            yield {**head, **copied, **prediction}


def _predictions(
    window: Sequence[PlacedRow], samples: Sequence[Sample], task: Any, tokenizer: Any, run: Run
) -> Iterator[dict[str, Any]]:
    """A prediction for each row that the model can read."""
    if not samples:
        return iter(())
    own = getattr(task, "predict", None)
    if own is not None:
        return iter(own(samples, lambda table, reduce: run(table, reduce=reduce), tokenizer))
    return iter(_described(window, samples, task, run(as_table(samples))))


def _nothing(task: Any) -> dict[str, Any]:
    """The prediction of a row that has no tokens."""
    if hasattr(task, "nothing"):
        return task.nothing()
    names = tuple(getattr(task, "label_names", ()))
    unknown = dict.fromkeys(names)
    kind = getattr(task, "kind", "single")
    if kind == "regression":
        return {"value": unknown if len(names) > 1 else None}
    if kind == "multi":
        return {"labels": [], "probabilities": unknown}
    return {"label": None, "probability": None, "probabilities": unknown}


def _described(
    window: Sequence[PlacedRow], samples: Sequence[Sample], task: Any, outputs_UC: np.ndarray
) -> Iterator[dict[str, Any]]:
    """A prediction for each row: by the task, of all its units, or that of its one unit."""
    if not hasattr(task, "describe"):
        yield from describe(task.decode(outputs_UC), tuple(getattr(task, "label_names", ())))
        return
    ends = np.cumsum([len(sample.reads) for sample in samples])
    for (_, row), sample, end in zip(window, samples, ends, strict=True):
        yield task.describe(row, sample, task.decode(outputs_UC[end - len(sample.reads) : end]))


def encoded_rows(rows: Sequence[PlacedRow], task: Task, tokenizer: Any, forward: Forward) -> list[Sample]:
    """A sample for each row to predict.

    Raises:
        DataError: a row without tokens, with its place.
    """
    samples = _encoded(rows, task, tokenizer, forward)
    problems = [
        Problem(where=place, what="nothing that the tokenizer makes a token of; remove the row")
        for (place, _), sample in zip(rows, samples, strict=True)
        if sample is None
    ]
    if problems:
        raise data_error(problems)
    return [sample for sample in samples if sample is not None]


def _encoded(
    window: Sequence[PlacedRow], task: Task, tokenizer: Any, forward: Forward
) -> Sequence[Sample | None]:
    """A sample for each row; None for one that has no tokens."""
    targets = [
        name
        for name, role in task.roles.items()
        if name == "label" or role.kind in ("label", "labels", "tags")
    ]
    rows: list[Mapping[str, Any]] = [{**row, **dict.fromkeys(targets)} for _, row in window]
    if tokenizer is None:
        _check_tokenised(window)
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
    batch = getattr(task, "encode_unlabelled", None) or (
        lambda rows, tokenizer: [task.encode(row, tokenizer) for row in rows]
    )
    samples: Sequence[Sample | None]
    try:
        samples = batch(rows, tokenizer)
    except NoTokens:
        samples = [_alone(row, batch, tokenizer) for row in rows]
    except KeyError as error:
        column = error.args[0] if error.args else "?"
        if column not in task.roles:
            raise
        what = f"the task reads {column!r}; add that column, or let its encode use row.get({column!r})"
        raise DataError([Problem(where=window[0][0], key=str(column), what=what)]) from error
    if given is not None:
        for (place, row), sample in zip(window, samples, strict=True):
            if sample is not None and row.get("input_ids") is not None:
                given.check(sample.ids, len(sample.ids), place, sample.segments)
    return samples


def _given_tokens(
    rows: Sequence[Mapping[str, Any]], task: Any, tokenizer: Any, forward: Forward
) -> GivenTokens | None:
    """What the model takes, where some rows are token ids already."""
    module = getattr(forward, "module", None)
    if not isinstance(module, nn.Module) or all(row.get("input_ids") is None for row in rows):
        return None
    return given_tokens(module, tokenizer, getattr(task, "max_length", None))


def _alone(row: Mapping[str, Any], batch: Callable[..., Sequence[Sample]], tokenizer: Any) -> Sample | None:
    try:
        return batch([row], tokenizer)[0]
    except NoTokens:
        return None


def _check_tokenised(window: Sequence[PlacedRow]) -> None:
    """Rows of a model without tokenizer."""
    for place, row in window:
        if row.get("input_ids") is None:
            what = "this model has no tokenizer: it was trained on rows of token ids, and predicts such rows only"
            raise DataError([Problem(where=place, key="input_ids", what=what)])


def describe(predictions: Predictions, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Each unit's prediction as plain data; classes without names are called by their number."""
    names = tuple(names) or tuple(map(str, range(predictions.scores.shape[1])))
    for unit, found in enumerate(predictions.values):
        if predictions.probabilities is None:
            value = [_plain(item) for item in np.atleast_1d(found)]
            yield {
                "value": value[0] if predictions.values.ndim == 1 else dict(zip(names, value, strict=True))
            }
            continue
        shares = [_plain(share) for share in predictions.probabilities[unit]]
        probabilities = dict(zip(names, shares, strict=True))
        if predictions.kind == "multi":
            applying = [name for name, applies in zip(names, found, strict=True) if applies]
            yield {"labels": applying, "probabilities": probabilities}
        else:
            yield {"label": names[found], "probability": shares[found], "probabilities": probabilities}


def _plain(number: Any) -> float | None:
    return float(number) if math.isfinite(number) else None

"""What another library's Trainer gives for rows: logits, labels and figures of a live model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigbatch.data.columns import guess_column
from bigbatch.data.labels import LabelSet, find_labels, kind_of, label_role
from bigbatch.data.objects import names_files, read_object
from bigbatch.data.sources import read_table
from bigbatch.data.tables import DataTable
from bigbatch.data.tokens import as_table
from bigbatch.errors import ModelError
from bigbatch.infer.forwards import run_forward
from bigbatch.infer.load import Loaded, open_live
from bigbatch.infer.origin import tokenizer_of
from bigbatch.infer.predict import encoded_rows
from bigbatch.infer.rows import evaluate_rows
from bigbatch.infer.unlabelled import rows_of_object
from bigbatch.model.heads import HEADS
from bigbatch.model.load import known_labels
from bigbatch.protocols import Tokenizer
from bigbatch.samples import Predictions, Table, Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.computed import ComputedMetrics, as_arrays, computed_metrics

if TYPE_CHECKING:
    from transformers import EvalPrediction


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """Figures of rows, and what they are made of."""

    figures: dict[str, float]
    """`loss` and metrics; empty for rows without labels."""
    logits: Any
    """(rows, C) float32, or (rows, words, C); None where nobody asked."""
    labels: Any
    samples: int


def evaluate_live(
    module: Any,
    tokenizer: Tokenizer | None,
    task: Task,
    rows: Any,
    *,
    columns: Mapping[str, str],
    compute_metrics: Any = None,
    device: str | None = None,
    logits: bool = False,
) -> Answer:
    """Figures of a live model on rows, and with `logits` those and the labels; without labels the logits alone.

    Args:
        module: the model; it is moved to the device and into evaluation mode.
        tokenizer: None: the rows are token ids.
        task: without labels; they are the model's.
        rows: any dataset that training takes.
        columns: role -> column.
        compute_metrics: takes the place of the task's own figures.
        device: None: an accelerator, where there is one.
        logits: whether they are wanted.

    Raises:
        DataError: malformed rows.
        ModelError: the model has another head.
    """
    if compute_metrics is not None:
        task = task.with_facts(metrics=(computed_metrics(compute_metrics, task, None),))
    files = names_files(rows)
    names = () if files else read_object(rows, list(task.roles)).columns
    if tokenizer is None and "input_ids" not in names:
        tokenizer = tokenizer_of(module)[1]
    table = None
    if files or _has_labels(task, names, columns):
        table = read_table(rows, base=Path.cwd(), columns=columns, roles=task.roles)
    opened = open_live(module, tokenizer, _with_labels(task, module, table), names, device)
    if table is None:
        found, tokens = _outputs(opened, rows, columns)
        values, _ = as_arrays(found, _targets(tokens))
        return Answer(figures={}, logits=values, labels=None, samples=len(tokens))
    kept: list[EvalPrediction] = []

    def keep(shown: EvalPrediction) -> dict[str, float]:
        kept.append(shown)
        return {}

    if logits:
        chosen = (*opened.task.metrics, ComputedMetrics(function=keep))
        opened = replace(opened, task=opened.task.with_facts(metrics=chosen))
    result = evaluate_rows(opened, table, Path.cwd(), columns)
    figures = {"loss": result.loss, **result.metrics}
    return Answer(
        figures={name: float("nan") if each is None else each for name, each in figures.items()},
        logits=kept[0].predictions if kept else None,
        labels=kept[0].label_ids if kept else None,
        samples=result.samples,
    )


def _has_labels(task: Task, names: Sequence[str], columns: Mapping[str, str]) -> bool:
    """Whether rows can be held against something: a language model's always can, against themselves."""
    role = label_role(task.roles)
    if role is None:
        return True
    wanted = columns.get(role)
    return (
        wanted in names
        if wanted
        else bool({"labels", *guess_column(role, task.roles[role].kind, names)} & {*names})
    )


def _with_labels(task: Task, module: Any, table: DataTable | None) -> Task:
    """The task with the model's labels; those of the rows, where the model's names mean nothing."""
    if not HEADS[task.head.kind].labelled:
        return task
    if task.labels:
        return task.with_facts(labels=LabelSet(tuple(task.labels)))
    names = known_labels(None, module)
    outer: Any = getattr(module, "config", None)
    if outer is None:
        raise ModelError(f"{type(module).__name__} has no configuration that says what its outputs are")
    role, kind = label_role(task.roles), kind_of(task.roles)
    if names is None and table is not None and role is not None:
        found = find_labels(table, role, kind, None)
        names = found.names if len(found) == outer.num_labels else None
    if kind == "regression" and outer.num_labels == 1:
        return task
    known = names or tuple(outer.id2label[each] for each in sorted(outer.id2label))
    return task.with_facts(labels=LabelSet(known))


def _outputs(opened: Loaded, rows: Any, columns: Mapping[str, str]) -> tuple[Predictions, Table]:
    placed = list(
        rows_of_object(
            rows,
            roles=opened.task.roles,
            columns=columns,
            classes=opened.task.label_names,
        )
    )
    samples = encoded_rows(placed, opened.task, opened.tokenizer, opened.forward)
    table = as_table(samples, opened.task.sequences, opened.task.prepare)
    outputs_UC = run_forward(opened.forward, table, micro_tokens=opened.micro_tokens)
    return opened.task.decode(outputs_UC), table


def _targets(table: Table) -> Targets:
    return Targets(values=table.values, weights=table.weights, extras=table.extras)

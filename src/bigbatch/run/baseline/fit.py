"""Which baselines a task has, fitted on its training rows and scored on the rows that the model is scored on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bigbatch.infer.evaluate import judged
from bigbatch.infer.generate import wanted_of
from bigbatch.metrics.bleu import is_written
from bigbatch.metrics.naming import is_own, reported_names
from bigbatch.metrics.span import Wanted, is_of_texts
from bigbatch.run.baseline.classify import classify_baselines
from bigbatch.run.baseline.contact import contact_baselines
from bigbatch.run.baseline.detect import detect_baselines
from bigbatch.run.baseline.diffuse import diffuse_baselines
from bigbatch.run.baseline.images import image_baselines
from bigbatch.run.baseline.match import TooLarge, match_baselines
from bigbatch.run.baseline.model import Baseline, Split
from bigbatch.run.baseline.neighbours import mlm_baselines
from bigbatch.run.baseline.ngram import clm_baselines
from bigbatch.run.baseline.prefer import prefer_baselines, reward_baselines
from bigbatch.run.baseline.rank import rank_baselines
from bigbatch.run.baseline.recommend import recommend_baselines
from bigbatch.run.baseline.seq2seq import seq2seq_baselines
from bigbatch.run.baseline.span import right_answers, span_baselines
from bigbatch.run.baseline.tag import tag_baselines
from bigbatch.samples import Predictions
from bigbatch.tasks.base import Task
from bigbatch.tasks.chat import Chat
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.clm import CausalLM
from bigbatch.tasks.contact import Contact
from bigbatch.tasks.detect import Detect
from bigbatch.tasks.diffuse import Diffuse
from bigbatch.tasks.image import Image
from bigbatch.tasks.match import Match
from bigbatch.tasks.mlm import MaskedLM
from bigbatch.tasks.prefer import Prefer
from bigbatch.tasks.rank import Rank
from bigbatch.tasks.recommend import Recommend
from bigbatch.tasks.reward import Reward
from bigbatch.tasks.seq2seq import Seq2Seq
from bigbatch.tasks.span import Span
from bigbatch.tasks.tag import Tag

Figures = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Name of a baseline -> split -> name -> loss or metric; None where the figure does not exist."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of it."""

    figures: Figures
    notes: Sequence[str]
    """What was left out for want of time or room, a sentence each."""
    seconds: float
    """What it took."""
    scores: Mapping[str, Mapping[str, np.ndarray]]
    """Name -> split -> one score a row (`metrics.row_scores`), where that was asked for."""


_TASKS = (
    Classify, Tag, Match, CausalLM, MaskedLM, Image, Detect, Prefer, Seq2Seq, Span, Chat, Reward, Contact,
    Recommend, Diffuse, Rank,
)  # fmt: skip


def has_baselines(task: Task) -> bool:
    """Whether a task is one of ours as it is: nobody knows what one of the user's own reads."""
    return type(task) in _TASKS


def fitted(
    task: Task,
    train: Split,
    evaluated: Mapping[str, Split],
    *,
    seconds: float,
    vocabulary: int,
    scored: Mapping[str, str] = {},
) -> Fitted:
    """Every baseline of a task, by its figures.

    Args:
        task: one that `has_baselines`, as the run uses it.
        train: what it may learn from.
        evaluated: name -> what it is scored on.
        seconds: how long fitting may take.
        vocabulary: token ids that a language model can predict.
        scored: split -> the figure by which its rows are scored, too.
    """
    started = time.monotonic()
    metrics = [metric for metric in task.metrics if not is_own(metric)]
    of_texts = {metric.name for metric in metrics if is_of_texts(metric)}
    figures: dict[str, dict[str, dict[str, float | None]]] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    notes = []
    for baseline in _fitted(task, train, [*evaluated.values()], seconds, vocabulary):
        if baseline.note:
            notes.append(f"{baseline.name}: {baseline.note}")
        of_splits = figures.setdefault(baseline.name, {})
        for name, split in evaluated.items():
            try:
                outputs = baseline.outputs(split)
                texts = None if baseline.texts is None else (baseline.texts(split), _wanted(task, split))
            except TooLarge as error:
                notes.append(f"{baseline.name}: {name} was not scored, which would take too long ({error})")
                continue
            by = [scored[name]] if name in scored else []
            own = [metric for metric in metrics if texts is None or metric.name in of_texts]
            if isinstance(task, (Prefer, Reward)) and isinstance(outputs, Predictions):
                own = [metric for metric in own if metric.name != "margin"]  # what is no reward has no margin
            by = [each for each in by if each in [name for metric in own for name in reported_names(metric)]]
            found = judged(task, split.table, outputs, own, scored=by, texts=texts)
            if by:
                scores.setdefault(baseline.name, {})[name] = found.scores[by[0]]
            loss = {} if found.loss is None else {"loss": found.loss}
            of_splits[name] = {key: _finite(value) for key, value in {**loss, **found.metrics}.items()}
    return Fitted(
        figures={name: splits for name, splits in figures.items() if splits},
        notes=notes,
        scores=scores,
        seconds=time.monotonic() - started,
    )


def _wanted(task: Task, split: Split) -> Wanted:
    """What each row's text is held against."""
    return wanted_of(task, split.table) if isinstance(task, Seq2Seq) else right_answers(split.table)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _fitted(
    task: Task, train: Split, evaluated: Sequence[Split], seconds: float, vocabulary: int
) -> Iterator[Baseline]:
    table = train.table
    if isinstance(task, Classify):
        if np.array_equal(table.unit_offsets, np.arange(len(table) + 1)):
            yield from classify_baselines(task, train, seconds)
    elif isinstance(task, Image):
        yield from image_baselines(train, task.head.outputs, seconds)
    elif isinstance(task, Detect):
        yield from detect_baselines(train, task.head.outputs)
    elif isinstance(task, Tag):
        yield from tag_baselines(task, train)
    elif isinstance(task, Match):
        yield from match_baselines(seconds)
    elif isinstance(task, (CausalLM, Chat)):
        yield from clm_baselines(train, vocabulary=vocabulary)
    elif isinstance(task, Seq2Seq):
        if any(map(is_written, task.metrics)):
            yield from seq2seq_baselines(train, seconds)
    elif isinstance(task, Prefer):
        yield from prefer_baselines(train, seconds, with_start=bool(task.needs))
    elif isinstance(task, Reward):
        yield from reward_baselines(train, seconds)
    elif isinstance(task, Span):
        yield from span_baselines(train, evaluated, task.language, seconds)
    elif isinstance(task, Diffuse):
        yield from diffuse_baselines(task, train)
    elif isinstance(task, Contact):
        yield from contact_baselines(task, train)
    elif isinstance(task, Rank):
        yield from rank_baselines(train)
    elif isinstance(task, Recommend):
        yield from recommend_baselines(task, train)
    elif isinstance(task, MaskedLM):
        yield from mlm_baselines(train, vocabulary=vocabulary)

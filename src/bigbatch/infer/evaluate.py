"""Evaluation of a split. Reads the model, touches nothing else: no gradient, no mode, no generator.

Loss and metrics are computed in fp64, in table order, with exact sums: they depend on the model's outputs alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from bigbatch.data.mixture import parts_by_source
from bigbatch.infer.answers import answers_of
from bigbatch.infer.chunks import targets_of, whole_rows
from bigbatch.infer.forwards import run_forward
from bigbatch.infer.generate import texts_of
from bigbatch.infer.maps import ContactMap, contact_maps
from bigbatch.infer.mistakes import EXAMPLES, Wrong, wrong_units
from bigbatch.infer.scenes import Scene, scenes_of
from bigbatch.metrics.bleu import is_written
from bigbatch.metrics.figures import Idle, why_undefined
from bigbatch.metrics.naming import named_figures, reported_names
from bigbatch.metrics.row_scores import RowSums, scorer_of
from bigbatch.metrics.span import Wanted, is_of_texts
from bigbatch.metrics.states import CalibrationMetric, confusion, counted
from bigbatch.metrics.sums import Parts, add_parts, exact_parts, total
from bigbatch.metrics.written import WrittenRow, shown_texts
from bigbatch.protocols import Forward, Metric, World
from bigbatch.samples import Packing, Predictions, Table, Targets
from bigbatch.tasks.base import Task
from bigbatch.tasks.contact import Contact
from bigbatch.tasks.detect import Detect
from bigbatch.tasks.seq2seq import Seq2Seq
from bigbatch.tasks.span import Span

NEVER_ABOVE_0 = "even a perfect model has 0 (one class alone, or no label at all)"
NOTHING_COUNTS = "nothing in this split counts: no token to predict, no label, or all weights 0"


@dataclass(frozen=True)
class Example:
    """A unit that the model got wrong."""

    row: int
    """Row of the table, from 0."""
    label: str | float
    """Name of the true class, or the true value."""
    predicted: str | float
    probability: float | None
    """Of the predicted class; None for regression."""
    unit: int = 0
    """Number of the unit in its row, from 0: which word, where words are tagged."""


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """What one evaluation of one split found."""

    loss: float | None
    """Weighted sum over units / sum of weights, over all terms, fp64; None where nothing in the split counts."""
    terms: Mapping[str, float | None]
    """The loss of each term; None for one of which nothing in the split counts."""
    metrics: dict[str, float | None]
    """By name; None where the figure does not exist on this split."""
    undefined: dict[str, str]
    """Why, for each None."""
    samples: int
    seconds: float
    confusion: np.ndarray | None = None
    """(C, C) int64, true class (rows) by predicted class (columns); single label only."""
    calibration: tuple[dict[str, Any], ...] = ()
    """Bins of the largest probability, as `CalibrationBin` has them; single label only."""
    examples: tuple[Example, ...] = ()
    """The most confidently wrong units (regression: the largest errors), worst first."""
    labels: tuple[str, ...] = ()
    """Class names in class order."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By figure that was asked for: one number a row that counts (N,) float64, in table order, larger is better; see
    `metrics.row_scores`. Two evaluations of a split can be paired by them (`rules.paired`)."""

    texts: tuple[WrittenRow, ...] = ()
    """Of those that the model wrote the ones least like what was wanted, some around the median and the best, worst
    first."""
    contacts: tuple[ContactMap, ...] = ()
    """Chains whose contacts are shown."""
    by_source: Mapping[str, EvalResult] = field(default_factory=dict)
    """Of a split that is a share of a mixture: the same of the rows of each source."""
    scenes: tuple[Scene, ...] = ()
    """Of images on which things are looked for: the worst first."""
    signatures: Mapping[str, str] = field(default_factory=dict)
    """Figure of written texts -> how it was counted, in sacrebleu's words."""

    @property
    def samples_per_second(self) -> float:
        """Speed of the whole evaluation, metrics included."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0


def evaluate(
    forward: Forward,
    task: Task,
    table: Table,
    metrics: Sequence[Metric] | None = None,
    *,
    micro_tokens: int,
    packing: Packing | None = None,
    world: World | None = None,
    scored: Collection[str] = (),
    writes: bool = True,
    sources: Sequence[str] = (),
) -> EvalResult:
    """Loss and metrics of a model on a tokenised split.

    Args:
        forward: gives (U, C) outputs of a micro-batch; its `module` is put into eval mode meanwhile.
        task: decodes outputs, gives losses and denominators.
        table: the split.
        metrics: None takes the task's.
        micro_tokens: upper bound of computed tokens of a micro-batch.
        packing: `packed` or `padded`, as the forward expects it; None: the quickest way that the forward knows.
        world: the ranks that share the forward passes; each then has all outputs and finds the same figures.
        scored: figures by which rows are scored, too.
        writes: whether texts are written; else figures of texts are left out.
        sources: names of `table.sources`, if it has some: each is judged by itself, too.
    """
    started = time.perf_counter()
    outputs_UC = run_forward(
        forward,
        table,
        micro_tokens=micro_tokens,
        packing=packing,
        keep=task.keep,
        world=world,
    )
    asked, texts = [*(task.metrics if metrics is None else metrics)], None
    if not writes:
        asked = [metric for metric in asked if not is_written(metric)]
    if isinstance(task, Seq2Seq) and any(map(is_written, asked)):
        texts = texts_of(forward, task, table, micro_tokens=micro_tokens, world=world)
    found = judged(task, table, outputs_UC, asked, scored=scored, started=started, texts=texts)
    return replace(found, by_source=_by_source(sources, task, table, outputs_UC, asked, texts, scored))


def judged(
    task: Task,
    table: Table,
    outputs: np.ndarray | Predictions,
    metrics: Sequence[Metric] | None = None,
    *,
    scored: Collection[str] = (),
    started: float | None = None,
    texts: tuple[Sequence[str], Wanted] | None = None,
) -> EvalResult:
    """Loss and metrics of what was given for all units of a split, whoever gave it.

    Args:
        task: decodes outputs, gives losses and denominators.
        table: the split.
        outputs: (U, C) in table order; or what the task would decode them to, and then there is no loss.
        metrics: None takes the task's.
        scored: figures by which rows are scored, too.
        started: by `time.perf_counter`, where giving the outputs counts; None: now.
        texts: what the model wrote for each row, and what was wanted, where a metric needs them; of questions: the
            answers that something else than a model gave.
    """
    started = time.perf_counter() if started is None else started
    losses = _Losses(task)
    gathered = _Gathered(task.metrics if metrics is None else metrics, scored)
    if isinstance(outputs, Predictions):
        rows_U = np.repeat(np.arange(len(table)), np.diff(table.unit_offsets))
        gathered.add(outputs, targets_of(table, slice(None)), 0, rows_U)
    else:
        losses.add_all(outputs, table)
        for part, rows_U in whole_rows(table):
            gathered.add(task.decode(outputs[part]), targets_of(table, part), part.start, rows_U)
    told, examples, counts = (
        texts,
        gathered.examples(table.unit_offsets, task.label_names),
        table.counted_units > 0,
    )
    if isinstance(task, Span):
        if texts is None:
            found = answers_of(task, outputs, table)
            told = found.texts
            examples = tuple(Example(*wrong) for wrong in found.wrong[:EXAMPLES])
        counts = np.ones(0 if told is None else len(told[0]), bool)
    if told is not None:
        gathered.add_texts(*told, counts)
    terms = losses.values()
    values, undefined = gathered.figures()
    known = [loss for loss in terms.values() if loss is not None]
    if not known:
        undefined = {"loss": NOTHING_COUNTS, **undefined}
    labels = task.label_names
    return EvalResult(
        loss=sum(known) if known else None,
        terms=terms,
        metrics=values,
        undefined=undefined,
        samples=len(table) if table.groups is None else len(np.unique(table.groups)),
        seconds=time.perf_counter() - started,
        confusion=gathered.confusion,
        calibration=gathered.bins(),
        examples=examples,
        labels=labels,
        scores={name: gathered.scores(name, losses) for name in scored},
        texts=() if texts is None else shown_texts(texts[0], [str(each) for each in texts[1]], EXAMPLES),
        contacts=_maps(task, outputs, table),
        signatures=gathered.signatures(),
        scenes=_scenes(task, table, outputs),
    )


def _scenes(task: Task, table: Table, outputs: np.ndarray | Predictions) -> tuple[Scene, ...]:
    if not isinstance(task, Detect) or isinstance(outputs, Predictions):
        return ()
    return scenes_of(task.decode(outputs), table, task.threshold)


def _maps(task: Task, outputs: np.ndarray | Predictions, table: Table) -> tuple[ContactMap, ...]:
    if isinstance(task, Contact) and isinstance(outputs, np.ndarray):
        return contact_maps(task, outputs, table)
    return ()


def _by_source(
    names: Sequence[str],
    task: Task,
    table: Table,
    outputs_UC: np.ndarray,
    metrics: Sequence[Metric],
    texts: tuple[Sequence[str], Wanted] | None,
    scored: Collection[str],
) -> dict[str, EvalResult]:
    found = {}
    for name, (rows, units, part) in zip(names, parts_by_source(table), strict=False):
        own = None if texts is None else (texts[0][rows], texts[1][rows])
        found[name] = judged(task, part, outputs_UC[units], metrics, texts=own, scored=scored)
    return found


def impossible_figures(task: Task, table: Table, metrics: Sequence[Metric]) -> dict[str, str]:
    """Figures, of these metrics and the loss, that not even a perfect model would have on a split, with reasons.

    Nor can a run be steered by those that are there and do not move: where the best of models has 0 of a figure of
    which more is better, as Matthews' correlation has with one class alone, every model has.

    Args:
        task: with its labels.
        table: the split.
        metrics: those that are asked for.

    Returns:
        Name of a figure -> why; those that can be had are left out.
    """
    if not table.counted_units.any():
        names = ("loss", *(name for metric in metrics for name in reported_names(metric)))
        return dict.fromkeys(names, NOTHING_COUNTS)
    gathered = _perfect(task, table, metrics)
    if gathered is None:
        return {}
    values, impossible = gathered.figures()
    rising = {name for metric in metrics if metric.larger_is_better for name in reported_names(metric)}
    nothing = {name: NEVER_ABOVE_0 for name in rising if values.get(name) == 0.0}
    return {**nothing, **gathered.idle, **impossible}


def perfect_figures(task: Task, table: Table, metrics: Sequence[Metric]) -> dict[str, float | None] | None:
    """What a perfect model would have of these metrics on a split; None where nobody can tell.

    Args:
        task: with its labels.
        table: the split.
        metrics: those that are asked for.
    """
    gathered = _perfect(task, table, metrics) if table.counted_units.any() else None
    return None if gathered is None else gathered.figures()[0]


def _perfect(task: Task, table: Table, metrics: Sequence[Metric]) -> _Gathered | None:
    metrics = [
        metric for metric in metrics if not is_of_texts(metric)
    ]  # a perfect model writes what is wanted
    gathered = _Gathered(metrics)
    for part, rows_U in whole_rows(table) if metrics else ():
        targets = targets_of(table, part)
        outputs_UC = task.perfect(targets)
        if outputs_UC is None:
            return None
        gathered.add(task.decode(outputs_UC), targets, part.start, rows_U)
    return gathered


class _Losses:
    """Per term: exact sum of weighted unit losses, and the denominator; and the sums of each row."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._sums: dict[str, Parts] = {}
        self._denominators: dict[str, Parts] = {}
        self._rows: dict[str, RowSums] = {}

    def add_all(self, outputs_UC: np.ndarray, table: Table) -> None:
        """A whole split; a loss that couples units sees them all at once."""
        most_units = max(1, len(outputs_UC)) if self._task.couples == "batch" else None
        for part, rows_U in whole_rows(table, most_units):
            targets = targets_of(table, part)
            counts_U = np.asarray(targets.weights) > 0
            targets = self._task.weigh(targets)
            for name, losses_U in self._task.kept_loss(outputs_UC[part], targets).items():
                self._sums[name] = add_parts(self._sums.get(name, ()), exact_parts(losses_U))
                # A loss of pairs has other units: each value is a row of its own.
                own = len(losses_U) != len(rows_U)
                places = np.arange(len(losses_U)) if own else rows_U
                counts = np.ones(len(losses_U), bool) if own else counts_U
                self._rows.setdefault(name, RowSums()).add(losses_U, places, counts)
            for name, count in self._task.denominators(targets).items():
                before = self._denominators.get(name, ())
                self._denominators[name] = add_parts(before, (count,) if count else ())

    def values(self) -> dict[str, float | None]:
        """Sum / denominator of each term; None of what does not occur in the split."""
        found: dict[str, float | None] = {}
        for name, parts in self._sums.items():
            denominator = total(self._denominators[name])
            found[name] = total(parts) / denominator if denominator else None
        return found

    def scores(self) -> np.ndarray:
        """What each row adds to the loss, negative: larger is better."""
        terms = [rows.parts(total(self._denominators[name])) for name, rows in self._rows.items()]
        terms = [term_N for term_N in terms if len(term_N)]
        # Terms of other rows cannot be added row by row.
        return -np.sum(terms, axis=0) if len({len(term_N) for term_N in terms}) == 1 else np.empty(0)


class _Gathered:
    """States of metrics, confusion and calibration, and the worst units, over the chunks so far."""

    def __init__(self, metrics: Sequence[Metric], scored: Collection[str] = ()) -> None:
        self.metrics = tuple(metrics)
        self._scorers = {name: scorer_of(name, self.metrics) for name in scored}
        self.states: list[Any] = [None] * len(self.metrics)
        self.confusion: np.ndarray | None = None
        self._calibration: Any = None
        self._worst: list[Wrong] = []
        self._counted = 0
        self._of_texts: dict[str, np.ndarray] = {}
        self.idle: dict[str, str] = {}

    def add(self, predictions: Predictions, targets: Targets, first_unit: int, rows_U: np.ndarray) -> None:
        """Take in the units of the table's next rows."""
        for scorer in self._scorers.values():
            if scorer is not None:
                scorer.add(predictions, targets, rows_U)
        self._counted += int(np.count_nonzero(np.asarray(targets.weights) > 0))
        for index, metric in enumerate(self.metrics):
            state, before = metric.add(predictions, targets), self.states[index]
            self.states[index] = state if first_unit == 0 else metric.merge(before, state)
        if predictions.kind == "single":
            cells = confusion(*counted(predictions, targets))
            self.confusion = cells if self.confusion is None else self.confusion + cells
            bins, calibration = CalibrationMetric(), self._calibration
            state = bins.add(predictions, targets)
            self._calibration = state if calibration is None else bins.merge(calibration, state)
        worst = [*self._worst, *wrong_units(predictions, targets, first_unit)]
        self._worst = sorted(worst, key=lambda wrong: (-wrong.badness, wrong.unit))[:EXAMPLES]

    def add_texts(self, written: Sequence[str], wanted: Wanted, counts_N: np.ndarray) -> None:
        """Take in the texts of the whole split.

        Args:
            written: by the model.
            wanted: as many.
            counts_N: (N,) bool: which rows are scored, of those that the figure is about.
        """
        for index, metric in enumerate(self.metrics):
            if is_of_texts(metric):
                self.states[index] = metric.of_texts(written, wanted)
                if metric.name in self._scorers:
                    self._of_texts[metric.name] = (rows := metric.rows(written, wanted))[
                        counts_N & ~np.isnan(rows)
                    ]

    def signatures(self) -> dict[str, str]:
        """Of the figures of texts."""
        pairs = zip(self.metrics, self.states, strict=True)
        return {
            metric.name: metric.signature(state) for metric, state in pairs if is_written(metric) and state
        }

    def figures(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """Values by name, and the reason of each that does not exist."""
        values: dict[str, float | None] = {}
        undefined: dict[str, str] = {}
        if not self._counted:
            names = [name for metric in self.metrics for name in reported_names(metric)]
            return dict.fromkeys(names), dict.fromkeys(names, NOTHING_COUNTS)
        found = [
            (metric, metric.value(state)) for metric, state in zip(self.metrics, self.states, strict=True)
        ]
        for name, item in named_figures(found).items():
            reason = why_undefined(item)
            if reason is not None:
                undefined[name] = reason
            if isinstance(item, Idle):
                self.idle[name] = item.reason
            values[name] = None if reason is not None else float(item)
        return values, undefined

    def scores(self, name: str, losses: _Losses) -> np.ndarray:
        """Of each row that counts, by this figure; by the loss where the figure gives rows none."""
        if name in self._of_texts:
            return self._of_texts[name]
        scorer = self._scorers[name]
        return losses.scores() if scorer is None else scorer.scores()

    def bins(self) -> tuple[dict[str, Any], ...]:
        """Calibration of the largest probability."""
        if self._calibration is None:
            return ()
        return tuple(asdict(each) for each in CalibrationMetric().bins(self._calibration))

    def examples(self, unit_offsets: np.ndarray, labels: Sequence[str]) -> tuple[Example, ...]:
        """The worst units, with the row that each belongs to and the names of its classes."""

        def named(value: int | float) -> str | float:
            if isinstance(value, float):
                return value
            return labels[value] if value < len(labels) else str(value)

        rows = [int(np.searchsorted(unit_offsets, wrong.unit, side="right")) - 1 for wrong in self._worst]
        return tuple(
            Example(
                row,
                named(wrong.label),
                named(wrong.predicted),
                wrong.probability,
                wrong.unit - int(unit_offsets[row]),
            )
            for row, wrong in zip(rows, self._worst, strict=True)
        )

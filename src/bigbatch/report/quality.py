"""evaluation.json -> what the quality section says: per-class figures, confusions, calibration, examples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bigbatch.report.text import clean, show_number


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """One class of a confusion matrix; figures are fractions, None where a denominator is 0."""

    label: str
    samples: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, kw_only=True)
class Confused:
    """So many samples of one class taken for another."""

    label: str
    predicted: str
    samples: int
    share: float
    """Of the true class's samples."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row that the model got wrong."""

    text: str
    label: str
    predicted: str
    probability: float | None
    where: str = ""
    """File and row, when they are known: `tweets.csv:812`."""
    image: str = ""
    """A small picture where the row is an image: PNG in base64, and nothing else."""


_PNG = re.compile("iVBORw0KGgo[A-Za-z0-9+/]{1,200000}={0,2}")


@dataclass(frozen=True, kw_only=True)
class SplitQuality:
    """What is known about one evaluated split beyond its metrics."""

    split: str
    labels: tuple[str, ...]
    confusion: tuple[tuple[float, ...], ...]
    """Rows are true classes, columns predictions; empty when there is none or it does not fit the labels."""
    classes: tuple[ClassFigures, ...]
    confused: tuple[Confused, ...]
    """Most frequent first."""
    calibration: tuple[tuple[float, float, float], ...]
    """(mean stated probability, share that was right, samples) of each bin that holds samples."""
    examples: tuple[Example, ...]


def split_quality(split: str, facts: Mapping[str, object]) -> SplitQuality:
    """Read one split's entry of evaluation.json; what is missing or malformed is left empty."""
    labels = tuple(clean(label) for label in _list(facts.get("labels")))
    confusion = _matrix(facts.get("confusion"), len(labels))
    return SplitQuality(
        split=split,
        labels=labels,
        confusion=confusion,
        classes=class_figures(confusion, labels),
        confused=most_confused(confusion, labels),
        calibration=_calibration(facts.get("calibration")),
        examples=tuple(
            _example(row, labels) for row in _list(facts.get("examples")) if isinstance(row, Mapping)
        ),
    )


def class_figures(confusion: Sequence[Sequence[float]], labels: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Precision, recall and F1 of each class from counts (rows true, columns predicted)."""
    figures = []
    for number, line in enumerate(confusion):
        right, true = line[number], sum(line)
        said = sum(row[number] for row in confusion)
        figures.append(
            ClassFigures(
                label=labels[number],
                samples=int(true),
                precision=right / said if said else None,
                recall=right / true if true else None,
                f1=2 * right / (said + true) if said + true else None,
            )
        )
    return tuple(figures)


def most_confused(confusion: Sequence[Sequence[float]], labels: Sequence[str]) -> tuple[Confused, ...]:
    """Every pair of classes that was confused, most frequent first."""
    pairs = [
        Confused(label=labels[row], predicted=labels[column], samples=int(count), share=count / sum(line))
        for row, line in enumerate(confusion)
        for column, count in enumerate(line)
        if row != column and count > 0
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.samples, pair.label, pair.predicted)))


def calibration_error(bins: Sequence[tuple[float, float, float]]) -> float | None:
    """Expected calibration error: the mean distance from the diagonal, weighted by samples."""
    total = sum(samples for _, _, samples in bins)
    return sum(abs(stated - right) * samples for stated, right, samples in bins) / total if total else None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _matrix(rows: object, size: int) -> tuple[tuple[float, ...], ...]:
    if not isinstance(rows, list) or len(rows) != size:
        return ()
    if any(not isinstance(row, list) or len(row) != size for row in rows):
        return ()
    if any(not isinstance(count, (int, float)) or count < 0 for row in rows for count in row):
        return ()
    return tuple(tuple(row) for row in rows)


def _calibration(bins: object) -> tuple[tuple[float, float, float], ...]:
    found = []
    for entry in _list(bins):
        if not isinstance(entry, Mapping):
            continue
        numbers = [_first(entry, names) for names in _BIN_KEYS]
        finite = [each for each in numbers if isinstance(each, (int, float)) and math.isfinite(each)]
        if len(finite) == len(numbers) and finite[2] > 0:
            found.append((finite[0], finite[1], finite[2]))
    return tuple(sorted(found))


_BIN_KEYS = (
    ("confidence", "mean_confidence", "probability"),
    ("accuracy", "share_right"),
    ("units", "samples", "count"),
)


def _first(entry: Mapping[str, object], names: Sequence[str]) -> object:
    return next((entry[name] for name in names if name in entry), None)


def _example(row: Mapping[str, object], labels: Sequence[str]) -> Example:
    probability = row.get("probability")
    return Example(
        text=clean(row.get("text", "")),
        label=_name(row.get("label"), labels),
        predicted=_name(row.get("predicted"), labels),
        probability=probability if isinstance(probability, (int, float)) else None,
        where=clean(row.get("where") or ""),
        image=picture_in(row.get("image")),
    )


def picture_in(value: object) -> str:
    """A PNG in base64 as it is, anything else as nothing."""
    return value if isinstance(value, str) and _PNG.fullmatch(value) else ""


def _name(value: object, labels: Sequence[str]) -> str:
    """A class by its name, whether it was written as a name or as a class id; a regression's value as a number."""
    if type(value) is int and 0 <= value < len(labels):
        return labels[value]
    return show_number(value)

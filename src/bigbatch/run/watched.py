"""Which figure `best`, `early_stopping.metric` and `gate` mean: `f1_macro`, or `hard.f1_macro` of a named split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from bigbatch.errors import Problem, RecipeError
from bigbatch.protocols import Metric
from bigbatch.recipe.schema import Recipe
from bigbatch.tasks.entities import EntityMetric, WordMetric
from bigbatch.tasks.matching import RankMetric
from bigbatch.tasks.states import CalibrationMetric, CountMetric, MeanMetric, WholeMetric

_PER_CLASS = "per_class"
_OURS = (CalibrationMetric, CountMetric, MeanMetric, WholeMetric, EntityMetric, WordMetric, RankMetric)
"""Metrics whose names are known; one of the user's own may report several, under names of its own."""


def figure_of(key: str, splits: Sequence[str]) -> tuple[str, str]:
    """Split and metric of a key; without a split's name, or with one that there is not, the first split.

    Example:
        >>> figure_of("hard.f1_macro", ["validation", "validation.hard"])
        ('validation.hard', 'f1_macro')
        >>> figure_of("f1_macro", ["test", "validation"])
        ('test', 'f1_macro')
    """
    for split in splits:
        for name in (split, split.removeprefix("validation."), "main" if split == "validation" else split):
            if key.startswith(f"{name}."):
                return split, key.removeprefix(f"{name}.")
    return splits[0], key


def gate_splits(splits: Iterable[str]) -> list[str]:
    """The splits that a gate can look at: the test split first, then the validation splits."""
    return sorted((split for split in splits if split != "train"), key=lambda split: split != "test")


def validation_splits(splits: Iterable[str]) -> list[str]:
    """The validation splits, the main one first."""
    return [split for split in splits if split == "validation" or split.startswith("validation.")]


def larger_is_better(name: str, metrics: Sequence[Metric]) -> bool:
    """Whether a reported figure improves upwards; a loss does not."""
    if name == "loss":
        return False
    for metric in metrics:
        if name == metric.name:
            return metric.larger_is_better
    for metric in metrics:
        if name.startswith(metric.name.removesuffix(_PER_CLASS)):
            return metric.larger_is_better
    return True


def check_watched(
    recipe: Recipe, metrics: Sequence[Metric], labels: Sequence[str], splits: Iterable[str]
) -> None:
    """Refuse a figure that no evaluation will report, before anything is computed.

    Raises:
        RecipeError: all of them, each with the nearest name.
    """
    splits = list(splits)
    watched = [("best", recipe.best)] if recipe.best else []
    if recipe.early_stopping is not None:
        watched.append(("early_stopping.metric", recipe.early_stopping.metric or recipe.best or "loss"))
    asked = [(place, key, validation_splits(splits)) for place, key in watched]
    asked += [(f"gate.{key}", key, gate_splits(splits)) for key in recipe.gate]
    problems = list(_problems(asked, metrics, labels))
    if problems:
        where = recipe.source.name if recipe.source else "recipe"
        raise RecipeError([Problem(where=where, key=place, what=what) for place, what in problems])


def _problems(
    asked: Iterable[tuple[str, str, list[str]]], metrics: Sequence[Metric], labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    names = ["loss", *_reported(metrics, labels)]
    names_are_known = all(isinstance(metric, _OURS) for metric in metrics)
    for place, key, splits in asked:
        if not splits:
            yield place, "there is no split that it could look at; name data.validation"
            continue
        metric = figure_of(key, splits)[1]
        if metric in names or not names_are_known:
            continue
        near = get_close_matches(metric, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        places = f"splits: {', '.join(splits)}; " if "." in metric else ""
        yield (
            place,
            f"{metric!r} is not among the figures of an evaluation{hint} ({places}figures: {', '.join(names)})",
        )


def _reported(metrics: Sequence[Metric], labels: Sequence[str]) -> Iterator[str]:
    """Names of the figures that these metrics report."""
    for metric in metrics:
        if getattr(metric, "reported", ()):
            yield from metric.reported  # type: ignore[attr-defined]
        elif isinstance(metric, CountMetric) and metric.name.endswith(f"_{_PER_CLASS}"):
            yield from (f"{metric.name.removesuffix(_PER_CLASS)}{label}" for label in labels)
        else:
            yield metric.name


def better(value: float, previous: float | None, larger_is_better: bool, min_delta: float) -> bool:
    """Whether `value` beats `previous` by more than `min_delta`; NaN never does."""
    if math.isnan(value):
        return False
    if previous is None:
        return True
    return value > previous + min_delta if larger_is_better else value < previous - min_delta

"""Which figure `best`, `early_stopping.metric` and `gate` mean: `f1_macro`; `hard.f1_macro` of a split or source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Protocol

from bigbatch.data.mixture import source_names
from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics.naming import clashes, is_own, reported_names
from bigbatch.metrics.states import WholeMetric
from bigbatch.protocols import Metric
from bigbatch.recipe.schema import Recipe


def figure_of(key: str, splits: Sequence[str]) -> tuple[str, str]:
    """Split and metric of a key; without a split's name, or with one that there is not, the first split.

    Example:
        >>> figure_of("hard.f1_macro", ["validation", "validation.hard"])
        ('validation.hard', 'f1_macro')
        >>> figure_of("f1_macro", ["test", "validation"])
        ('test', 'f1_macro')
    """
    whole = {split: split for split in splits}
    short = {
        "main" if split == "validation" else split.removeprefix("validation."): split for split in splits
    }
    # Whole names first, since a set may be called like another split; of `validation` and `validation.hard` the longer.
    for names in (whole, short):
        for name in sorted(names, key=len, reverse=True):
            if key.startswith(f"{name}."):
                return names[name], key.removeprefix(f"{name}.")
    return splits[0], key


def gate_splits(splits: Iterable[str]) -> list[str]:
    """The splits that a gate can look at: the test split first, then the validation splits."""
    return sorted((split for split in splits if split != "train"), key=lambda split: split != "test")


def validation_splits(splits: Iterable[str]) -> list[str]:
    """The validation splits, the main one first."""
    return [split for split in splits if split == "validation" or split.startswith("validation.")]


def source_splits(recipe: Recipe) -> tuple[str, ...]:
    """What the sources of a mixture are called beside the share of them that is held out: `validation.reviews`. Empty
    where no source is judged by itself.
    """
    files = recipe.data.train
    shared = bool(files) and all(file.share for file in files) and recipe.data.shuffle != "shards"
    if not shared or not isinstance(recipe.data.validation, float):
        return ()
    return tuple(f"validation.{name}" for name in source_names([file.path for file in files]))


class _Sourced(Protocol):
    """Rows or samples of a split, and where each of its sources begins."""

    @property
    def sources(self) -> tuple[int, ...]: ...


def judged_sources(recipe: Recipe, splits: Mapping[str, _Sourced]) -> tuple[str, ...]:
    """`source_splits` of a run whose validation rows know their sources.

    Args:
        recipe: of the run.
        splits: split -> its rows or samples.
    """
    main = splits.get("validation")
    return source_splits(recipe) if main is not None and main.sources else ()


def larger_is_better(name: str, metrics: Sequence[Metric]) -> bool:
    """Whether a reported figure improves upwards; a loss does not."""
    if name == "loss":
        return False
    for metric in metrics:
        if name in (metric.name, *reported_names(metric)):
            return metric.larger_is_better
    # Figures that only a metric of the user's knows the names of.
    own = [metric for metric in metrics if is_own(metric)]
    for metric in own:
        if name.startswith(metric.name):
            return metric.larger_is_better
    return own[0].larger_is_better if len(own) == 1 else True


Asked = tuple[str, str, list[str]]
"""Key of the recipe, the figure that it names, and the splits that it may be of."""


def asked_figures(recipe: Recipe, splits: Iterable[str]) -> list[Asked]:
    """Every figure that the recipe steers by."""
    splits = list(splits)
    best = recipe.best.metric
    watched = [("best", best)] if best else []
    if recipe.early_stopping is not None:
        watched.append(("early_stopping.metric", recipe.early_stopping.metric or best or "loss"))
    asked = [(place, key, validation_splits(splits)) for place, key in watched]
    return asked + [(f"gate.{key}", key, gate_splits(splits)) for key in recipe.gate]


def check_watched(recipe: Recipe, metrics: Sequence[Metric], splits: Iterable[str]) -> None:
    """Refuse a figure that no evaluation will report, before anything is computed.

    Args:
        recipe: names figures in `best`, `early_stopping` and `gate`.
        metrics: that evaluations report.
        splits: names of all splits: `validation.hard`.

    Raises:
        RecipeError: all of them, each with the nearest name.
    """
    splits = list(splits)
    where = recipe.source.name if recipe.source else "recipe"
    unclear = [Problem(where=where, key="metrics", what=what) for what in clashes(metrics)]
    if unclear:
        raise RecipeError(unclear)
    problems = list(_problems(asked_figures(recipe, splits), metrics))
    if problems:
        raise RecipeError([Problem(where=where, key=place, what=what) for place, what in problems])


def _problems(asked: Iterable[Asked], metrics: Sequence[Metric]) -> Iterator[tuple[str, str]]:
    names = ["loss", *(name for metric in metrics for name in reported_names(metric))]
    # A metric object of the user's may report several, under names of its own.
    names_are_known = all(not is_own(metric) or isinstance(metric, WholeMetric) for metric in metrics)
    for place, key, splits in asked:
        if not splits:
            yield place, "there is no split that it could look at; name data.validation"
            continue
        metric = figure_of(key, splits)[1]
        if metric in names or not names_are_known:
            continue
        known = names
        if "." in metric:
            known = [
                *(f"{split.removeprefix('validation.')}.{name}" for split in splits for name in names),
                *names,
            ]
        near = get_close_matches(metric, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        places = f"splits: {', '.join(splits)}; " if "." in metric else ""
        yield (
            place,
            f"{metric!r} is not among the figures of an evaluation{hint} ({places}figures: {', '.join(names)})",
        )


def better(value: float, previous: float | None, larger_is_better: bool, min_delta: float) -> bool:
    """Whether `value` beats `previous` by more than `min_delta`; NaN never does.

    Args:
        value: of this evaluation.
        previous: the best until now; None: there is none.
        larger_is_better: which way the figure improves.
        min_delta: least difference, in the figure's unit.
    """
    if math.isnan(value):
        return False
    if previous is None:
        return True
    return value > previous + min_delta if larger_is_better else value < previous - min_delta

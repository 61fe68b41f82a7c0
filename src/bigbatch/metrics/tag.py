"""The figures of tagging by name: entities where the tags mark some, else tags of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial

from bigbatch.errors import Problem, RecipeError
from bigbatch.metrics import figures
from bigbatch.metrics.entities import (
    OUTSIDE,
    EntityMetric,
    Figure,
    WordMetric,
    of_each_type,
    of_type,
    scheme_of,
    some_entities,
)
from bigbatch.metrics.naming import figure_of_class
from bigbatch.protocols import Metric

_FIGURES = {"precision": figures.precision, "recall": figures.recall, "f1": figures.f1}
_AVERAGES = {"micro": figures.micro, "macro": figures.macro, "weighted": figures.weighted}
TYPE_PREFIXES = tuple(f"{name}_" for name in _FIGURES)
MOST_TYPES = 20
"""Up to so many entity types (or tags, without entities), evaluations report F1 of each."""


def known_tag_metrics(names: Sequence[str], marked: bool) -> dict[str, Metric]:
    """Every figure of these tags by its name.

    Args:
        names: the tags, in class order.
        marked: whether they mark entities (`B-PER`); then precision, recall and f1 are those of entities.
    """
    names = tuple(names)
    accuracy = WordMetric(name="accuracy", figure=figures.accuracy, tags=names)
    found = _entity_metrics(names) if marked else _word_metrics(names)
    return {"accuracy": accuracy, **found}


def default_tag_metrics(names: Sequence[str], marked: bool) -> tuple[Metric, ...]:
    """What evaluations report when the recipe names no metrics."""
    known = known_tag_metrics(names, marked)
    first = ("f1", "precision", "recall", "accuracy") if marked else ("accuracy", "f1_macro", "f1_weighted")
    each = known["f1_per_type" if marked else "f1_per_class"]
    few = 0 < len(getattr(each, "reported", ())) <= MOST_TYPES
    return (*(known[name] for name in first), *([each] if few else []))


def tag_metric(name: str, names: Sequence[str], marked: bool, *, where: str = "recipe") -> Metric:
    """The metric of this name; `f1_PER` and the like are one entity type's.

    Args:
        name: as the recipe has it.
        names: the tags, in class order.
        marked: whether they mark entities (`B-PER`); then precision, recall and f1 are those of entities.
        where: the place that a message names: a file, say.

    Raises:
        RecipeError: there is none; names the nearest.
    """
    known = known_tag_metrics(names, marked)
    single = _of_one(tuple(names), marked)
    if name in known or name in single:
        return {**single, **known}[name]
    near = get_close_matches(name, [*known, *single], 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    what = f"unknown metric {name!r} for task tag{hint} (known: {', '.join(sorted(known))})"
    raise RecipeError([Problem(where=where, key="metrics", what=what)])


def _entity(name: str, figure: Figure, names: tuple[str, ...], reported: Sequence[str] = ()) -> EntityMetric:
    outside = names.index(OUTSIDE) if OUTSIDE in names else len(names)
    return EntityMetric(
        name=name,
        figure=figure,
        scheme=scheme_of(names),
        outside=outside,
        reported=tuple(reported),
    )


def _entity_metrics(names: tuple[str, ...]) -> dict[str, Metric]:
    types = scheme_of(names).types
    found: dict[str, Metric] = {}
    for prefix, figure in _FIGURES.items():
        for average, combine in _AVERAGES.items():
            name = f"{prefix}_{average}"
            found[name] = _entity(name, partial(some_entities, partial(combine, figure)), names)
        found[prefix] = _entity(prefix, partial(some_entities, partial(figures.micro, figure)), names)
        each = partial(of_each_type, figure, prefix, types)
        name = f"{prefix}_per_type"
        found[name] = _entity(name, each, names, [figure_of_class(prefix, kind) for kind in types])
    return found


def _word_metrics(names: tuple[str, ...]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    for prefix, figure in _FIGURES.items():
        for average, combine in _AVERAGES.items():
            name = f"{prefix}_{average}"
            found[name] = WordMetric(name=name, figure=partial(combine, figure), tags=names)
        each = partial(of_each_type, figure, prefix, names)
        reported = tuple(figure_of_class(prefix, tag) for tag in names)
        found[f"{prefix}_per_class"] = WordMetric(
            name=f"{prefix}_per_class", figure=each, tags=names, reported=reported
        )
    return found


def _of_one(names: tuple[str, ...], marked: bool) -> Mapping[str, Metric]:
    """`f1_PER`, `recall_NOUN`: the figure of one entity type, or of one tag."""
    found: dict[str, Metric] = {}
    for prefix, figure in _FIGURES.items():
        for index, kind in enumerate(scheme_of(names).types if marked else names):
            one, name = partial(of_type, figure, index, kind), figure_of_class(prefix, kind)
            found[name] = (
                _entity(name, one, names) if marked else WordMetric(name=name, figure=one, tags=names)
            )
    return found

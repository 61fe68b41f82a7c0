"""Names of figures: one key means one figure, wherever figures are recorded, watched, compared or drawn.

A class's figure is `f1_<class>`. Averages have names of the same form, so a class that is called like one (`macro`)
gets `f1_class:macro`; every other class keeps its plain name, and no two names can meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bigbatch.protocols import Metric

_MARK = "class:"
_TAKEN = frozenset({"macro", "micro", "weighted", "samples", "per_class", "per_type"})
"""What stands behind `f1_` in names of averages, or may one day."""
RESERVED = frozenset(
    {
        "kind",
        "time",
        "step",
        "split",
        "loss",
        "seconds",
        "samples",
        "samples_per_second",
        "nonfinite",
        "undefined",
    }
)
"""Keys of an evaluation beside its metrics."""


def figure_of_class(figure: str, name: str) -> str:
    """The key of one class's (entity type's, tag's) figure.

    Example:
        >>> figure_of_class("f1", "great"), figure_of_class("f1", "macro")
        ('f1_great', 'f1_class:macro')
    """
    marked = name in _TAKEN or name.startswith(_MARK)
    return f"{figure}_{_MARK if marked else ''}{name}"


def reported_names(metric: Metric) -> tuple[str, ...]:
    """Names of the figures that a metric reports: its own, unless it gives several."""
    return tuple(getattr(metric, "reported", ())) or (metric.name,)


def is_own(metric: Metric) -> bool:
    """Whether a metric is the user's: it may report figures under names that nobody knows before."""
    return bool(getattr(metric, "own", True))


def clashes(metrics: Sequence[Metric]) -> Iterator[str]:
    """What is wrong with the names of these metrics, a sentence each."""
    seen: dict[str, Metric] = {}
    for metric in metrics:
        for name in reported_names(metric):
            if name in RESERVED or name.startswith("loss."):
                yield f"a metric is called {name!r}, which an evaluation keeps for itself; give it another name"
            elif name in seen and (is_own(metric) or is_own(seen[name])):
                yield f"two metrics are called {name!r}; give yours another name"
            seen[name] = metric


def named_figures(values: Iterable[tuple[Metric, Any]]) -> dict[str, Any]:
    """Every figure under its key. A metric of the user's that gives several names them itself; a name that means
    another figure already gets the metric's in front: `mine:accuracy`.
    """
    values = list(values)
    several = [(metric, value) for metric, value in values if isinstance(value, Mapping) and is_own(metric)]
    found: dict[str, Any] = {}
    for metric, value in values:
        if isinstance(value, Mapping) and not is_own(metric):
            found.update(value)
        elif not isinstance(value, Mapping):
            found[metric.name] = value
    for metric, value in several:
        for name, item in value.items():
            taken = name in found or name in RESERVED or str(name).startswith("loss.")
            found[f"{metric.name}:{name}" if taken else str(name)] = item
    return found

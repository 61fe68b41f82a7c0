"""Which weights are kept, and whether validation still improves: evaluations are paired row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigbatch.run.watched import figure_of

if TYPE_CHECKING:
    from bigbatch.run.build import Parts


def scored_figures(parts: Parts, split: str) -> tuple[str, ...]:
    """The figures of a split by which evaluations are compared, so that its rows are scored by them."""
    stopping = parts.recipe.early_stopping
    names = [parts.best_metric, stopping.metric if stopping else None]
    if parts.open_end:
        names.append("loss")
    watched = [figure_of(name, parts.validation) for name in names if name and parts.validation]
    return tuple(dict.fromkeys(metric for place, metric in watched if place == split))

"""Columns that a task needs of another model than the one that learns: computed once, before update 1, and kept.

A derived column of the model that the run starts from holds a number a sample of what evaluations see of a split
(`Task.fixed`): the sum over its units of what `compute` gives. It stands in the targets at each unit of that sample,
`targets.extras[name]`, in fp64. One of a guide holds a vector a sample, the guide's embedding of that text, in fp32.

Shapes: U units, S samples, E width of a guide's embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from bigbatch.data.tables import DataTable
from bigbatch.errors import UsageError
from bigbatch.protocols import Row
from bigbatch.samples import EXTRA, UNITS, Table
from bigbatch.tasks.facts import TaskFacts


@dataclass(frozen=True)
class Guide:
    """A second model of embeddings, which reads the texts of the rows with a tokenizer of its own."""

    folder: str
    """Its folder, or that of a run, as the recipe names it."""
    texts: Callable[[Row], Sequence[tuple[str, str]]]
    """A row -> (role, text) of each of its units."""


@dataclass(frozen=True)
class Derived:
    """One column."""

    name: str
    """Of the column, and of its file (`RUN/derived/NAME.bin`)."""
    compute: Callable[..., Tensor] | None = None
    """(outputs of U units, their targets) -> (U, 1); summed over each sample. None: it is the guide's."""
    guide: Guide | None = None


def sums_of(values_U: np.ndarray, fixed: Table) -> np.ndarray:
    """(S,) float64 sums over each sample's units, in order."""
    sums_S, filled_S = np.zeros(len(fixed)), fixed[UNITS].lengths > 0
    if filled_S.any():
        sums_S[filled_S] = np.add.reduceat(values_U.astype(np.float64), fixed.unit_offsets[:-1][filled_S])
    return sums_S


def with_columns(table: Table, columns_U: Mapping[str, np.ndarray]) -> Table:
    """The table with further numbers of its units, each (U,) float64, or (U, E) float32."""
    units = table[UNITS].load()
    extras = {f"{EXTRA}{name}": values_U for name, values_U in columns_U.items()}
    return table.replaced(units=replace(units, columns={**units.columns, **extras}))


def derived(
    table: Table, needs: tuple[Derived, ...], facts: TaskFacts, rows: DataTable | None = None
) -> Table:
    """What evaluations see of a split, with the columns that the task needs.

    Args:
        table: the split.
        needs: the columns.
        facts: of the task: who computes them.
        rows: of the split, for a guide.

    Raises:
        UsageError: the model that computes them is not known here.
    """
    if not needs:
        return table
    if facts.derive is None:
        raise UsageError(
            "figures and predictions of this task hold the trained model against the one that its run started from, "
            "which is not known here: name the run's directory, not a model's folder"
        )
    return facts.derive(table, rows)


def promised(table: Table, needs: tuple[Derived, ...]) -> Table:
    """The table with zeros in place of what is not known yet: enough for time and memory."""
    if not needs:
        return table
    units = len(table.weights)
    zeros_U, zeros_U1 = np.broadcast_to(np.float64(0), units), np.broadcast_to(np.float32(0), (units, 1))
    return with_columns(table, {each.name: zeros_U1 if each.guide else zeros_U for each in needs})

"""Chains of a split whose contacts are shown: the worst predicted one, one in the middle, the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigbatch.metrics.contact import candidates, chains_of, contacts_of, scores_of, surest
from bigbatch.samples import Table, Targets
from bigbatch.tasks.contact import Contact

MOST_LETTERS = 1000
"""Of a chain that is shown."""


@dataclass(frozen=True, kw_only=True)
class ContactMap:
    """What touches in a chain, and what is said to."""

    row: int
    """Row of the table, from 0."""
    letters: int
    precision: float
    """Of the pairs that are said to touch."""
    true: tuple[tuple[int, int], ...]
    """Pairs i < j of letters, from 0."""
    predicted: tuple[tuple[int, int], ...]
    """As many pairs as letters, the surest."""
    place: str
    """`worst`, `typical` or `best`."""


def contact_maps(task: Contact, outputs_UC: np.ndarray, table: Table) -> tuple[ContactMap, ...]:
    """Three chains at most.

    Args:
        task: of the outputs.
        outputs_UC: (U, C) of the split.
        table: the split.
    """
    predictions = task.decode(outputs_UC)
    values, weights = np.asarray(table.values), np.asarray(table.weights)
    metric = task.metric("precision@L")
    parts = {
        int(np.searchsorted(table.unit_offsets, part.start, side="right")) - 1: part
        for part in chains_of(values)
        if part.stop - part.start <= MOST_LETTERS
    }
    scored: list[tuple[float, int]] = []
    for row, part in parts.items():
        alone = Targets(values=values[part], weights=weights[part])
        found = metric.add(task.decode(outputs_UC[part]), alone)
        if found[0]:
            scored.append((float(metric.value(found)), row))  # pyright: ignore[reportArgumentType]
    scored.sort()
    places = {len(scored) // 2: "typical", 0: "worst", len(scored) - 1: "best"} if scored else {}
    maps = []
    for at, place in sorted(places.items()):
        precision, row = scored[at]
        part = parts[row]
        pairs = candidates(weights[part], task.separation)
        touch = contacts_of(values[part], task.distance)[pairs]
        kept = surest(scores_of(predictions, part), pairs, part.stop - part.start)
        maps.append(
            ContactMap(
                row=row,
                letters=part.stop - part.start,
                precision=precision,
                true=_pairs(pairs, np.flatnonzero(touch)),
                predicted=_pairs(pairs, np.sort(kept)),
                place=place,
            )
        )
    return tuple(maps)


def _pairs(pairs: tuple[np.ndarray, np.ndarray], chosen: np.ndarray) -> tuple[tuple[int, int], ...]:
    firsts, seconds = (each[chosen].tolist() for each in pairs)
    return tuple(zip(firsts, seconds, strict=True))

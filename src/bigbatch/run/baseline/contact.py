"""The baseline of contacts: how often letters so far apart touch in training, whatever the letters are.

    s_ij = log odds of a contact of letters j - i apart, smoothed

Chains bring neighbours of their neighbours close, so this alone knows much of what is near; of what is far it knows
that nearer is likelier.

Shapes: D distances in the chain, L letters of one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bigbatch.metrics.contact import candidates, chains_of, contacts_of
from bigbatch.run.baseline.model import Baseline, Split, spread
from bigbatch.samples import Predictions, Table
from bigbatch.tasks.contact import Contact

APART = "how_far_apart"
_MOST_CHAINS = 2000
_SMOOTH = 10.0
"""Pairs of the usual frequency that every distance is given."""


def contact_baselines(task: Contact, train: Split) -> Iterator[Baseline]:
    """That of `task: contact`."""
    known = spread(len(train.table), _MOST_CHAINS)
    odds_D = separation_odds(train.table.take(known).load(), task.distance, task.separation)

    def outputs(split: Split) -> Predictions:
        units = len(split.table.weights)
        scores_UD = np.broadcast_to(odds_D, (units, len(odds_D)))
        return Predictions(
            kind="separations", scores=scores_UD, probabilities=None, values=np.zeros(units, np.int64)
        )

    note = f"counted {len(known):,} of {len(train.table):,} chains" if len(known) < len(train.table) else ""
    yield Baseline(name=APART, outputs=outputs, note=note)


def separation_odds(table: Table, distance: float, separation: int) -> np.ndarray:
    """(D,) float64: log odds of a contact 1, 2, … D letters apart.

    Args:
        table: chains to learn from.
        distance: Å below which two letters touch.
        separation: letters that the partners of a pair are apart, at least.
    """
    longest = int(np.diff(table.unit_offsets).max(initial=1))
    counts_2D = np.zeros((2, max(1, longest - 1)))
    values, weights = np.asarray(table.values), np.asarray(table.weights)
    for part in chains_of(values):
        firsts, seconds = candidates(weights[part], separation)
        touch = contacts_of(values[part], distance)[firsts, seconds]
        for row, counted in enumerate((seconds - firsts, (seconds - firsts)[touch])):
            counts_2D[row] += np.bincount(counted - 1, minlength=counts_2D.shape[1])[: counts_2D.shape[1]]
    pairs_D, touching_D = counts_2D
    usual = (touching_D.sum() + 1.0) / (pairs_D.sum() + 2.0)
    shares_D = (touching_D + _SMOOTH * usual) / (pairs_D + _SMOOTH)
    return np.log(shares_D / (1 - shares_D))

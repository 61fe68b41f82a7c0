"""Histories in windows that a model can see, as (6 items; windows of 4, 2 apart; all but the first are predicted):

    history a b c d e f     windows a b c      from which b, c and d are predicted
                                    b c d e    from which e and f are

The last window ends where the last item is predicted from, each one before it `stride` earlier. An item is predicted
once, from the window that has most in front of it.

Shapes: B histories, S windows, U units (predicted items), H items of the longest history.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bigbatch.samples import EXTRA, TOKENS, UNITS, Stream, Table, offsets_of, starts_of

EVALUATED = "evaluated"
"""Extra of units: 1 where they are ranked for figures or predictions, 0 where they are learnt from."""
SEEN = "seen"
"""Extra of units that are ranked (U, H): the ids of all items in front of each, then the first of them again."""


def history_windows(table: Table, most: int, stride: int) -> Table:
    """Histories cut into windows.

    Args:
        table: histories, with units whose places are ascending in each.
        most: items of a window.
        stride: items by which windows are apart, at most `most`.

    Returns:
        Windows; histories without a unit have none. Units that are ranked have `SEEN`.
    """
    units, starts_B = table[UNITS].load(), np.asarray(table.token_offsets)
    counts_B = units.lengths
    kept_B = np.flatnonzero(counts_B)
    if not len(kept_B):
        return table
    reads_U, offsets_B = np.asarray(units.columns["at"], np.int64), units.offsets
    first_B, last_B = reads_U[offsets_B[kept_B]], reads_U[offsets_B[kept_B + 1] - 1]
    beyond_B = np.maximum(last_B + 1 - most, 0)
    windows_B = np.minimum(-(-beyond_B // stride), (last_B - first_B) // stride) + 1
    owner_S = np.repeat(np.arange(len(kept_B)), windows_B)
    windows = offsets_of(windows_B)
    from_end_S = windows[owner_S + 1] - 1 - np.arange(len(owner_S))
    end_S = last_B[owner_S] - from_end_S * stride + 1
    start_S = np.maximum(end_S - most, 0)
    owner_U = np.repeat(np.arange(len(kept_B)), counts_B[kept_B])
    from_end_U = np.minimum((last_B[owner_U] - reads_U) // stride, windows_B[owner_U] - 1)
    window_U = windows[owner_U + 1] - 1 - from_end_U
    columns = {name: column for name, column in units.columns.items() if name != f"{EXTRA}{EVALUATED}"}
    columns["at"] = (reads_U - start_S[window_U]).astype(np.int32)
    ranked = np.asarray(units.columns[f"{EXTRA}{EVALUATED}"]) > 0
    if ranked.any():
        columns[f"{EXTRA}{SEEN}"] = _seen(table, starts_B[kept_B][owner_U], reads_U)
    tokens = table[TOKENS].load()
    at_T = stretches(starts_B[kept_B][owner_S] + start_S, end_S - start_S)
    counts_S = np.bincount(window_U, minlength=len(owner_S))
    found = table.replaced(
        tokens=replace(
            tokens,
            columns={name: column[at_T] for name, column in tokens.columns.items()},
            offsets=offsets_of(end_S - start_S),
        ),
        units=Stream(columns=columns, offsets=offsets_of(counts_S)),
    )
    return replace(found, groups=kept_B[owner_S], together=False) if ranked.any() else found


def _seen(table: Table, starts_U: np.ndarray, reads_U: np.ndarray) -> np.ndarray:
    """(U, H) int32: the ids of the items up to and with the one that a unit is read at."""
    places_H = np.arange(int(reads_U.max()) + 1)
    there_UH = places_H <= reads_U[:, None]
    ids = np.asarray(table.ids)
    return ids[starts_U[:, None] + np.where(there_UH, places_H, 0)].astype(np.int32)


def stretches(firsts_S: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """first, first + 1, … of each stretch, one behind the other (sum of lengths,) int64."""
    return np.arange(int(lengths_S.sum())) + np.repeat(firsts_S - starts_of(lengths_S), lengths_S)

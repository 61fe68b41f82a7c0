"""Which texts are alike: groups of rows that share most of their stretches of K letters.

    alike(a, b)   Jaccard(K-mers of a, K-mers of b) >= threshold
    a group       rows that a chain of such pairs connects

Pairs are found by MinHash in bands (Broder 1997; Leskovec et al., Mining of Massive Datasets, 3.4) and then compared
exactly: no pair below the threshold connects, and one of similarity s is found with probability
1 - (1 - s^4)^32: .87 at .5, .99 at .6.

Shapes: N texts, H hashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

BANDS, ROWS = 32, 4
_SEED = 0x5A17
_ALL_PAIRS = 64
_PRIME = np.uint64((1 << 61) - 1)


def groups_of_alike(texts: Sequence[str], *, letters: int, threshold: float) -> np.ndarray:
    """(N,) int64: the number of the first text of each one's group.

    Args:
        texts: without case and white space.
        letters: of a stretch (K); a shorter text is one stretch.
        threshold: above 0, at most 1.
    """
    stretches = [_stretches("".join(text.split()).upper(), letters) for text in texts]
    signatures_NH = _signatures(stretches)
    above = np.arange(len(texts))
    for first, second in _candidates(signatures_NH):
        a, b = _root(above, first), _root(above, second)
        if a != b and _jaccard(stretches[first], stretches[second]) >= threshold:
            above[max(a, b)] = min(a, b)
    return np.array([_root(above, row) for row in range(len(texts))], np.int64)


def _stretches(text: str, letters: int) -> np.ndarray:
    """Sorted, distinct hashes of a text's stretches."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    length = max(1, min(letters, len(points)))
    if not len(points):
        return np.zeros(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(points, length)
    powers = np.power(np.uint64(1_000_003), np.arange(length, dtype=np.uint64))
    return np.unique((windows * powers).sum(1, dtype=np.uint64))


def _signatures(stretches: Sequence[np.ndarray]) -> np.ndarray:
    """(N, H) uint64 minimum of each hash over a text's stretches."""
    draws = np.random.default_rng(_SEED)
    factors_H = draws.integers(1, 2**31, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
    terms_H = draws.integers(0, 2**31, BANDS * ROWS, dtype=np.uint64)
    found = np.full((len(stretches), BANDS * ROWS), np.iinfo(np.uint64).max, np.uint64)
    for row, own in enumerate(stretches):
        if len(own):
            mixed = own ^ (own >> np.uint64(29))
            found[row] = ((mixed[:, None] * factors_H + terms_H) % _PRIME).min(0)
    return found


def _candidates(signatures_NH: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs that are equal in a band; of very many the first with each, and neighbours."""
    for band in range(BANDS):
        columns = signatures_NH[:, band * ROWS : (band + 1) * ROWS]
        order = np.lexsort(columns.T)
        same = (columns[order[1:]] == columns[order[:-1]]).all(1)
        start = 0
        for end in [*(np.flatnonzero(~same) + 1).tolist(), len(order)]:
            members = np.sort(order[start:end]).tolist()
            if len(members) <= _ALL_PAIRS:
                yield from itertools.combinations(members, 2)
            else:
                yield from ((members[0], member) for member in members[1:])
                yield from itertools.pairwise(members)
            start = end


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    if not len(first) and not len(second):
        return 1.0
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def _root(above: np.ndarray, row: int) -> int:
    while above[row] != row:
        above[row] = above[above[row]]
        row = int(above[row])
    return row

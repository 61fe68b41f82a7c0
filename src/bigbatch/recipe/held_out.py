"""How many rows a share of `data.validation` takes, so that the first recipe foretells what the split will do."""

from __future__ import annotations

import math


def held_out_of(rows: int, share: float) -> int:
    """Rows of a class (or of all data, where there are no classes) that go to validation.

    ::

        round(share rows), at least one, and at least one stays; of a single row none

    Args:
        rows: of the class.
        share: above 0 and below 1.

    Example:
        >>> [held_out_of(rows, 0.1) for rows in (1, 2, 14, 15, 100)]
        [0, 1, 1, 2, 10]
    """
    return max(0, min(max(math.floor(rows * share + 0.5), 1), rows - 1))

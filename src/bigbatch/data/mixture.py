"""Several sources by share: which of them each position of the stream draws from, as arithmetic.

    a share .7, b share .3:   a a b a a b a a a b | a a b a a …      parts 7 and 3 of a period of 10

Before any position p a source with share w has been drawn from less than one time more or fewer than w p; so any n
positions in a row hold its share to within two samples. Each source has shuffled epochs of its own and begins them anew
as often as its share asks. A position is all the state there is; ranks, workers and batches change nothing.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from bigbatch.data.order import SampleOrder, mixed
from bigbatch.samples import UNITS, Stream, Table

MOST_PARTS = 2**16
"""Of a period; shares that would need a longer one are kept to the nearest of these."""
_STREAM = 0x3117
"""Keeps the sources' orders apart from those of the whole split, which start from the same seed."""


def whole_parts(shares: Sequence[float]) -> tuple[int, ...]:
    """Shares as the smallest whole numbers in their ratio; they need not sum to 1.

    Args:
        shares: above 0, one a source.

    Example:
        >>> whole_parts([0.7, 0.3]), whole_parts([1, 1, 1]), sum(whole_parts([0.123456789, 1]))
        ((7, 3), (1, 1, 1), 65536)
    """
    exact = [Fraction(repr(float(share))) for share in shares]  # as it was typed: 0.7 is 7/10
    total = sum(exact)
    wanted = [share / total for share in exact]
    period = math.lcm(*(share.denominator for share in wanted))
    if period <= MOST_PARTS:
        return tuple(int(share * period) for share in wanted)
    parts = [max(1, math.floor(share * MOST_PARTS)) for share in wanted]
    by_rest = sorted(range(len(parts)), key=lambda source: parts[source] - wanted[source] * MOST_PARTS)
    for source in by_rest[: max(0, MOST_PARTS - sum(parts))]:
        parts[source] += 1
    return tuple(parts)


def source_pattern(parts: Sequence[int]) -> np.ndarray:
    """Which source each position of a period draws from: of the draws that are due, the one that is due first.

    ::

        draw n of source k:  from position floor(n D / c_k), before position ceil((n + 1) D / c_k),   D = sum of c

    Every draw finds a place within its bounds, since the bounds are those of a uniprocessor fully and fairly shared.

    Args:
        parts: c_k, positions of each source in a period.

    Returns:
        (D,) int64.

    Example:
        >>> source_pattern([7, 3]).tolist()
        [0, 0, 1, 0, 0, 1, 0, 0, 0, 1]

    Reference: Baruah, Cohen, Plaxton, Varvel, "Proportionate progress", Algorithmica 1996; Tijdeman, "The chairman
    assignment problem", Discrete Mathematics 1980. It differs from both in what is enough for one machine and shares
    that sum to the whole: the earliest deadline.
    """
    period = sum(parts)
    waiting = [(0, source, 0) for source in range(len(parts))]
    due: list[tuple[int, int, int]] = []
    found = np.empty(period, np.int64)
    for position in range(period):
        while waiting and waiting[0][0] <= position:
            _, source, number = heapq.heappop(waiting)
            heapq.heappush(due, (-(-(number + 1) * period // parts[source]), source, number))
        deadline, source, number = heapq.heappop(due)
        assert position < deadline, "shares sum to the whole"
        found[position] = source
        if number + 1 < parts[source]:
            heapq.heappush(waiting, ((number + 1) * period // parts[source], source, number + 1))
    return found


def source_names(paths: Sequence[str]) -> tuple[str, ...]:
    """What the sources of a mixture are called in records: their files' names, numbered where two are the same.

    Args:
        paths: of each source, or its pattern, or its address.

    Example:
        >>> source_names(["a/tweets.csv.gz", "b/tweets.jsonl", "s3://bucket/talks-*.parquet", "reviews/"])
        ('tweets', 'tweets-2', 'talks', 'reviews')
    """
    found: list[str] = []
    for path in paths:
        last = path.partition("?")[0].rstrip("/*").rpartition("/")[2].partition(".")[0]
        name = plain = re.sub(r"[^\w-]+", "-", last).strip("-") or "source"
        number = 1
        while name in found or name == "main":  # the whole split's
            number += 1
            name = f"{plain}-{number}"
        found.append(name)
    return tuple(found)


class MixedOrder:
    """The endless stream of several sources that lie one behind the other in a table; reads like a `SampleOrder`.

    Args:
        sizes: rows of each source.
        parts: of each source in a period, as `whole_parts` gives them.
        seed: `seed.data`.
    """

    def __init__(self, sizes: Sequence[int], parts: Sequence[int], seed: int) -> None:
        assert len(sizes) == len(parts) and all(sizes), "every source of a mixture has rows"
        self.samples = sum(sizes)
        self._parts = np.asarray(parts, np.int64)
        self._firsts = np.cumsum([0, *sizes])
        self._orders = [SampleOrder(size, mixed(seed, _STREAM, source)) for source, size in enumerate(sizes)]
        self._pattern = source_pattern(parts)
        self._before = np.empty(len(self._pattern), np.int64)
        """(D,) draws of its own source before each position of a period."""
        for source in range(len(parts)):
            mine = self._pattern == source
            self._before[mine] = np.arange(int(mine.sum()))

    def ids(self, first_position: int, count: int) -> np.ndarray:
        """Row numbers of the table at positions `first_position` … `first_position + count - 1` (count,) int64."""
        found = np.empty(count, np.int64)
        for source, places, first in self._draws(first_position, count):
            found[places] = self._firsts[source] + self._orders[source].ids(first, len(places))
        return found

    def epochs(self, first_position: int, count: int) -> np.ndarray:
        """How often the source of each position has been gone through before (count,) int64."""
        found = np.empty(count, np.int64)
        for source, places, first in self._draws(first_position, count):
            found[places] = self._orders[source].epochs(first, len(places))
        return found

    def counts(self, position: int) -> list[int]:
        """Draws from each source before a position."""
        periods, offset = divmod(position, len(self._pattern))
        begun = np.bincount(self._pattern[:offset], minlength=len(self._parts))
        return [periods * int(part) + int(more) for part, more in zip(self._parts, begun, strict=True)]

    def sum_before(self, position: int, values_N: np.ndarray) -> int:
        """Sum of a whole number a row over all earlier positions.

        Args:
            position: samples of the stream consumed.
            values_N: (N,) of the table's rows; the same ones in every call.
        """
        bounds = zip(self._firsts[:-1], self._firsts[1:], strict=True)
        return sum(
            order.sum_before(drawn, values_N[first:end])
            for order, drawn, (first, end) in zip(self._orders, self.counts(position), bounds, strict=True)
        )

    def _draws(self, first_position: int, count: int) -> list[tuple[int, np.ndarray, int]]:
        """(source, places among the positions, number of its first draw there) of the sources that are drawn from."""
        periods, offset = divmod(first_position, len(self._pattern))
        places = offset + np.arange(count, dtype=np.int64)
        sources = self._pattern[places % len(self._pattern)]
        found = []
        for source in range(len(self._parts)):
            mine = np.flatnonzero(sources == source)
            if len(mine):
                more, within = divmod(int(places[mine[0]]), len(self._pattern))
                first = (periods + more) * int(self._parts[source]) + int(self._before[within])
                found.append((source, mine, first))
        return found


def joined(tables: Sequence[Table]) -> Table:
    """Tables with the same columns one behind the other, gathered; `sources` are where each begins."""
    tables = [table.load() if _is_taken(table) else table for table in tables]
    streams = {
        name: Stream(
            columns={
                column: np.concatenate([table[name].columns[column] for table in tables])
                for column in stream.columns
            },
            offsets=_offsets([table[name].offsets for table in tables]),
            positions=stream.positions,
        )
        for name, stream in tables[0].streams.items()
    }
    return replace(
        tables[0],
        streams=streams,
        groups=_groups([table.groups for table in tables]),
        truncated_samples=sum(table.truncated_samples for table in tables),
        sources=tuple(np.cumsum([0, *map(len, tables)])[:-1].tolist()),
    )


def parts_by_source(table: Table) -> Iterator[tuple[slice, slice, Table]]:
    """(rows, units, table of them) of each of a table's sources that has rows; nothing where it has no sources.

    Its groups are numbered from 0, as those of a table of its own.
    """
    units = np.asarray(table.unit_offsets) if table.sources else np.empty(0)
    for first, end in zip(table.sources, [*table.sources[1:], len(table)], strict=bool(table.sources)):
        part = table.take(np.arange(first, end))
        part = part.replaced(units=part[UNITS].load())
        if part.groups is not None:
            part = replace(part, groups=np.unique(part.groups, return_inverse=True)[1])
        yield slice(first, end), slice(int(units[first]), int(units[end])), part


def _is_taken(table: Table) -> bool:
    return any(stream.rows is not None for stream in table.streams.values())


def _offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    ends = np.cumsum([0, *(int(part[-1]) for part in parts)])
    return np.concatenate([part[int(at > 0) :] + ends[at] for at, part in enumerate(parts)])


def _groups(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    found, most = [], 0
    for part in parts:
        if part is None:
            return None
        found.append(part + most)
        most += int(part.max(initial=-1)) + 1
    return np.concatenate(found)

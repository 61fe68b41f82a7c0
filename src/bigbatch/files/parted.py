"""Rows dealt to training, validation and test, so that what belongs together does not stand on both sides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bigbatch.errors import Problem, UsageError
from bigbatch.files.converted import Say, check_new, say_nothing, values_of, write_rows
from bigbatch.files.kinds import find_files, read_file
from bigbatch.files.plain import is_missing, plain
from bigbatch.files.problems import data_error, nearest, one_error
from bigbatch.files.raw import Raw
from bigbatch.files.similar import groups_of_alike
from bigbatch.frames import said_plainly

By = Literal["rows", "column", "similarity", "time", "last"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Parting:
    """How rows are dealt."""

    by: By = "rows"
    """`rows`: each alone; `column`: those of one value together; `similarity`: texts that are alike together; `time`:
    the latest to test, those before them to validation; `last`: of each value of a column the latest row to test, the
    one before it to validation."""
    column: str | None = None
    """Of `column` and `last`: whose values belong together; of `similarity`: of texts."""
    time: str | None = None
    """Of `time` and `last`: the column by which rows are ordered; None: the file's order."""
    validation: float = 0.1
    """Share of the rows."""
    test: float = 0.1
    letters: int = 5
    """Of `similarity`: length of the stretches that are compared."""
    threshold: float = 0.5
    """Of `similarity`: share of common stretches from which two texts are alike."""
    seed: int = 0


@said_plainly
def split(
    source: str | Path,
    folder: str | Path,
    how: Parting,
    *,
    suffix: str = ".jsonl",
    say: Say = say_nothing,
) -> Mapping[str, int]:
    """Write `train`, `validation` and `test` into a folder; how many rows each has.

    Args:
        source: a file, or a pattern of files that have the same columns.
        folder: is made; none of the files is written over.
        how: rows are dealt.
        suffix: of the files, by which their kind is known.
        say: told what is fetched, and how large the groups are.

    Raises:
        UsageError: a file is there; a share, or a column that is needed and not named.
        DataError: the rows cannot be read, or too few groups for the shares.
    """
    shares = (1 - how.validation - how.test, how.validation, how.test)
    if not 0 < shares[0] <= 1 or min(shares) < 0:
        raise UsageError(
            f"shares of validation and test: found {how.validation:g} and {how.test:g}; they leave nothing"
        )
    outs = {name: Path(folder) / f"{name}{suffix}" for name in SPLITS}
    for out in outs.values():
        check_new(out)
    raws = [read_file(name, path, "utf-8") for name, path in find_files(str(source), Path(), say)]
    split_N = _dealt(raws, how, shares, say)
    counts = np.bincount(split_N, minlength=3)
    if any(not count and share for count, share in zip(counts, shares, strict=True)):
        names = ", ".join(f"{name} {count:,}" for name, count in zip(SPLITS, counts, strict=True))
        raise one_error(str(source), "", f"its rows stand in too few groups for these shares: {names}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([0, *(raw.rows for raw in raws)])
    for number, name in enumerate(SPLITS):
        if counts[number]:
            kept = [split_N[first:end] == number for first, end in itertools.pairwise(ends)]
            write_rows(outs[name], raws, say, kept)
    return {name: int(count) for name, count in zip(SPLITS, counts, strict=True)}


def _dealt(raws: Sequence[Raw], how: Parting, shares: Sequence[float], say: Say) -> np.ndarray:
    """(N,) int64: 0 to train, 1 to validation, 2 to test."""
    rows = sum(raw.rows for raw in raws)
    if how.by == "time":
        order = _order(raws, how.time)
        last = np.floor(np.cumsum(shares) * rows + 0.5).astype(np.int64)
        found = np.zeros(rows, np.int64)
        found[order[last[0] : last[1]]], found[order[last[1] :]] = 1, 2
        return found
    if how.by == "last":
        return _last(_codes(_column(raws, how.column, "--column")), _order(raws, how.time), how)
    groups = np.arange(rows)
    if how.by == "column":
        groups = _codes(_column(raws, how.column, "--column"))
    elif how.by == "similarity":
        texts = _column(raws, how.column or "text", "--column")
        groups = groups_of_alike(
            [str(text or "") for text in texts], letters=how.letters, threshold=how.threshold
        )
    sizes = np.bincount(groups)
    sizes = sizes[sizes > 0]
    if how.by != "rows":
        say(f"{rows:,} rows in {len(sizes):,} groups, the largest of {sizes.max():,}")
    return _by_groups(groups, shares, how.seed)


def _by_groups(groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Groups in a random order, the large ones first, each to the split that lacks most."""
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    wanted = np.array(shares) * len(groups)
    held, split = np.zeros(3), np.zeros(len(names), np.int64)
    for group in order:
        lack = np.where(wanted > 0, wanted - held, -np.inf)
        split[group] = int(np.argmax(lack))
        held[split[group]] += sizes[group]
    return split[members]


def _last(codes: np.ndarray, order: np.ndarray, how: Parting) -> np.ndarray:
    """Of each value the latest to test and the one before it to validation, as far as both are wanted; who has fewer
    than three rows is training alone.
    """
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    by_value = np.lexsort((place, codes))
    counts = np.bincount(codes)
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    from_end = np.empty(len(codes), np.int64)
    from_end[by_value] = np.repeat(counts, counts) - 1 - rank
    enough = counts[codes] >= 3
    found = np.zeros(len(codes), np.int64)
    steps = [number for number, share in ((2, how.test), (1, how.validation)) if share]
    for behind, number in enumerate(steps):
        found[enough & (from_end == behind)] = number
    return found


def _order(raws: Sequence[Raw], column: str | None) -> np.ndarray:
    """(N,) int64 rows from the earliest to the latest; equal ones as the file has them."""
    if column is None:
        return np.arange(sum(raw.rows for raw in raws))
    values = _column(raws, column, "--time")
    places = [raw.where(row) for raw in raws for row in range(raw.rows)]
    missing = [where for where, value in zip(places, values, strict=True) if value is None]
    if missing:
        raise data_error([Problem(where=where, key=column, what="no time") for where in missing])
    return np.argsort(_comparable(values), kind="stable")


def _comparable(values: Sequence[object]) -> np.ndarray:
    """Numbers as numbers, also where a file has them as text; the rest as text, as ISO's dates are in order."""
    try:
        return np.array([float(str(value)) for value in values])
    except ValueError:
        return np.array([str(value) for value in values])


def _column(raws: Sequence[Raw], name: str | None, flag: str) -> list[object]:
    """Values of all files, missing ones as None.

    Raises:
        UsageError: it is not named.
        DataError: there is no such column.
    """
    if name is None:
        raise UsageError(f"{flag}: none given; name the column")
    found: list[object] = []
    for raw in raws:
        if name not in raw.columns:
            raise one_error(raw.name, flag, f"no column {name!r}{nearest(name, raw.columns)}")
        values = map(plain, values_of(raw.load([name])[name]))
        found += [
            None if not isinstance(value, (list, dict)) and is_missing(value) else value for value in values
        ]
    return found


def _codes(values: Sequence[object]) -> np.ndarray:
    """(N,) int64: equal values have equal ones; each missing value is alone."""
    numbers: dict[str, int] = {}
    return np.array(
        [
            numbers.setdefault(f"missing {row}" if value is None else f"value {value!r}", len(numbers))
            for row, value in enumerate(values)
        ],
        np.int64,
    )

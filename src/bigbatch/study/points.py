"""The points of a sweep: the product of its axes, each with a name that its folder can have."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bigbatch.errors import UsageError

_OPENING = {"[": "]", "{": "}", "(": ")"}
_FIXED = ("run", "launch", "observers")
"""Sections that say where a run goes and who watches it; the sweep's own business."""
_UNFIT = re.compile(r"[^A-Za-z0-9.+_-]+")
_LONGEST_NAME = 96


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One `--over`: keys of the recipe, and the values they take together."""

    keys: tuple[str, ...]
    """Usually one; `optimizer.name+optimizer.lr` are two that move together."""
    values: tuple[tuple[str, ...], ...]
    """As typed, one for each key."""

    @property
    def is_seed(self) -> bool:
        """Whether its points are repetitions of each other."""
        return all(is_seed(key) for key in self.keys)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run of the sweep."""

    name: str
    """Of its folder."""
    values: Mapping[str, str]
    """Recipe key -> value, as typed."""

    @property
    def words(self) -> list[str]:
        """`key=value`, as on the command line."""
        return [f"{key}={value}" for key, value in self.values.items()]


def is_seed(key: str) -> bool:
    """`seed`, `seed.data`, …"""
    return key.split(".")[0] == "seed"


def read_axis(word: str) -> Axis:
    """`batch.samples=16,64,256`; commas in brackets and quotes belong to a value: `k=[1,2],[3]`.

    Keys that move together are joined: `optimizer.name+optimizer.lr=adamw+5e-4,lamb+6e-3`.

    Raises:
        UsageError: no key or value, a value twice, or a key that a sweep cannot vary.
    """
    name, equals, text = word.partition("=")
    keys = tuple(key.strip() for key in name.split("+"))
    values = [value.strip() for value in _parts(text, ",")]
    if not equals or not all(keys) or not all(values):
        raise UsageError(f"--over {word}: expected KEY=VALUE,VALUE, such as batch.samples=16,64,256")
    for key in keys:
        if key.split(".")[0] in _FIXED:
            raise UsageError(f"--over {word}: {key} is the same for all points of a sweep")
    together = [
        tuple(part.strip() for part in _parts(value, "+")) if len(keys) > 1 else (value,) for value in values
    ]
    for value, parts in zip(values, together, strict=True):
        if len(parts) != len(keys):
            raise UsageError(f"--over {word}: {value} has {len(parts)} parts for {len(keys)} keys")
    if len(set(together)) < len(together):
        raise UsageError(f"--over {word}: a value is there twice")
    return Axis(keys=keys, values=tuple(together))


def points_of(axes: Sequence[Axis]) -> list[Point]:
    """The product. The first axis moves fastest: a sweep that is cut short has all of it for the first seed.

    Raises:
        UsageError: no axis, or a key on two of them.
    """
    if not axes:
        raise UsageError("a sweep needs at least one --over KEY=VALUE,VALUE")
    keys = [key for axis in axes for key in axis.keys]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise UsageError(f"--over: {', '.join(twice)} is there twice")
    points = []
    for chosen in itertools.product(*(axis.values for axis in reversed(axes))):
        values = {
            key: value
            for axis, parts in zip(axes, reversed(chosen), strict=True)
            for key, value in zip(axis.keys, parts, strict=True)
        }
        points.append(Point(name=_name(values), values=values))
    return points


def _name(values: Mapping[str, str]) -> str:
    """`batch.samples-16,seed-0`; where something does not fit into a file's name, with a hash of all of it."""
    whole = ",".join(f"{key}-{value}" for key, value in values.items())
    name = ",".join(f"{key}-{_UNFIT.sub('_', value)}" for key, value in values.items())
    if name == whole and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _parts(text: str, comma: str) -> list[str]:
    """The text cut at commas outside brackets and quotes; at a `+` only where it is no exponent's sign."""
    parts, closing, quote = [""], "", ""
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPENING:
            closing += _OPENING[letter]
        elif closing and letter == closing[-1]:
            closing = closing[:-1]
        elif letter == comma and not closing and not (comma == "+" and re.search(r"\d[eE]$", text[:index])):
            parts.append("")
            continue
        parts[-1] += letter
    return parts

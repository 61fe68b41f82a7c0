"""Who writes what of a checkpoint, and how the parts of one tensor fit together again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from bigbatch.errors import CheckpointError

Region = tuple[tuple[int, ...], tuple[int, ...]]
"""Index of the first element, and number of elements, in every dimension."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """The part of a tensor that this rank holds."""

    shape: tuple[int, ...]
    """Of the whole tensor."""
    offset: tuple[int, ...]
    """Index of the local part's first element in every dimension."""
    local: Tensor
    """As many dimensions as the whole tensor; may be empty."""


def dealt(tensors: Mapping[str, Tensor], rank: int, size: int) -> dict[str, Tensor]:
    """This rank's share of tensors that every rank holds: each is written once, by the rank with least to write.

    Args:
        tensors: the same names and sizes on every rank; the order does not matter.
        rank: this process.
        size: all processes.
    """
    loads = [0] * size
    owner: dict[str, int] = {}
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        least = min(range(size), key=lambda each: (loads[each], each))
        owner[name] = least
        loads[least] += tensors[name].nbytes
    return {name: tensor for name, tensor in tensors.items() if owner[name] == rank}


def overlap(one: Region, other: Region) -> Region | None:
    """The elements that lie in both; None when there are none."""
    begin = tuple(max(a, b) for a, b in zip(one[0], other[0], strict=True))
    ends = (min(a + n, b + m) for a, n, b, m in zip(one[0], one[1], other[0], other[1], strict=True))
    shape = tuple(end - start for start, end in zip(begin, ends, strict=True))
    return None if any(count <= 0 for count in shape) else (begin, shape)


def within(region: Region, outer: Region) -> tuple[slice, ...]:
    """Where `region` lies in a tensor that holds exactly `outer`."""
    starts = [start - base for start, base in zip(region[0], outer[0], strict=True)]
    return tuple(slice(start, start + count) for start, count in zip(starts, region[1], strict=True))


def check_cover(name: str, shape: Sequence[int], regions: Sequence[Region]) -> None:
    """Refuse slices that are not each element exactly once.

    Args:
        name: of the tensor, for messages.
        shape: of the whole tensor.
        regions: (offset, shape) of each slice.

    Raises:
        CheckpointError: one lies outside, two overlap, or something is missing.
    """
    whole: Region = ((0,) * len(shape), tuple(shape))
    filled = [region for region in regions if math.prod(region[1])]
    if any(len(region[0]) != len(shape) or overlap(region, whole) != region for region in filled):
        raise CheckpointError(f"a slice of {name} lies outside {tuple(shape)}")
    open_: list[Region] = []
    for region in sorted(filled):  # only those that still reach this first index can overlap
        if shape:
            open_ = [each for each in open_ if each[0][0] + each[1][0] > region[0][0]]
        if any(overlap(each, region) for each in open_):
            raise CheckpointError(f"two slices of {name} overlap")
        open_.append(region)
    if sum(math.prod(region[1]) for region in filled) != math.prod(shape):
        raise CheckpointError(f"incomplete: the slices of {name} do not cover {tuple(shape)}")

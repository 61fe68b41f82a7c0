"""Tokens of a split as files that another machine streams while it trains: an index, lengths, and a file a shard.

::

    FOLDER/bigbatch-tokens.json      the index: what the tokens were made by, and each file with its size and SHA-256
    FOLDER/lengths.safetensors       entries of each sample in each stream, all samples: what batches are cut by
    FOLDER/00000.safetensors         columns of one shard, `stream.column`; one file is one download

A reader believes the index and nothing else: a file that is not the one it names is refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from bigbatch.documents import Count, checked
from bigbatch.errors import DataError, Problem
from bigbatch.stored import Damaged, check_plain, json_value, open_plain

LENGTHS = "lengths.safetensors"
FORMAT = 1
MOST_INDEX_BYTES = 2**26
_MOST_HEADER_BYTES = 2**20
_NUMBERS = {
    "I8": "|i1", "U8": "|u1", "BOOL": "|b1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8",
    "U64": "<u8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
"""Names in safetensors -> numpy's."""

_Plain = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.[A-Za-z0-9_-]{1,20}){0,3}$")]
"""A file beside the index: no folder, no `..`, no link's or device's path."""
_Sum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Column = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}\.[A-Za-z0-9_.-]{1,100}$")]


class PublishedFile(TypedDict):
    """A file beside the index."""

    file: _Plain
    bytes: Count
    sha256: _Sum


class Shard(PublishedFile):
    """One shard."""

    samples: Count


class _Layout(TypedDict):
    dtype: Literal["|i1", "|u1", "|b1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
    shape: Annotated[list[Count], Field(max_length=3)]


class IndexFile(TypedDict):
    """bigbatch-tokens.json."""

    format: int
    made: dict[str, object]
    labels: list[str]
    tokenised: bool
    truncated_samples: Count
    idle_samples: Count
    weights: Literal["zeros and ones", "any"]
    columns: dict[_Column, _Layout]
    lengths: PublishedFile
    shards: Annotated[list[Shard], Field(min_length=1, max_length=100_000)]


@dataclass(frozen=True, eq=False)
class Index:
    """An index that was read, and where."""

    place: str
    """Path or address of the index as typed; secrets included."""
    shown: str
    """For people."""
    known: IndexFile
    digest: str
    """SHA-256 of all that it says: the content of every file follows from it."""

    @property
    def shards(self) -> list[Shard]:
        """In the order of the split."""
        return self.known["shards"]

    @cached_property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        return [shard["samples"] for shard in self.shards]

    @property
    def samples(self) -> int:
        """Of all shards."""
        return sum(self.sizes)


def read_index(place: str, shown: str, path: Path) -> Index:
    """The index in a file.

    Args:
        place: as typed.
        shown: without secrets, for messages.
        path: the file.

    Raises:
        DataError: it is none, or names files that no folder should have.
    """
    try:
        if check_plain(path) > MOST_INDEX_BYTES:
            raise Damaged(
                f"an index of more than {MOST_INDEX_BYTES // 2**20} MiB; publish fewer, larger shards"
            )
        with open_plain(path) as file:
            content = file.read(MOST_INDEX_BYTES + 1)
        found = json_value(content.decode("utf-8"))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise Damaged(f"not an index of format {FORMAT}; publish it with this version")
        known = checked(found, IndexFile)
        names = [known["lengths"]["file"], *(shard["file"] for shard in known["shards"])]
        if len({name.lower() for name in names}) < len(names):
            raise Damaged("two of its files have one name, or names that differ in case alone")
    except (OSError, ValueError) as error:
        raise DataError([Problem(where=shown, what=f"cannot be used: {error}")]) from None
    return Index(place, shown, known, hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest())


def layout_of(path: Path) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
    """Column -> (dtype, shape, first byte) of a safetensors file, each within the file.

    Raises:
        Damaged: it is none.
        OSError: not there.
    """
    size = check_plain(path)
    with open_plain(path) as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_MOST_HEADER_BYTES, size - 8):
            raise Damaged("no safetensors file")
        header = json_value(file.read(length).decode("utf-8", "replace"))
    found = {}
    for name, about in header.items() if isinstance(header, dict) else ():
        if name == "__metadata__":
            continue
        try:
            dtype = np.dtype(_NUMBERS[about["dtype"]])
            shape, (first, end) = tuple(map(int, about["shape"])), map(int, about["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise Damaged("no safetensors file") from None
        # As Python's numbers: a product of shapes that overflows is no product.
        wanted = dtype.itemsize
        for part in shape:
            wanted *= part
        if min(first, end, *shape, 0) < 0 or end - first != wanted or 8 + length + end > size:
            raise Damaged("its header tells of more than it holds")
        found[name] = (dtype, shape, 8 + length + first)
    return found


class ShardFacts(TypedDict):
    """What a shard says of itself."""

    key: str
    samples: int
    truncated: int
    idle: int
    fractions: int


def facts_of(path: Path) -> ShardFacts:
    """What a shard that was written here says of itself: `key`, and counts.

    Raises:
        Damaged: it says nothing.
        OSError: not there.
    """
    layout_of(path)
    with open_plain(path) as file:
        header = json_value(file.read(struct.unpack("<Q", file.read(8))[0]))
    about = header.get("__metadata__") if isinstance(header, dict) else None
    said = about.get("facts") if isinstance(about, dict) else None
    # One text: safetensors writes several in any order, and the same tokens are the same bytes.
    return checked(json_value(said) if isinstance(said, str) else None, ShardFacts)


def columns_of(path: Path) -> dict[str, np.ndarray]:
    """Column -> its values, mapped read-only.

    Raises:
        Damaged: no safetensors file.
        OSError: not there.
    """
    found = {}
    for name, (dtype, shape, first) in layout_of(path).items():
        empty = 0 in shape
        found[name] = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", first, shape)
    return found


def shard_problem(columns: Mapping[str, np.ndarray], index: Index, entries: Mapping[str, int]) -> str:
    """Why the columns of a shard are not those that the index tells of; empty if they are.

    Args:
        columns: of the file.
        index: names them.
        entries: stream -> how many the shard has of it.
    """
    for name, about in index.known["columns"].items():
        found, stream = columns.get(name), name.partition(".")[0]
        wanted = (entries.get(stream, -1), *about["shape"])
        if found is None or found.dtype != np.dtype(about["dtype"]) or found.shape != wanted:
            return f"its column {name} is not {about['dtype']} {wanted}"
    return ""

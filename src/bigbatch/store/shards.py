"""Tensors <-> safetensors files of a checkpoint, streamed, with a SHA-256 for each slice. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from typing_extensions import TypedDict

from bigbatch.documents import Count, checked
from bigbatch.errors import CheckpointError
from bigbatch.model.streams import CODES, aligned, header_bytes, raw_bytes
from bigbatch.store.durable import FILES, Buffer, FileOps, write_file
from bigbatch.store.stored_index import whole
from bigbatch.stored import Damaged, check_plain, json_value, open_plain

SHARD_BYTES = 2**30


class _Entry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Count]
    data_offsets: Annotated[list[Count], Field(min_length=2, max_length=2)]


_HEADER = dict[str, _Entry]
_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in CODES}
_MAX_HEADER_BYTES = 100_000_000
"""The library's own limit; a damaged length must not become an allocation."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where one tensor lies in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    """First byte, from the start of the file."""
    size_bytes: int


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, `bfloat16`, …: how index.json names it."""
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    """Inverse of `dtype_name`.

    Raises:
        CheckpointError: not a type that checkpoints hold.
    """
    if name not in _BY_NAME:
        raise CheckpointError(f"unknown dtype {name!r}")
    return _BY_NAME[name]


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor], *, ops: FileOps = FILES) -> ShardFacts:
    """Write the tensors, widest type first so that each stays aligned, and force them to the disk.

    Args:
        path: of the new file.
        tensors: by name, on any device.
        ops: the calls of the system.

    Returns:
        Its size, and the digests of its header and of each tensor.
    """
    ordered = aligned(tensors)
    header = header_bytes(ordered)
    sums: dict[str, str] = {}

    def chunks() -> Iterator[Buffer]:
        yield header
        for name, tensor in ordered.items():
            data = raw_bytes(tensor)
            sums[name] = hashlib.sha256(data).hexdigest()
            yield data

    write_file(path, chunks(), ops=ops)
    return ShardFacts(
        size_bytes=len(header) + sum(tensor.nbytes for tensor in ordered.values()),
        header_sha256=hashlib.sha256(header).hexdigest(),
        tensor_sha256=sums,
    )


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What index.json must know to notice any change of the file."""

    size_bytes: int
    header_sha256: str
    """Of the length field and the JSON header."""
    tensor_sha256: Mapping[str, str]


def read_spans(path: Path, *, size_bytes: int, header_sha256: str) -> dict[str, Span]:
    """Where each tensor of a shard lies.

    Args:
        path: of the shard.
        size_bytes: that the index of the checkpoint names.
        header_sha256: as the index has it.

    Raises:
        CheckpointError: missing, of another size, or its header was changed; names the file.
    """
    with whole(path.name):
        found_bytes = check_plain(path)
        if found_bytes != size_bytes:
            raise CheckpointError(f"{path.name} has {found_bytes:,} bytes instead of {size_bytes:,}")
        with open_plain(path) as handle:
            length = handle.read(8)
            header = handle.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES))
    if hashlib.sha256(length + header).hexdigest() != header_sha256:
        raise CheckpointError(f"{path.name}: the checksum of its header does not match")
    try:
        return _spans(header, size_bytes)
    except Damaged as error:
        raise CheckpointError(f"{path.name}: its header {error}") from None


def _spans(header: bytes, size_bytes: int) -> dict[str, Span]:
    """What a header says, as far as its file can hold it.

    Raises:
        Damaged: another form, or places outside the file.
    """
    found = json_value(header)
    if not isinstance(found, dict):
        raise Damaged("holds no object")
    entries = checked({name: entry for name, entry in found.items() if name != "__metadata__"}, _HEADER)
    by_code = {code: dtype for dtype, code in CODES.items()}
    start = 8 + len(header)
    spans: dict[str, Span] = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        dtype = by_code.get(entry["dtype"])
        if dtype is None:
            raise Damaged(f"names an unknown dtype {entry['dtype'][:40]!r}")
        shape = tuple(entry["shape"])
        if start + end > size_bytes or end - begin != math.prod(shape) * dtype.itemsize:
            raise Damaged(f"places {name[:100]!r} where it cannot be")
        spans[name] = Span(dtype=dtype, shape=shape, begin=start + begin, size_bytes=end - begin)
    return spans


def read_tensor(path: Path, name: str, span: Span, sha256: str) -> torch.Tensor:
    """Read one tensor and check every bit of it.

    Args:
        path: of the shard.
        name: of the tensor, for messages.
        span: where it lies, and its type and shape.
        sha256: of its bytes.

    Raises:
        CheckpointError: cannot be read, or the checksum does not match; names file and tensor.
    """
    data = bytearray(span.size_bytes)
    try:
        with path.open("rb", buffering=0) as handle:
            handle.seek(span.begin)
            _read_into(handle, memoryview(data))
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path.name}: the checksum of {name} does not match")
    if not data:
        return torch.empty(span.shape, dtype=span.dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(span.dtype).reshape(span.shape)


def _read_into(handle: FileIO, view: memoryview) -> None:
    """Fill `view`; a file that ends early leaves zeros behind, which the checksum refuses."""
    while len(view):
        count = handle.readinto(view)
        if not count:
            return
        view = view[count:]

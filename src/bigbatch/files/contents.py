"""The bytes of a data file: of plain files only, unpacked as they are read, with an end.

The rule: a packed file (`.gz`, `.bz2`, `.zst`, and Parquet and Arrow, which pack by themselves) may hold `MOST_RATIO`
times its own size, and 256 MiB in any case. Text is packed 3 to 20 times; 4 MiB of `.gz` can stand for 4 GiB of
nothing. Whoever has such a file on purpose unpacks it: a text file as it is has no limit but the memory.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import pyarrow as pa

from bigbatch.stored import Damaged, check_plain, open_plain
from bigbatch.units import show_bytes

MOST_RATIO = 200
ALWAYS_BYTES = 2**28
ALWAYS_ROWS = 10_000_000
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
PACKED = tuple(_CODECS)
"""Suffixes behind the kind of file: `reviews.csv.gz`."""
_CHUNK_BYTES = 2**22


def content_of(path: Path) -> bytes:
    """All bytes of a file, unpacked where its suffix says that it is packed.

    Raises:
        Damaged: not a plain file, it unpacks to more than the rule allows, or holds nothing but NUL bytes for long.
        OSError, pa.ArrowException: it cannot be read or unpacked.
    """
    size_bytes = check_plain(path)
    codec = _CODECS.get(path.suffix.lower())
    most = None if codec is None else most_bytes(size_bytes)
    content = bytearray()
    with open_plain(path) as file, pa.input_stream(file, compression=codec) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            if len(chunk) == _CHUNK_BYTES == chunk.count(0):
                raise Damaged(
                    f"holds {show_bytes(len(chunk))} of NUL bytes from byte {len(content):,} on; it is damaged, "
                    "or is no text"
                )
            content += chunk
            if most is not None and len(content) > most:
                raise Damaged(too_much(size_bytes, most))
    return bytes(content)


def unpacked(content: bytes, codec: str) -> bytes:
    """Bytes that are packed within a file, within the same rule.

    Args:
        content: as it stands there.
        codec: `gzip` or `zlib`.

    Raises:
        Damaged: they cannot be unpacked, or to more than the rule allows.
    """
    machine = zlib.decompressobj(31 if codec == "gzip" else 15)
    most = most_bytes(len(content))
    try:
        found = machine.decompress(content, most + 1)
    except zlib.error as error:
        raise Damaged(f"cannot be unpacked ({codec}): {error}") from None
    if len(found) > most:
        raise Damaged(too_much(len(content), most))
    if not machine.eof:
        raise Damaged(f"is cut off ({codec})")
    if machine.unused_data and codec == "gzip":
        return found + unpacked(machine.unused_data, codec)
    return found


def most_bytes(size_bytes: int) -> int:
    """What a packed file of this size may hold."""
    return max(ALWAYS_BYTES, MOST_RATIO * size_bytes)


def too_much(size_bytes: int, most: int) -> str:
    """Why a file is refused."""
    return (
        f"unpacks to more than {show_bytes(most)}, from {show_bytes(size_bytes)}; if that is meant, unpack it first: "
        "a file that is not packed has no such limit"
    )


def check_rows(rows: int, size_bytes: int) -> None:
    """Whether a file of this size can hold so many rows.

    Raises:
        Damaged: it cannot.
    """
    if rows > max(ALWAYS_ROWS, MOST_RATIO * size_bytes):
        raise Damaged(f"says that it has {rows:,} rows in {show_bytes(size_bytes)}")

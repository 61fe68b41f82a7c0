"""Derived columns of a run: `RUN/derived/NAME.bin`, numbers as they are, and `NAME.json`, which says what they are.

The numbers lie split behind split, little-endian, fp64 if there is one a sample; vectors, which have a `width`, fp32;
never a pickle. The header has the SHA-256 of the numbers and,
for each split, of the tokens that they belong to. Its own checksum stands in identity.json: from then on exactly these
numbers are the run's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NotRequired

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from bigbatch.documents import checked
from bigbatch.store.durable import FILES, FileOps, atomic_write_bytes, atomic_write_json, make_folders
from bigbatch.stored import Damaged, read_bytes, read_object

_MOST_BYTES = 2**40


class _Split(TypedDict):
    samples: Annotated[int, Field(ge=0, lt=2**40)]
    of: str


class _Header(TypedDict):
    """NAME.json."""

    format: Literal[1]
    dtype: Literal["<f8", "<f4"]
    width: NotRequired[Annotated[int, Field(ge=1, lt=2**20)]]
    run_id: str
    splits: dict[str, _Split]
    sha256: str


def write_column(
    folder: Path,
    name: str,
    numbers: Mapping[str, np.ndarray],
    *,
    of: Mapping[str, str],
    run_id: str,
    ops: FileOps = FILES,
) -> str:
    """Make a column durable.

    Args:
        folder: `RUN/derived`; made.
        name: of the column.
        numbers: split -> (samples,) float64, or (samples, width) float32.
        of: split -> hash of what they were computed of.
        run_id: of the run.
        ops: the file operations.

    Returns:
        The checksum, for identity.json.

    Raises:
        DiskError: it cannot be written.
    """
    widths = {part.shape[1] for part in numbers.values() if part.ndim > 1}
    kind = "<f4" if widths else "<f8"
    content = b"".join(np.ascontiguousarray(part, kind).tobytes() for part in numbers.values())
    header: dict[str, object] = {
        "format": 1,
        "dtype": kind,
        **({"width": widths.pop()} if widths else {}),
        "run_id": run_id,
        "splits": {split: {"samples": len(part), "of": of[split]} for split, part in numbers.items()},
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    make_folders(folder, ops=ops)
    atomic_write_bytes(folder / f"{name}.bin", content, ops=ops)
    atomic_write_json(folder / f"{name}.json", header, ops=ops)
    return _checksum(header)


def read_column(
    folder: Path, name: str, *, of: Mapping[str, str], run_id: str, checksum: str | None
) -> tuple[dict[str, np.ndarray], str]:
    """A column that was written: split -> (samples,) float64 or (samples, width) float32; and its checksum.

    Args:
        folder: `RUN/derived`.
        name: of the column.
        of: split -> hash of what the numbers must belong to.
        run_id: of the run.
        checksum: as identity.json has it; None: it does not know the column yet.

    Raises:
        Damaged: torn, altered, or of something else; in words, to be put behind the file's name.
        OSError: not there, or not for us.
    """
    header = checked(read_object(folder / f"{name}.json"), _Header)
    if checksum is not None and _checksum(header) != checksum:
        raise Damaged("is another than identity.json says")
    if header["run_id"] != run_id:
        raise Damaged("is of another run")
    if {split: about["of"] for split, about in header["splits"].items()} != dict(of):
        raise Damaged("is of other rows")
    content = read_bytes(folder / f"{name}.bin", most_bytes=_MOST_BYTES)
    if hashlib.sha256(content).hexdigest() != header["sha256"]:
        raise Damaged(f"does not fit {name}.bin, which is torn or was altered")
    counts = [about["samples"] for about in header["splits"].values()]
    width, kind = header.get("width"), np.dtype(header["dtype"])
    if len(content) != kind.itemsize * (width or 1) * sum(counts):
        raise Damaged(f"does not fit {name}.bin, which has {len(content):,} bytes")
    found = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
    parts = np.split(found if width is None else found.reshape(-1, width), np.cumsum(counts)[:-1])
    return dict(zip(header["splits"], parts, strict=True)), _checksum(header)


def _checksum(header: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
